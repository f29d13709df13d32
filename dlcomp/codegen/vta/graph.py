"""A quantized ONNX graph to match on: producers, consumers, constants, shapes, and what is int8."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dlcomp.codegen.vta.operators import Tensor
from dlcomp.errors import UsageError
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.writer import attributes_of


@dataclass(frozen=True)
class Quantized:
    """An int8 value and the exponent of its scale: ``real = integer * 2**exponent``."""

    name: str
    exponent: int


class Graph:
    """``proto`` with its structure looked up."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.inputs = [v.name for v in proto.graph.input if v.name not in self.initializers]
        self.outputs = [v.name for v in proto.graph.output]
        graph = inferred(proto)
        typed = (*proto.graph.input, *graph.value_info, *graph.output)
        self.types = {value.name: value.type.tensor_type for value in typed}

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """What an initializer or a Constant node holds, or None."""
        if name in self.initializers:
            return np.asarray(numpy_helper.to_array(self.initializers[name]))
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant" and "value" in attributes_of(node):
            return np.asarray(numpy_helper.to_array(attributes_of(node)["value"]))
        return None

    def shape(self, name: str) -> tuple[int, ...]:
        """The static shape of a value.

        Raises
        ------
        UsageError
            It is not known, or has an open dimension.
        """
        kind = self.types.get(name)
        if name in self.initializers:
            return tuple(int(d) for d in self.initializers[name].dims)
        dims = [] if kind is None else list(kind.shape.dim)
        if kind is None or not kind.HasField("shape") or any(not d.HasField("dim_value") for d in dims):
            raise UsageError(
                f"the shape of {name!r} is not known, and the accelerator runs fixed shapes",
                hint="give every size: --shape, or shapes={...} when the model is loaded",
            )
        return tuple(int(d.dim_value) for d in dims)

    def tensor(self, name: str) -> Tensor | None:
        """An int8 value of rank 2 or 4 as a tensor, else None."""
        shape = self.shape(name)
        if len(shape) == 2:
            return Tensor(name, (shape[0], shape[1], 1, 1))
        if len(shape) == 4:
            return Tensor(name, (shape[0], shape[1], shape[2], shape[3]))
        return None

    def dequantized(self, name: str) -> Quantized | None:
        """What ``name`` is read back from, if that is int8 with a power of two and no zero point."""
        node = self.producer.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        exponent = self.exponent(node)
        return None if exponent is None else Quantized(str(node.input[0]), exponent)

    def exponent(self, node: onnx.NodeProto) -> int | None:
        """That of the scale of a node which quantizes to int8 (or reads it back), if it is a power of two."""
        exponents = self.exponents(node)
        if exponents is None or exponents.size != 1:
            return None
        return int(exponents.reshape(-1)[0])

    def exponents(self, node: onnx.NodeProto) -> npt.NDArray[np.int64] | None:
        """Those of one scale, or of one for each index of an axis."""
        scale = self.constant(node.input[1])
        zero = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if scale is None or zero is None or zero.any():
            return None
        mantissa, exponent = np.frexp(scale.astype(np.float64))
        return exponent.astype(np.int64) - 1 if (mantissa == 0.5).all() else None

    def is_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a QuantizeLinear makes int8."""
        zero = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return zero is not None and zero.dtype == np.int8

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads ``name``; None if there are more, or if it is an output."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None
