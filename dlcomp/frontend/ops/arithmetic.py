"""Element-wise operators, scans and norms that TVM's importer lacks or gets wrong for some types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from dlcomp.frontend.symbolic import dim_of

Expr = Any


def dtype_of(expr: Expr) -> str:
    """NumPy's name of a tensor expression's element type."""
    return str(expr.ty.dtype.dtype)


def shape_of(expr: Expr) -> list[Any]:
    """The shape of a tensor expression; an open dimension is an expression."""
    return [dim_of(extent) for extent in expr.ty.shape]


def number(value: float, like: Expr) -> Expr:
    """A scalar constant in the type of ``like``."""
    return relax.const(value, dtype_of(like))


def constant(value: np.ndarray) -> Expr:
    """A constant in the type of ``value``, which ``relax.const`` alone would narrow to 32 bits."""
    return relax.const(value, str(value.dtype))


def constant_of(expr: Expr) -> np.ndarray | None:
    """The value of a constant, or None."""
    return np.asarray(expr.value.numpy()) if hasattr(expr, "value") and hasattr(expr.value, "numpy") else None


def _pow(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Base and exponent may have different types; the result has the base's."""
    base, exponent = inputs[0], inputs[1]
    kind, other = dtype_of(base), dtype_of(exponent)
    if kind == other and "float" in kind:
        return None
    wide = kind if "float" in kind else "float64"
    result = relax.op.power(relax.op.astype(base, wide), relax.op.astype(exponent, wide))
    return result if wide == kind else relax.op.astype(relax.op.round(result), kind)


def _elu(inputs: Any, attrs: dict[str, Any]) -> Any:
    x = inputs[0]
    zero = number(0.0, x)
    below = relax.op.multiply(
        number(attrs.get("alpha", 1.0), x), relax.op.subtract(relax.op.exp(x), number(1.0, x))
    )
    return relax.op.where(relax.op.less(x, zero), below, x)


def _is_inf(inputs: Any, attrs: dict[str, Any]) -> Any:
    x = inputs[0]
    positive, negative = attrs.get("detect_positive", 1), attrs.get("detect_negative", 1)
    if "float" not in dtype_of(x):
        return None
    wide = relax.op.astype(x, "float64") if dtype_of(x) not in ("float32", "float64") else x
    infinity = number(float("inf"), wide)
    above = relax.op.equal(wide, infinity)
    below = relax.op.equal(wide, relax.op.negative(infinity))
    if positive and negative:
        return relax.op.logical_or(above, below)
    if positive or negative:
        return above if positive else below
    return relax.op.zeros(shape_of(x), "bool")


def _prelu(inputs: Any, attrs: dict[str, Any]) -> Any:
    """The slope broadcasts to the data from the right; old exporters give one a channel without the ones."""
    x, slope = inputs[0], inputs[1]
    dims, have = shape_of(x), shape_of(slope)
    if len(have) == 1 and len(dims) > 1 and have[0] == dims[1] and have[0] not in (1, dims[-1]):
        slope = relax.op.reshape(slope, [have[0]] + [1] * (len(dims) - 2))
    return relax.op.where(relax.op.less(x, number(0.0, x)), relax.op.multiply(x, slope), x)


def _cumulative(op: Any) -> Any:
    def convert(inputs: Any, attrs: dict[str, Any]) -> Any:
        x, axis = inputs[0], constant_of(inputs[1])
        if axis is None:
            raise ValueError("the axis must be a constant")
        place, kind = int(axis.reshape(-1)[0]) % len(shape_of(x)), dtype_of(x)
        reverse = bool(attrs.get("reverse", 0))
        if reverse:
            x = relax.op.flip(x, place)
        exclusive = bool(attrs.get("exclusive", 0))
        result = op(x, axis=place, dtype=kind, exclusive=exclusive)
        return relax.op.flip(result, place) if reverse else result

    return convert


def _lp_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    x, axis, p = inputs[0], int(attrs.get("axis", -1)), int(attrs.get("p", 2))
    if p == 1:
        norm = relax.op.sum(relax.op.abs(x), axis=axis, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis=axis, keepdims=True))
    # Of a vector of zeros the result is zeros.
    safe = relax.op.where(relax.op.equal(norm, number(0.0, x)), number(1.0, x), norm)
    return relax.op.divide(x, safe)


CONVERTERS: Mapping[str, Any] = {
    "CumProd": _cumulative(relax.op.cumprod),
    "CumSum": _cumulative(relax.op.cumsum),
    "Elu": _elu,
    "IsInf": _is_inf,
    "LpNormalization": _lp_normalization,
    "PRelu": _prelu,
    "Pow": _pow,
}
