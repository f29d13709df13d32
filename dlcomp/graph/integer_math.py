"""Division and remainder of integers that cannot stop the process.

A processor traps on a division by zero and on the least integer by -1. Here the first gives zero, as NumPy
has it, and the second wraps around.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

Expr = Any


def _guarded(a: Expr, b: Expr, quotient: Any) -> Expr:
    kind = str(a.ty.dtype)
    zero, one = tirx.const(0, kind), tirx.const(1, kind)
    if kind.startswith("uint"):
        return tirx.Select(b == zero, zero, quotient(a, tirx.Select(b == zero, one, b)))
    minus = tirx.const(-1, kind)
    trap = tirx.any(b == zero, b == minus)
    plain = quotient(a, tirx.Select(trap, one, b))
    return tirx.Select(b == zero, zero, tirx.Select(b == minus, zero - a, plain))


def divide(a: Expr, b: Expr) -> Expr:
    """The quotient, rounded towards zero."""
    return _guarded(a, b, tirx.truncdiv)


def floor_divide(a: Expr, b: Expr) -> Expr:
    """The quotient, rounded down."""
    return _guarded(a, b, tirx.floordiv)


def _remainder(a: Expr, b: Expr, remainder: Any) -> Expr:
    kind = str(a.ty.dtype)
    zero, one = tirx.const(0, kind), tirx.const(1, kind)
    trap = b == zero if kind.startswith("uint") else tirx.any(b == zero, b == tirx.const(-1, kind))
    return tirx.Select(trap, zero, remainder(a, tirx.Select(trap, one, b)))


def mod(a: Expr, b: Expr) -> Expr:
    """The remainder with the sign of the dividend (C's ``%``)."""
    return _remainder(a, b, tirx.truncmod)


def floor_mod(a: Expr, b: Expr) -> Expr:
    """The remainder with the sign of the divisor (Python's ``%``)."""
    return _remainder(a, b, tirx.floormod)
