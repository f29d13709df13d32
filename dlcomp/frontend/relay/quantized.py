"""Relay's quantized operators (``qnn.*``), with its integer arithmetic to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Builder, Tensor, axis_of
from dlcomp.frontend.relay.attributes import Attributes
from dlcomp.frontend.relay.convolution import convolve
from dlcomp.frontend.relay.elementwise import half_away
from dlcomp.frontend.relay.linear import turned
from dlcomp.frontend.relay.pooling import pool
from dlcomp.frontend.relay.requantize import requantized, requantized_in_floats, saturated, scaled


def _scale(b: Builder, x: Tensor, what: str = "a scale") -> np.ndarray:
    """Scales in a row, as float32 that all arithmetic starts from."""
    values = b.array(x, what).astype(np.float32).reshape(-1)
    if not values.size or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise ValueError(f"{what} must be positive")
    return values


def _one(values: np.ndarray, what: str) -> Any:
    if values.size != 1:
        raise ValueError(f"{what} must be one number")
    return values.reshape(-1)[0]


def _zero(b: Builder, x: Tensor) -> int:
    return int(_one(b.array(x, "a zero point"), "a zero point"))


def _less_zero(b: Builder, x: Tensor, zero: Tensor, axis: int, dtype: str) -> Tensor:
    """``x`` in ``dtype``, its zero point taken off."""
    wide = b.cast(x, dtype)
    if not b.array(zero, "a zero point").any():
        return wide
    return b.op("Sub", [wide, b.along(b.cast(zero, dtype), axis, x.rank)])


def _requantize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, in_scale, in_zero, out_scale, out_zero = args
    axis = axis_of(attrs.whole("axis", -1), x.rank)
    wanted = np.float64(_one(_scale(b, out_scale, "the output scale"), "the output scale"))
    ratio = _scale(b, in_scale, "the input scale").astype(np.float64) / wanted
    dtype, how = attrs.text("out_dtype", "int8"), attrs.text("rounding", "UPWARD")
    how, kind = ("UPWARD" if how == "None" else how), attrs.text("compute_dtype", "None")
    if kind in ("float32", "float64"):
        wide = _less_zero(b, x, in_zero, axis, kind)
        return requantized_in_floats(b, wide, ratio, _zero(b, out_zero), dtype, axis, how)
    if kind not in ("None", "int64"):
        raise ValueError(f"the compute_dtype {kind} is not supported")
    wide = _less_zero(b, x, in_zero, axis, "int64")
    return requantized(b, wide, ratio, _zero(b, out_zero), dtype, axis, how)


def quantize(b: Builder, x: Tensor, scale: Tensor, zero: Tensor, axis: int, dtype: str) -> Tensor:
    """round(x / scale) + zero, halves away from zero, saturated."""
    steps = half_away(b, b.op("Div", [x, b.along(b.cast(scale, x.dtype), axis, x.rank)]))
    total = b.op("Add", [steps, b.along(b.cast(zero, x.dtype), axis, x.rank)])
    info = np.iinfo(dtype)
    low, high = (b.number(float(v), total) for v in (info.min, info.max))
    return b.cast(b.op("Clip", [total, low, high]), dtype)


def dequantize(b: Builder, x: Tensor, scale: Tensor, zero: Tensor, axis: int) -> Tensor:
    """(x - zero) * scale."""
    whole = b.op("Sub", [b.cast(x, "int32"), b.along(b.cast(zero, "int32"), axis, x.rank)])
    return b.op("Mul", [b.cast(whole, "float32"), b.along(scale, axis, x.rank)])


def _quantize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, scale, zero = args
    axis = axis_of(attrs.whole("axis", -1), x.rank)
    return quantize(b, x, scale, zero, axis, attrs.text("out_dtype", "int8"))


def _dequantize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, scale, zero = args
    axis = axis_of(attrs.whole("axis", -1), x.rank)
    return b.cast(dequantize(b, x, scale, zero, axis), attrs.text("out_dtype", "float32"))


def _zero_of(b: Builder, zero: Tensor, x: Tensor) -> Tensor:
    """A zero point in the type of what it belongs to."""
    value, info = b.array(zero, "a zero point"), np.iinfo(x.dtype)
    if not value.size or value.min() < info.min or value.max() > info.max:
        raise ValueError(f"{value.tolist()} is no zero point of {x.dtype}")
    return b.constant(value.reshape(()) if value.size == 1 else value, x.dtype)


def _conv2d(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """int32 sums of (x - its zero) * (w - its zero); scales are not applied."""
    x, w, zero_x, zero_w, *_ = args
    return convolve(b, [x, w], attrs, 2, (_zero_of(b, zero_x, x), _zero_of(b, zero_w, w)))


def _dense(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """int32 sums, (..., k) by (units, k)."""
    x, w, zero_x, zero_w, *_ = args
    y = b.op("MatMulInteger", [x, turned(b, w), _zero_of(b, zero_x, x), _zero_of(b, zero_w, w)])
    return b.cast(y, attrs.text("out_dtype", "int32"))


def _sum(kind: str) -> Any:
    """Both operands brought to the result's scale, then added or subtracted."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        parts = []
        wanted, zero = args[6], _zero(b, args[7])
        none = b.constant(0, "int32")
        for x, scale, offset, side in ((args[0], *args[2:4], "lhs"), (args[1], *args[4:6], "rhs")):
            more = Attributes({"out_dtype": "int32", "axis": attrs.whole(f"{side}_axis", -1)})
            parts.append(b.cast(_requantize(b, [x, scale, offset, wanted, none], more), "int64"))
        total = b.op(kind, parts)
        return requantized(b, total, np.ones(1), zero, args[0].dtype)

    return convert


def _product(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """The product of both, whose scale is the float32 product of theirs, in the result's."""
    sides = [attrs.whole(name, -1) for name in ("lhs_axis", "rhs_axis")]
    scales = [_one(_scale(b, args[i]), "a scale") for i in (2, 4, 6)]
    parts = [_less_zero(b, args[i], args[3 + 2 * i], sides[i], "int64") for i in (0, 1)]
    ratio = np.array([np.float64(np.float32(scales[0] * scales[1])) / np.float64(scales[2])])
    return requantized(b, b.op("Mul", parts), ratio, _zero(b, args[7]), args[0].dtype)


def _brought(b: Builder, x: Tensor, scale: Tensor, zero: Tensor, to: list[Tensor], dtype: str) -> Tensor:
    """``x`` requantized to the scale and zero point in ``to``, unless it has them already."""
    same = np.array_equal(_scale(b, scale), _scale(b, to[0])) and _zero(b, zero) == _zero(b, to[1])
    if same:
        return b.cast(x, dtype)
    return _requantize(b, [x, scale, zero, *to], Attributes({"out_dtype": dtype}))


def _concatenate(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """Parts with scales of their own, each brought to the result's."""
    parts, scales, zeros, *wanted = args
    made = [_brought(b, x, s, z, wanted, x.dtype) for x, s, z in zip(parts, scales, zeros, strict=True)]
    return b.op("Concat", made, axis=attrs.whole("axis", 0))


def _avg_pool2d(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """An average of what was brought to the result's scale, cut towards zero."""
    x, scale, zero, *wanted = args
    brought = _brought(b, x, scale, zero, wanted, "int32")
    attrs.required("pool_size")
    return saturated(b, pool(b, brought, attrs, 2, "AveragePool"), x.dtype)


def _elementwise(*kinds: str) -> Any:
    """An operator on the numbers behind the integers."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        x, scale, zero, out_scale, out_zero = args
        axis = axis_of(attrs.whole("axis", -1), x.rank)
        y = dequantize(b, x, scale, zero, axis)
        for kind in kinds:
            y = b.op(kind, [y])
        return quantize(b, y, out_scale, out_zero, axis, x.dtype)

    return convert


def _fixed_point_multiply(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    pairs = [(attrs.whole("multiplier"), attrs.whole("shift"))]
    return b.cast(scaled(b, b.cast(args[0], "int64"), pairs, -1, "UPWARD"), args[0].dtype)


def _fixed_point_multiply_per_axis(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """One multiplier, left shift and right shift for each along an axis."""
    x, multiplier, left, right = args
    axes = attrs.wholes("axes", [])
    if len(axes) != 1:
        raise ValueError("only along one axis")
    lefts = b.array(left, "a shift") if attrs.flag("is_lshift_required") else np.zeros(1, np.int64)
    rights = b.array(right, "a shift") if attrs.flag("is_rshift_required") else np.zeros(1, np.int64)
    numbers = b.array(multiplier, "a multiplier").reshape(-1)
    shifts = np.broadcast_to(lefts.reshape(-1) - rights.reshape(-1), numbers.shape)
    if np.any((lefts > 0) & (rights > 0)):
        raise ValueError("a shift to both sides")
    pairs = [(int(m), int(s)) for m, s in zip(numbers, shifts, strict=True)]
    return b.cast(scaled(b, b.cast(x, "int64"), pairs, axes[0], "UPWARD"), x.dtype)


OPERATORS: Mapping[str, Any] = {
    "fixed_point_multiply": _fixed_point_multiply,
    "fixed_point_multiply_per_axis": _fixed_point_multiply_per_axis,
    "qnn.abs": _elementwise("Abs"),
    "qnn.add": _sum("Add"),
    "qnn.avg_pool2d": _avg_pool2d,
    "qnn.concatenate": _concatenate,
    "qnn.conv2d": _conv2d,
    "qnn.dense": _dense,
    "qnn.dequantize": _dequantize,
    "qnn.erf": _elementwise("Erf"),
    "qnn.exp": _elementwise("Exp"),
    "qnn.log": _elementwise("Log"),
    "qnn.mul": _product,
    "qnn.quantize": _quantize,
    "qnn.requantize": _requantize,
    "qnn.rsqrt": _elementwise("Sqrt", "Reciprocal"),
    "qnn.sigmoid": _elementwise("Sigmoid"),
    "qnn.sqrt": _elementwise("Sqrt"),
    "qnn.subtract": _sum("Sub"),
    "qnn.tanh": _elementwise("Tanh"),
}
