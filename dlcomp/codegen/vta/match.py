"""Finds the operators of a quantized network that the accelerator computes: dequantize, operate, quantize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dlcomp.codegen.vta.graph import Graph, Quantized
from dlcomp.codegen.vta.match_pooling import LARGEST_FACTOR, average_pool, concat, max_pool, mean
from dlcomp.codegen.vta.operators import (
    Conv,
    Operator,
    Requantize,
    Sum,
    Tensor,
)
from dlcomp.frontend.writer import attributes_of

# Amounts of a shift by register on which implementations agree.
_LARGEST_EXTRA = 15
_MOVES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True)
class Found:
    """What one pattern computes.

    Attributes
    ----------
    result : str
        Name of the int8 value, or of the int32 sums.
    operator : Operator or None
        None for a view: the elements of ``view`` in another shape.
    scale, real : numpy.ndarray and str, or None
        For sums, what makes them real numbers, one or one for each channel, and the name of those.
    """

    result: str
    operator: Operator | None
    view: str | None = None
    scale: npt.NDArray[np.float32] | None = None
    real: str | None = None


class Matcher:
    """Patterns over one graph, from its inputs on: views that were found change what later layers read."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.views: dict[str, Tensor] = {}

    def quantize(self, node: onnx.NodeProto) -> Found | None:
        """What ends in this QuantizeLinear, or None if it is no pattern."""
        graph = self.graph
        if node.op_type != "QuantizeLinear" or not graph.is_int8(node):
            return None
        exponent = graph.exponent(node)
        if exponent is None:
            return None
        name, low, high = str(node.input[0]), -128, 127
        while (base := graph.producer.get(name)) is not None and graph.only_reader(name) is not None:
            limits = self._limits(base, exponent)
            if limits is None:
                break
            low, high = max(low, limits[0]), min(high, limits[1])
            name = str(base.input[0])
        if base is None or graph.only_reader(name) is None or low > high:
            return None
        result = graph.tensor(str(node.output[0]))
        if result is None:
            return None
        if base.op_type in _MOVES:
            return self._view(base, result, exponent) if (low, high) == (-128, 127) else None
        makers: dict[str, Callable[..., Operator | None]] = {
            "Conv": self._layer, "Gemm": self._layer, "MatMul": self._layer, "Add": self._sum,
            "ConvTranspose": self._layer, "MaxPool": partial(max_pool, self), "Concat": partial(concat, self),
            "GlobalAveragePool": partial(mean, self), "AveragePool": partial(average_pool, self),
        }  # fmt: skip
        maker = makers.get(base.op_type)
        made = maker(base, result, exponent, low, high) if maker else None
        return Found(result.name, made) if made is not None else None

    def sums(self, node: onnx.NodeProto) -> Found | None:
        """A layer whose result stays a real number: its sums, which the host multiplies by their scale."""
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return None
        shape = self.graph.shape(str(node.output[0]))
        if len(shape) not in (2, 4):
            return None
        name = f"{node.output[0]}_sums"
        full = (shape[0], shape[1], shape[2], shape[3]) if len(shape) == 4 else (shape[0], shape[1], 1, 1)
        made = self._layer(node, Tensor(name, full), 0, -128, 127, wide=True)
        if made is None:
            return None
        extra = np.zeros(1, np.int64) if made.extra is None else made.extra
        scale = np.ldexp(np.float32(1.0), -(made.requantize.shift + extra)).astype(np.float32)
        return Found(name, replace(made, wide=True, extra=None), scale=scale, real=str(node.output[0]))

    def _limits(self, node: onnx.NodeProto, exponent: int) -> tuple[int, int] | None:
        if node.op_type == "Relu":
            return 0, 127
        if node.op_type != "Clip":
            return None
        ends = []
        for place, missing in ((1, -128.0), (2, 127.0)):
            name = node.input[place] if len(node.input) > place else ""
            value = self.graph.constant(name) if name else None
            if name and value is None:
                return None
            real = missing if value is None else float(np.rint(float(value.reshape(-1)[0]) * 2.0**-exponent))
            ends.append(int(np.clip(real, -128, 127)))
        return ends[0], ends[1]

    def operand(self, name: str) -> tuple[Tensor, Quantized] | None:
        """The int8 tensor behind an operand; a view is the tensor that it views."""
        found = self.graph.dequantized(name)
        if found is None or found.name in self.graph.initializers:
            return None
        tensor = self.views.get(found.name) or self.graph.tensor(found.name)
        return None if tensor is None else (tensor, found)

    def is_flattened(self, data: Quantized, tensor: Tensor) -> bool:
        """Whether a value has another shape than the tensor that it views."""
        seen = self.graph.tensor(data.name)
        return seen is None or seen.shape != tensor.shape

    def _view(self, node: onnx.NodeProto, result: Tensor, exponent: int) -> Found | None:
        operand = self.operand(str(node.input[0]))
        if operand is None or operand[1].exponent != exponent:
            return None
        tensor = operand[0]
        same = tensor.shape == result.shape
        flat = (tensor.shape[0], tensor.shape[1] * tensor.shape[2] * tensor.shape[3], 1, 1)
        if not same and result.shape != flat:
            return None
        self.views[result.name] = tensor
        return Found(result.name, None, view=tensor.name)

    def _layer(
        self, node: onnx.NodeProto, result: Tensor, exponent: int, low: int, high: int, wide: bool = False
    ) -> Conv | None:
        graph, attributes = self.graph, attributes_of(node)
        operand = self.operand(str(node.input[0]))
        dequantize = graph.producer.get(str(node.input[1]))
        if operand is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        tensor, data = operand
        weight, exponents = graph.constant(str(dequantize.input[0])), graph.exponents(dequantize)
        if weight is None or exponents is None or weight.dtype != np.int8:
            return None
        if node.op_type not in ("Conv", "ConvTranspose"):
            matrix = self._matrix(node, weight, tensor)
            if matrix is None:
                return None
            weight = matrix
        elif weight.ndim != 4 or (
            data.name in self.views and self.views[data.name] != graph.tensor(data.name)
        ):
            return None
        elif node.op_type == "ConvTranspose":
            turned = _turned(weight, int(attributes.get("group", 1)), exponents.size)
            if turned is None:
                return None
            weight = turned
        of_sums = data.exponent + exponents.reshape(-1)
        bias = self._bias(node, weight.shape[0], of_sums)
        if bias is None:
            return None
        shifts = exponent - of_sums
        geometry = _geometry(attributes) if node.op_type in ("Conv", "ConvTranspose") else {}
        if geometry is None:
            return None
        if node.op_type == "ConvTranspose":
            geometry["transposed"] = True
        extra = shifts - shifts.min()
        if extra.any() and shifts.size != weight.shape[0]:
            return None
        if extra.any() and not wide and (extra.max() > _LARGEST_EXTRA or shifts.min() < 0):
            return None
        how = Requantize(int(shifts.min()), low, high)
        per_channel = {"extra": extra} if extra.any() else {}
        return Conv(
            str(node.output[0]), tensor, result, weight.astype(np.int8), bias, how, **geometry, **per_channel
        )

    def _matrix(
        self, node: onnx.NodeProto, weight: npt.NDArray[Any], data: Tensor
    ) -> npt.NDArray[Any] | None:
        """A matrix as a kernel as large as the data."""
        attributes = attributes_of(node)
        if weight.ndim != 2 or attributes.get("transA", 0) or len(self.graph.shape(str(node.output[0]))) != 2:
            return None
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            return None
        rows = weight if attributes.get("transB", 0) else weight.T
        return np.ascontiguousarray(rows.reshape(rows.shape[0], *data.shape[1:]))

    def _bias(
        self, node: onnx.NodeProto, outputs: int, of_sums: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32] | None:
        """A bias of 32 bits in the scale of the sums; zeros if there is none, None if it is another kind."""
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(outputs, np.int32)
        dequantize = self.graph.producer.get(str(node.input[2]))
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        stored = self.graph.constant(str(dequantize.input[0]))
        exponents = self.graph.exponents(dequantize)
        if stored is None or exponents is None or not (exponents == of_sums).all():
            return None
        if stored.dtype != np.int32 or stored.size not in (1, outputs):
            return None
        return np.ascontiguousarray(np.broadcast_to(stored.reshape(-1), (outputs,)).astype(np.int32))

    def _sum(self, node: onnx.NodeProto, result: Tensor, exponent: int, low: int, high: int) -> Sum | None:
        found = [self.operand(str(name)) for name in node.input]
        if any(one is None or one[0].shape != result.shape for one in found):
            return None
        (left, a), (right, b) = (one for one in found if one is not None)
        finest = min(a.exponent, b.exponent)
        shifts = (a.exponent - finest, b.exponent - finest)
        if max(shifts) > LARGEST_FACTOR:
            return None
        how = Requantize(exponent - finest, low, high)
        return Sum(str(node.output[0]), left, right, result, *shifts, how)


def _turned(weight: npt.NDArray[Any], groups: int, scales: int) -> npt.NDArray[Any] | None:
    """The weight (I, O / groups, KH, KW) of a transposed convolution as (O, I / groups, KH, KW)."""
    if groups > 1 and scales > 1:
        return None
    inputs, outputs, rows, columns = weight.shape
    split = weight.reshape(groups, inputs // groups, outputs, rows, columns).swapaxes(1, 2)
    return np.ascontiguousarray(split.reshape(groups * outputs, inputs // groups, rows, columns))


def _geometry(attributes: Any) -> dict[str, Any] | None:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or "output_shape" in attributes:
        return None
    return {
        "strides": tuple(attributes.get("strides", (1, 1))),
        "pads": tuple(attributes.get("pads", (0, 0, 0, 0))),
        "dilations": tuple(attributes.get("dilations", (1, 1))),
        "groups": int(attributes.get("group", 1)),
    }
