"""A random network while it is drawn: its nodes, the values so far, and new inputs and constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, INT32, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64
BOOL, INT8, UINT8, HALF = TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16
NUMBERS = (FLOAT, FLOAT, FLOAT, FLOAT, INT64, INT32, DOUBLE)
# What can be moved about, though onnxruntime does not compute with all of it.
ANY = (*NUMBERS, INT8, UINT8, HALF, BOOL)


@dataclass
class Value:
    name: str
    shape: tuple[int, ...]
    kind: int


@dataclass
class Graph:
    """A network being drawn."""

    rng: np.random.Generator
    opset: int = 18
    # One in how many dimensions is of size 0; 0 for none.
    empty: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        rank = int(self.rng.integers(0, 5)) if rank is None else rank
        sizes = [1, 1, 2, 3, 4, 5, 7, 8, 9]
        shape = [int(self.rng.choice(sizes)) for _ in range(rank)]
        if self.empty:
            shape = [0 if self.rng.integers(self.empty) == 0 else d for d in shape]
        return tuple(shape)

    def array(self, shape: tuple[int, ...], kind: int) -> np.ndarray:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        if kind in (FLOAT, DOUBLE, HALF):
            return self.rng.standard_normal(shape).astype(dtype)
        if kind == BOOL:
            return np.asarray(self.rng.random(shape) > 0.5)
        return self.rng.integers(0 if kind == UINT8 else -9, 10, shape).astype(dtype)

    def input(self, shape: tuple[int, ...], kind: int) -> Value:
        value = Value(f"x{len(self.inputs)}", shape, kind)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def constant(self, array: Any, dtype: str | None = None) -> str:
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def value(self, kinds: tuple[int, ...] = NUMBERS, rank: int | None = None, least: int = 0) -> Value:
        """A value so far of one of ``kinds``, perhaps of a rank; a new input if there is none."""
        fits = [
            v
            for v in self.values
            if v.kind in kinds and (rank is None or len(v.shape) == rank) and len(v.shape) >= least
        ]
        if fits and self.rng.random() < 0.85:
            # The newest are likelier, so that graphs grow deep.
            return fits[max(int(self.rng.integers(len(fits))), int(self.rng.integers(len(fits))))]
        shape = self.shape(rank if rank is not None else int(self.rng.integers(least, 5)))
        return self.input(shape, int(self.pick(*kinds)))

    def partner(self, x: Value) -> str:
        """An operand that broadcasts with ``x``: a value, or a constant."""
        fits = [v for v in self.values if v.kind == x.kind and _broadcast(v.shape, x.shape)]
        if fits and self.rng.random() < 0.6:
            return str(self.pick(*fits).name)
        rank = int(self.rng.integers(0, len(x.shape) + 1))
        shape = tuple(d if self.rng.random() < 0.6 else 1 for d in x.shape[len(x.shape) - rank :])
        return self.constant(self.array(shape, x.kind))

    def knows(self, operator: str) -> bool:
        """Is ``operator`` one of this opset?"""
        return bool(onnx.defs.has(operator, self.opset))

    def emit(
        self,
        operator: str,
        operands: list[str],
        count: int = 1,
        axes: tuple[int, Sequence[int]] | None = None,
        **attributes: Any,
    ) -> list[str]:
        """A node and the names of its results.

        ``axes`` are an attribute in opsets below the first number of the pair, an operand from there on.
        """
        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        if axes is not None:
            since, values = axes
            name = "split" if operator == "Split" else "axes"
            if self.opset < since:
                attributes[name] = list(values)
            else:
                operands = [*operands, self.constant(values, "int64")]
        self.nodes.append(helper.make_node(operator, operands, names, **attributes))
        return names


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return int(np.prod(np.broadcast_shapes(a, b))) < 50_000
    except ValueError:
        return False
