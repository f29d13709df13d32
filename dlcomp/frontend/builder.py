"""ONNX nodes written one by one, each result's shape and type known at once.

What follows from constants alone is computed here, as TVM's own importers relied on: scales are often
products of scales. Networks of other formats (Relay text, TFLite) are written with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
Dims = tuple[int, ...]
OPEN = -1
# Elements: more than this is not computed at load, and never more than that is made.
_FOLDED, _MOST = 2**14, 2**31 - 1


@dataclass(frozen=True)
class Tensor:
    """A value of the network being written."""

    name: str
    shape: Dims
    dtype: str

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_integer(self) -> bool:
        return self.dtype.startswith(("int", "uint"))


class Builder:
    """The graph so far.

    Attributes
    ----------
    takes_open : bool
        Whether a dimension may be ``OPEN``, of a size that is known when the network runs.
    kept : frozenset of str
        Operators that stay in the network where their operands are constants.
    """

    takes_open = False
    kept: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.arrays: dict[str, np.ndarray] = {}

    def input(self, name: str, shape: Dims, dtype: str) -> Tensor:
        self._require_size(shape)
        self.inputs.append(helper.make_tensor_value_info(name, _kind(dtype), shape))
        return Tensor(name, shape, dtype)

    def constant(self, array: Any, dtype: str | None = None, name: str = "") -> Tensor:
        value = np.asarray(array, dtype and known_dtype(dtype))
        name = name or f"constant{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
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
        """A node with ``count`` results; constants if its operands are constants, and small.

        Raises
        ------
        ValueError
            If ONNX finds that the operands do not fit.
        """
        if any(not isinstance(x, Tensor | None) for x in operands):
            raise ValueError("a tuple or a function is no operand")
        names = [f"v{len(self.nodes)}" if count == 1 else f"v{len(self.nodes)}_{i}" for i in range(count)]
        given = [x.name if x is not None else "" for x in operands]
        node = helper.make_node(kind, given, names, name=names[0], **attributes)
        present = [x for x in operands if x is not None]
        results = self._inferred(node, present)
        if kind not in self.kept and all(x.name in self.arrays for x in present):
            size = sum(math.prod(x.shape) for x in (*present, *results))
            computed = self._computed(node, present, results) if size <= _FOLDED else None
            if computed is not None:
                return [self.constant(array) for array in computed]
        self.nodes.append(node)
        return results

    def _inferred(self, node: onnx.NodeProto, operands: Sequence[Tensor]) -> list[Tensor]:
        types = {x.name: helper.make_tensor_type_proto(_kind(x.dtype), _open_as_none(x)) for x in operands}
        data = {
            x.name: numpy_helper.from_array(self.arrays[x.name], x.name)
            for x in operands
            if x.name in self.arrays and self.arrays[x.name].size <= 64
        }
        schema = onnx.defs.get_schema(node.op_type, OPSET)
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data)
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"operands do not fit: {text[:160]}") from error
        results = []
        for name in node.output:
            tensor = found[name].tensor_type if name in found else onnx.TypeProto.Tensor()
            dims = tensor.shape.dim
            open_dims = any(not d.HasField("dim_value") for d in dims)
            if not tensor.HasField("shape") or (open_dims and not self.takes_open):
                raise ValueError("the shape of its result cannot be told")
            shape = tuple(int(d.dim_value) if d.HasField("dim_value") else OPEN for d in dims)
            self._require_size(shape)
            results.append(Tensor(name, shape, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
        return results

    def _computed(
        self, node: onnx.NodeProto, operands: Sequence[Tensor], results: Sequence[Tensor]
    ) -> list[np.ndarray] | None:
        """The results in ONNX's reference; None for what it cannot do, which then stays a node."""
        from onnx.reference import ReferenceEvaluator

        def info(x: Tensor) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(x.name, _kind(x.dtype), x.shape)

        inputs = {x.name: info(x) for x in operands}
        graph = helper.make_graph([node], "g", list(inputs.values()), [info(x) for x in results])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        try:
            with np.errstate(all="ignore"):
                made = ReferenceEvaluator(model).run(None, {name: self.arrays[name] for name in inputs})
        except Exception:
            return None
        return [np.asarray(array, x.dtype).reshape(x.shape) for array, x in zip(made, results, strict=True)]

    def _require_size(self, shape: Sequence[int]) -> None:
        known = [d for d in shape if not (self.takes_open and d == OPEN)]
        if min(known, default=1) < 0 or math.prod(known) > _MOST:
            raise ValueError(f"a tensor of the shape {list(shape)} is too large")

    # -- what many converters need ---------------------------------------------------------------------------

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x if x.dtype == dtype else self.op("Cast", [x], to=_kind(dtype))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``x`` in a shape of which one size may be -1."""
        known, size = math.prod(d for d in shape if d != -1), math.prod(x.shape)
        whole = [size // known if d == -1 and known else d for d in shape]
        if list(shape).count(-1) > 1 or min(whole, default=1) < 0 or math.prod(whole) != size:
            raise ValueError(f"{list(x.shape)} does not take the shape {list(shape)}")
        if tuple(whole) == x.shape:
            return x
        return self.op("Reshape", [x, self.constant(whole, "int64")], allowzero=int(0 in whole))

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """The axes in another order; a constant, of any size, is turned here."""
        if sorted(order) != list(range(x.rank)):
            raise ValueError(f"{list(order)} is no order of {x.rank} axes")
        if list(order) == list(range(x.rank)):
            return x
        if x.name in self.arrays:
            return self.constant(np.ascontiguousarray(self.arrays[x.name].transpose(order)))
        return self.op("Transpose", [x], perm=list(order))

    def number(self, value: Any, like: Tensor) -> Tensor:
        return self.constant(value, like.dtype)

    def filled(self, value: Any, shape: Sequence[int], dtype: str) -> Tensor:
        """One number everywhere."""
        return self.spread(self.constant(value, dtype), shape)

    def spread(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``x`` broadcast to ``shape``."""
        self._require_size(shape)
        if tuple(shape) == x.shape:
            return x
        return self.op("Expand", [x, self.constant(list(shape), "int64")])

    def along(self, x: Tensor, axis: int, rank: int) -> Tensor:
        """A row as it broadcasts along ``axis``; a single number as it is."""
        if math.prod(x.shape) == 1:
            return self.reshape(x, [])
        if x.rank != 1 or not -rank <= axis < rank:
            raise ValueError(f"{list(x.shape)} is no row along axis {axis} of {rank}")
        return self.reshape(x, [-1 if d == axis % rank else 1 for d in range(rank)])


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"there is no axis {axis} in {rank} dimensions")
    return axis % max(rank, 1)


def _open_as_none(x: Tensor) -> list[int | None]:
    return [None if d == OPEN else d for d in x.shape]


def _kind(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(known_dtype(dtype))))


def known_dtype(dtype: str) -> str:
    """``dtype`` if it is an element type that NumPy and ONNX have."""
    if not re.fullmatch(r"float(16|32|64)|u?int(8|16|32|64)|bool", dtype):
        raise ValueError(f"the element type {dtype} is not supported")
    return dtype
