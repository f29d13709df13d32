"""Walking and rebuilding scalar TensorIR expressions, which TVM's Python interface has no functor for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad


class UnknownExpression(Exception):
    """An expression kind that the rewriter does not know; the caller leaves the function alone."""


def rewrite(expr: Any, replace: Callable[[Any], Any | None]) -> Any:
    """``expr`` rebuilt bottom-up; where ``replace(node)`` is not None it stands in the node's place.

    ``replace`` sees a node before its children, and what it returns is not visited again.
    """
    new = replace(expr)
    if new is not None:
        return new

    def go(child: Any) -> Any:
        return rewrite(child, replace)

    if isinstance(expr, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return expr
    if isinstance(expr, TensorLoad):
        return tirx.BufferLoad(expr.source, [go(i) for i in expr.indices])
    if isinstance(expr, tirx.Not):
        return tirx.Not(go(expr.a))
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(expr.ty.dtype, go(expr.value))
    if isinstance(expr, tirx.Select):
        return tirx.Select(go(expr.condition), go(expr.true_value), go(expr.false_value))
    if isinstance(expr, tirx.Let):
        return _fresh_let(expr, go(expr.value), replace)
    if isinstance(expr, Call):
        return Call(expr.op, [go(a) for a in expr.args], expr.attrs, ret_ty=expr.ty)
    if hasattr(expr, "a") and hasattr(expr, "b"):  # arithmetic, comparison, logic, shifts
        return type(expr)(go(expr.a), go(expr.b))
    raise UnknownExpression(type(expr).__name__)


def _fresh_let(let: Any, value: Any, replace: Callable[[Any], Any | None]) -> Any:
    """The binding with a variable of its own: an expression may be written out many times in a kernel."""
    fresh = tirx.Var(let.var.name, let.var.ty)

    def renamed(node: Any) -> Any | None:
        return fresh if isinstance(node, tirx.Var) and node.same_as(let.var) else replace(node)

    return tirx.Let(fresh, value, rewrite(let.body, renamed))


def loads(expr: Any) -> Iterator[Any]:
    """Every tensor read in ``expr``."""
    found: list[Any] = []

    def note(node: Any) -> None:
        if isinstance(node, TensorLoad):
            found.append(node)

    rewrite(expr, note)
    yield from found


def same_index(indices: Sequence[Any], iter_vars: Sequence[Any]) -> bool:
    """Whether each index is its block variable, or the constant that a dimension of one leaves.

    A constant under a longer dimension is a broadcast: the same element is read many times.
    """
    return len(indices) == len(iter_vars) and all(
        i.same_as(v.var) or (isinstance(i, tirx.IntImm) and int(v.dom.extent) == 1)
        for i, v in zip(indices, iter_vars, strict=True)
    )
