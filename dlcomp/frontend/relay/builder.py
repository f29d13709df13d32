"""ONNX nodes written one by one, each result's shape and type known at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
Dims = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A value of the network being written."""

    name: str
    shape: Dims
    dtype: str


class Builder:
    """The graph so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.arrays: dict[str, np.ndarray] = {}

    def input(self, name: str, shape: Dims, dtype: str) -> Tensor:
        self.inputs.append(helper.make_tensor_value_info(name, _kind(dtype), shape))
        return Tensor(name, shape, dtype)

    def constant(self, array: Any, dtype: str | None = None, name: str = "") -> Tensor:
        value = np.asarray(array, dtype)
        name = name or f"constant{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(value, name))
        self.arrays[name] = value
        return Tensor(name, value.shape, str(value.dtype))

    def array(self, value: Tensor, what: str) -> np.ndarray:
        """The elements of a constant."""
        if value.name not in self.arrays:
            raise ValueError(f"{what} must be a constant")
        return self.arrays[value.name]

    def op(self, kind: str, operands: Sequence[Tensor | None], **attributes: Any) -> Tensor:
        return self.ops(kind, operands, 1, **attributes)[0]

    def ops(
        self, kind: str, operands: Sequence[Tensor | None], count: int, **attributes: Any
    ) -> list[Tensor]:
        """A node with ``count`` results.

        Raises
        ------
        ValueError
            If ONNX finds that the operands do not fit.
        """
        names = [f"v{len(self.nodes)}" if count == 1 else f"v{len(self.nodes)}_{i}" for i in range(count)]
        given = [x.name if x is not None else "" for x in operands]
        node = helper.make_node(kind, given, names, name=names[0], **attributes)
        present = [x for x in operands if x is not None]
        types = {x.name: helper.make_tensor_type_proto(_kind(x.dtype), x.shape) for x in present}
        data = {
            x.name: numpy_helper.from_array(self.arrays[x.name], x.name)
            for x in present
            if x.name in self.arrays and self.arrays[x.name].size <= 64
        }
        schema = onnx.defs.get_schema(kind, OPSET)
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data)
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"operands do not fit: {text[:160]}") from error
        self.nodes.append(node)
        results = []
        for name in names:
            tensor = found[name].tensor_type
            if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
                raise ValueError("the shape of its result cannot be told")
            shape = tuple(int(d.dim_value) for d in tensor.shape.dim)
            results.append(Tensor(name, shape, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
        return results

    # -- what many converters need ---------------------------------------------------------------------------

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x if x.dtype == dtype else self.op("Cast", [x], to=_kind(dtype))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        if tuple(shape) == x.shape:
            return x
        return self.op("Reshape", [x, self.constant(list(shape), "int64")])

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        if list(order) == list(range(len(order))):
            return x
        return self.op("Transpose", [x], perm=list(order))

    def number(self, value: Any, like: Tensor) -> Tensor:
        return self.constant(value, like.dtype)

    def along(self, x: Tensor, axis: int, rank: int) -> Tensor:
        """A row as it broadcasts along ``axis``; a single number as it is."""
        if int(np.prod(x.shape, dtype=int)) == 1:
            return self.reshape(x, [])
        return self.reshape(x, [-1 if d == axis % rank else 1 for d in range(rank)])


def _kind(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
