"""Tensors whose dimensions lie in memory in another order than the network names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import IRModule, relax

from dlcomp.graph.walk import array_of, builder_without_main, constant, shape_of

Expr = Any
Order = tuple[int, ...]


def identity(rank: int) -> Order:
    return tuple(range(rank))


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in memory: ``order[i]`` is the logical dimension stored at position i."""

    expr: Expr
    order: Order

    @property
    def rank(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The logical shape."""
        stored = shape_of(self.expr)
        assert stored is not None
        return tuple(stored[self.order.index(d)] for d in range(self.rank))

    @property
    def is_plain(self) -> bool:
        """Whether the tensor lies in its logical order."""
        return self.order == identity(self.rank)


# What an old variable stands for: a tensor, the elements of a tuple of tensors, or any other expression.
Value = Any


class Values:
    """The function being written: what each old variable became, and the transposes made so far."""

    def __init__(self, module: IRModule) -> None:
        self.builder = builder_without_main(module)
        self.env: dict[Any, Value] = {}
        self._moved: dict[tuple[Any, Order], Expr] = {}

    def stored(self, expr: Expr) -> Stored:
        """Where an argument lies."""
        found = self.env.get(expr, expr) if isinstance(expr, relax.Var) else expr
        if isinstance(found, Stored):
            return found
        shape = shape_of(found)
        if shape is None:
            raise ValueError("a value without a shape")
        return Stored(found, identity(len(shape)))

    def plain(self, expr: Expr) -> Expr:
        """``expr`` with everything in logical order."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.plain(f) for f in expr.fields])
        if not isinstance(expr, relax.Var):
            return expr
        found = self.env.get(expr, expr)
        if isinstance(found, tuple):
            return relax.Tuple([self.move(f, identity(f.rank)) for f in found])
        return self.move(found, identity(found.rank)) if isinstance(found, Stored) else found

    def move(self, value: Stored, order: Order) -> Expr:
        """``value`` stored in ``order``: at no cost if only dimensions of one move."""
        if value.order == order:
            return value.expr
        axes = [value.order.index(d) for d in order]
        array = array_of(value.expr)
        if array is not None:
            return constant(array.transpose(axes))
        key = (value.expr, tuple(axes))
        if key not in self._moved:
            shape = shape_of(value.expr)
            assert shape is not None
            solid = [a for a in axes if not isinstance(shape[a], int) or shape[a] != 1]
            if solid == sorted(solid):
                new = relax.op.reshape(value.expr, [shape[a] for a in axes])
            else:
                new = relax.op.permute_dims(value.expr, axes)
            self._moved[key] = self.builder.emit(new)
        return self._moved[key]

    def emit(self, call: Expr, order: Order) -> Stored:
        """A new tensor that lies in ``order``."""
        return Stored(self.builder.emit(call), order)
