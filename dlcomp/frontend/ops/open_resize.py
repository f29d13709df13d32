"""Resize of images of open size by whole-number arithmetic.

Which elements a result lies between is a quotient of integers for every way that ONNX has of laying one image
over the other, so nothing is rounded on the way to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from dlcomp.frontend.ops.arithmetic import shape_of
from dlcomp.frontend.recurrent import text
from dlcomp.frontend.symbolic import Dim, dim_of, divided, is_open, simplified, surely_equal, whole

Expr = Any
# How much larger an axis becomes: result, source.
Ratio = tuple[Dim, Dim]
COORDINATES = frozenset({"half_pixel", "asymmetric", "align_corners"})
_ROUNDING = frozenset({"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"})


def resized(
    t: Any,
    sizes: Sequence[Dim],
    axes: tuple[int, int],
    mode: str,
    coordinates: str,
    rounding: str,
    scales: Sequence[Fraction | None] = (None, None),
) -> Any:
    """``t`` (a te tensor) with ``axes`` of these ``sizes``.

    ``mode`` is nearest or linear. A scale is used where it is given, in place of the quotient of the sizes,
    which differs from it where the result's size was rounded.
    """
    sizes = [dim_of(size) for size in sizes]
    out = list(t.shape)
    for axis, size in zip(axes, sizes, strict=True):
        out[axis] = size

    def at(*places: Any) -> Any:
        taps = []
        for axis, size, scale in zip(axes, sizes, scales, strict=True):
            n = dim_of(t.shape[axis])
            p, q = _coordinate(places[axis], n, size, coordinates, scale)
            taps.append(_nearest(p, q, n, rounding) if mode == "nearest" else _between(p, q, n, str(t.dtype)))

        def read(y: Any, x: Any) -> Any:
            source = list(places)
            source[axes[0]], source[axes[1]] = y, x
            return t(*source)

        if mode == "nearest":
            return read(*taps)
        (top, bottom, down), (left, right, along) = taps
        upper = read(top, left) + (read(top, right) - read(top, left)) * along
        lower = read(bottom, left) + (read(bottom, right) - read(bottom, left)) * along
        return upper + (lower - upper) * down

    return te.compute(out, at, name="resize")


def _coordinate(i: Expr, n: Dim, m: Dim, coordinates: str, scale: Fraction | None) -> tuple[Expr, Dim]:
    """Where place ``i`` of ``m`` lies among ``n``, as a quotient."""
    if coordinates == "align_corners":
        last = m - 1
        return i * (n - 1), max(last, 1) if isinstance(last, int) else tirx.max(last, whole(1))
    more, less = (scale.numerator, scale.denominator) if scale is not None else _ratio(n, m)
    if coordinates == "asymmetric":
        return i * less, more
    return (2 * i + 1) * less - more, 2 * more


def _ratio(n: Dim, m: Dim) -> Ratio:
    """``m`` to ``n``, in numbers if one is surely a multiple of the other."""
    times = divided(m, n)
    if isinstance(times, int) and times > 0 and surely_equal(m, n * times):
        return times, 1
    times = divided(n, m)
    if isinstance(times, int) and times > 0 and surely_equal(n, m * times):
        return 1, times
    return m, n


def _clamped(place: Expr, n: Dim) -> Expr:
    return tirx.max(tirx.min(place, whole(simplified(n - 1))), whole(0))


def _nearest(p: Expr, q: Dim, n: Dim, rounding: str) -> Expr:
    q = whole(q)
    if rounding == "floor":
        place = tirx.floordiv(p, q)
    elif rounding == "ceil":
        place = -tirx.floordiv(-p, q)
    elif rounding == "round_prefer_ceil":
        place = tirx.floordiv(2 * p + q, 2 * q)
    else:
        place = -tirx.floordiv(q - 2 * p, 2 * q)
    return _clamped(place, n)


def _between(p: Expr, q: Dim, n: Dim, dtype: str) -> tuple[Expr, Expr, Expr]:
    """The elements before and behind, and how far from the first."""
    q = whole(q)
    before = tirx.floordiv(p, q)
    share = tirx.Cast(dtype, tirx.floormod(p, q)) / tirx.Cast(dtype, q)
    return _clamped(before, n), _clamped(before + 1, n), share


def convert(builder: Any, inputs: Any, known: Sequence[np.ndarray | None], attrs: Mapping[str, Any]) -> Any:
    """ONNX's Resize of an image of open size, by a factor or to a size."""
    x = inputs[0]
    given = shape_of(x)
    if len(given) != 4 or not is_open(given) or "axes" in attrs:
        return None
    scales, sizes = (
        None if len(known) <= place or known[place] is None else known[place].reshape(-1).tolist()  # type: ignore[union-attr]
        for place in (2, 3)
    )
    factors: list[Fraction | None] = [None] * 4
    if sizes:
        wanted = sizes
    elif scales:
        wanted = []
        for axis, (dim, scale) in enumerate(zip(given, scales, strict=True)):
            factors[axis] = factor = _fraction(float(scale))
            wanted.append(_times(dim, float(scale), factor))
    else:
        raise ValueError("the scales or sizes must be known when the model is loaded")
    mode, coordinates, rounding = (
        text(attrs.get(name, default))
        for name, default in (
            ("mode", "nearest"),
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    )
    image = all(surely_equal(a, b) for a, b in zip(given[:2], wanted[:2], strict=True))
    rare = attrs.get("antialias", 0) or text(attrs.get("keep_aspect_ratio_policy", "stretch")) != "stretch"
    if not image or rare or coordinates not in COORDINATES or mode not in ("nearest", "linear"):
        raise ValueError("this form of Resize needs static shapes: give --shape")
    if mode == "nearest" and rounding not in _ROUNDING:
        raise ValueError(f"the nearest_mode {rounding} needs static shapes: give --shape")
    if any(factor is not None and factor.denominator != 1 for factor in factors[2:]):

        def define(t: Any, out: Any) -> Any:
            return resized(t, out, (2, 3), mode, coordinates, rounding, factors[2:])

        return builder.emit_te(define, builder.normalize(x), wanted[2:], primfunc_name_hint="resize2d")
    return relax.op.image.resize2d(
        x,
        relax.ShapeExpr(wanted[2:]),
        roi=[0.0] * 4,
        layout="NCHW",
        method="nearest_neighbor" if mode == "nearest" else "linear",
        coordinate_transformation_mode=coordinates,
        rounding_method=rounding if mode == "nearest" else "round",
    )


def _fraction(scale: float) -> Fraction:
    ratio = Fraction(scale).limit_denominator(1024)
    if np.float32(float(ratio)) != np.float32(scale):
        raise ValueError(f"a Resize by {scale} needs static shapes: give --shape")
    return ratio


def _times(dim: Dim, scale: float, factor: Fraction) -> Dim:
    """floor(dim * scale)."""
    if isinstance(dim, int):
        return math.floor(dim * scale)
    return divided(dim * factor.numerator, factor.denominator)
