"""Relay's requantization: integers of one scale as integers of another, to the bit.

A ratio of scales is a 31-bit fixed-point number and a shift; the product is rounded halves up (``UPWARD``,
the default) or away from zero (``TONEAREST``). This is what Relay computes in ``int64``, its default on every
target but x86, where releases from 0.9 on took ``float32`` unless the text says otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from dlcomp.frontend.builder import Builder, Tensor
from dlcomp.frontend.relay.elementwise import half_away

# A product of 32 by 31 bits, shifted further, is zero.
_FURTHEST = 62


def fixed_point(multiplier: float) -> tuple[int, int]:
    """``multiplier`` as (m, s): m / 2^31 * 2^s with m in [2^30, 2^31), or (0, 0)."""
    if not math.isfinite(multiplier) or multiplier < 0:
        raise ValueError(f"{multiplier} is no ratio of scales")
    if multiplier == 0:
        return 0, 0
    fraction, exponent = math.frexp(multiplier)
    whole = math.floor(fraction * 2**31 + 0.5)
    if whole == 2**31:
        whole //= 2
        exponent += 1
    return whole, exponent


def scaled(b: Builder, wide: Tensor, pairs: list[tuple[int, int]], axis: int, rounding: str) -> Tensor:
    """``wide`` (int64) times m / 2^31 * 2^s, one (m, s) for all or one for each along ``axis``."""
    rank = wide.rank

    def row(values: list[int]) -> Tensor:
        if len(values) == 1:
            return b.constant(values[0], "int64")
        return b.along(b.constant(values, "int64"), axis, rank)

    if max(shift for _, shift in pairs) > 31:
        raise ValueError("a ratio of scales above 2^31")
    pairs = [(m, s) if 31 - s <= _FURTHEST else (0, 0) for m, s in pairs]
    left = [1 << max(shift, 0) for _, shift in pairs]
    shifts = [31 + max(-shift, 0) for _, shift in pairs]
    if any(value != 1 for value in left):
        wide = b.op("Mul", [wide, row(left)])
    product = b.op("Mul", [wide, row([m for m, _ in pairs])])
    half = row([1 << (shift - 1) for shift in shifts])
    if rounding == "TONEAREST":
        below = row([(1 << (shift - 1)) - 1 for shift in shifts])
        half = b.op("Where", [b.op("GreaterOrEqual", [product, b.number(0, product)]), half, below])
    elif rounding != "UPWARD":
        raise ValueError(f"the rounding {rounding} is not supported")
    total = b.op("Add", [product, half])
    divisor = row([1 << shift for shift in shifts])
    # A shift rounds down, ONNX's division to zero.
    rest = b.op("Mod", [total, divisor])
    return b.op("Div", [b.op("Sub", [total, rest]), divisor])


def saturated(b: Builder, wide: Tensor, dtype: str) -> Tensor:
    """Integers or whole numbers held to what ``dtype`` can store."""
    info = np.iinfo(dtype)
    held = b.op("Max", [wide, b.number(info.min, wide)])
    return b.cast(b.op("Min", [held, b.number(info.max, wide)]), dtype)


def requantized(
    b: Builder, wide: Tensor, ratio: np.ndarray, zero: int, dtype: str, axis: int = -1, how: str = "UPWARD"
) -> Tensor:
    """``wide`` (int64, its zero point taken off) times ``ratio`` (float64), plus ``zero``, as ``dtype``."""
    if not np.all(ratio == 1.0):
        wide = scaled(b, wide, [fixed_point(float(r)) for r in ratio.reshape(-1)], axis, how)
    if zero:
        wide = b.op("Add", [wide, b.number(zero, wide)])
    return saturated(b, wide, dtype)


def requantized_in_floats(
    b: Builder, x: Tensor, ratio: np.ndarray, zero: int, dtype: str, axis: int, how: str
) -> Tensor:
    """The same where the text asks for float32 or float64 (the type of ``x``, its zero point taken off)."""
    if not np.all(ratio == 1.0):
        x = b.op("Mul", [x, b.along(b.constant(ratio.reshape(-1), x.dtype), axis, x.rank)])
    if zero:
        x = b.op("Add", [x, b.number(zero, x)])
    if how == "TONEAREST":
        x = half_away(b, x)
    else:
        x = b.op("Floor", [b.op("Add", [x, b.number(0.5, x)])])
    return saturated(b, b.cast(x, "int64"), dtype)
