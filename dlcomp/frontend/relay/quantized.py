"""Relay's quantized operators (``qnn.*``), with its integer arithmetic to the bit.

Requantization multiplies by a 31-bit fixed-point number and shifts right, rounding halves up (``UPWARD``, the
default) or away from zero (``TONEAREST``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.relay.builder import Builder, Tensor
from dlcomp.frontend.relay.layers import back, first_channels, padding, pair, weight_first

Attributes = Mapping[str, Any]


def fixed_point(multiplier: float) -> tuple[int, int]:
    """``multiplier`` as (m, s): m / 2^31 * 2^s with m in [2^30, 2^31)."""
    if multiplier == 0:
        return 0, 0
    fraction, exponent = math.frexp(multiplier)
    whole = math.floor(fraction * 2**31 + 0.5)
    if whole == 2**31:
        whole //= 2
        exponent += 1
    return whole, exponent


def _requantized(
    b: Builder, total: Tensor, ratio: np.ndarray, zero: int, dtype: str, axis: int, rounding: str
) -> Tensor:
    """``total`` (integers) times ``ratio``, plus ``zero``, saturated to ``dtype``."""
    wide = b.cast(total, "int64")
    if not np.all(ratio == 1.0):
        pairs = [fixed_point(float(r)) for r in np.atleast_1d(ratio)]
        wide = _scaled(b, wide, pairs, axis, rounding)
    if zero:
        wide = b.op("Add", [wide, b.number(zero, wide)])
    info = np.iinfo(dtype)
    held = b.op("Max", [wide, b.number(info.min, wide)])
    return b.cast(b.op("Min", [held, b.number(info.max, wide)]), dtype)


def _scaled(b: Builder, wide: Tensor, pairs: list[tuple[int, int]], axis: int, rounding: str) -> Tensor:
    """One product and one shift for each channel."""
    rank = len(wide.shape)

    def row(values: list[int]) -> Tensor:
        if len(values) == 1:
            return b.constant(values[0], "int64")
        return b.along(b.constant(values, "int64"), axis, rank)

    left = [1 << max(shift, 0) for _, shift in pairs]
    shifts = [31 + max(-shift, 0) for _, shift in pairs]
    if any(value != 1 for value in left):
        wide = b.op("Mul", [wide, row(left)])
    product = b.op("Mul", [wide, row([m for m, _ in pairs])])
    half = row([1 << (shift - 1) for shift in shifts])
    if rounding == "TONEAREST":
        below = row([(1 << (shift - 1)) - 1 for shift in shifts])
        positive = b.op("GreaterOrEqual", [wide, b.number(0, wide)])
        half = b.op("Where", [positive, half, below])
    elif rounding not in ("UPWARD", "None", ""):
        raise ValueError(f"the rounding {rounding} is not supported")
    total = b.op("Add", [product, half])
    divisor = row([1 << shift for shift in shifts])
    # A shift rounds down, ONNX's division to zero.
    rest = b.op("Mod", [total, divisor])
    return b.op("Div", [b.op("Sub", [total, rest]), divisor])


def _number(b: Builder, x: Tensor, what: str) -> int:
    return int(b.array(x, what).reshape(-1)[0])


def _requantize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, in_scale, in_zero, out_scale, out_zero = args
    wide = b.cast(x, "int64")
    axis = int(attrs.get("axis", -1)) % max(1, len(x.shape))
    zeros = b.array(in_zero, "the zero point")
    if zeros.any():
        wide = b.op("Sub", [wide, b.along(b.constant(zeros, "int64"), axis, len(x.shape))])
    given = b.array(in_scale, "the input scale").astype(np.float64)
    ratio = given / b.array(out_scale, "the output scale").astype(np.float64).reshape(-1)[0]
    dtype = str(attrs.get("out_dtype") or "int8")
    rounding = str(attrs.get("rounding") or "UPWARD")
    return _requantized(b, wide, ratio, _number(b, out_zero, "the zero point"), dtype, axis, rounding)


def _quantize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """round(x / scale) + zero, halves away from zero, saturated."""
    x, scale, zero = args
    axis, dtype = int(attrs.get("axis", -1)), str(attrs.get("out_dtype") or "int8")
    steps = b.op("Div", [x, b.along(scale, axis, len(x.shape))])
    size = b.op("Floor", [b.op("Add", [b.op("Abs", [steps]), b.number(0.5, steps)])])
    rounded = b.op("Mul", [b.op("Sign", [steps]), size])
    total = b.op("Add", [rounded, b.cast(b.along(zero, axis, len(x.shape)), "float32")])
    info = np.iinfo(dtype)
    low, high = (b.number(float(v), total) for v in (info.min, info.max))
    return b.cast(b.op("Clip", [total, low, high]), dtype)


def _dequantize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, scale, zero = args
    axis, rank = int(attrs.get("axis", -1)), len(x.shape)
    whole = b.op("Sub", [b.cast(x, "int32"), b.along(b.cast(zero, "int32"), axis, rank)])
    return b.op("Mul", [b.cast(whole, "float32"), b.along(scale, axis, rank)])


def _zero_of(b: Builder, zero: Tensor, x: Tensor) -> Tensor:
    """A zero point in the type of what it belongs to."""
    value = b.array(zero, "a zero point")
    return b.constant(value.reshape(()) if value.size == 1 else value, x.dtype)


def _conv2d(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """int32 sums of (x - its zero) * (w - its zero); scales are not applied."""
    data = str(attrs.get("data_layout") or "NCHW")
    kernel = str(attrs.get("kernel_layout") or "OIHW")
    x, groups = first_channels(b, args[0], data), int(attrs.get("groups", 1))
    w = args[1]
    if groups > 1 and kernel == "HWOI":
        height, width, channels, multiplier = w.shape
        array = b.array(w, "the kernel").transpose(2, 3, 0, 1)
        w = b.constant(array.reshape(channels * multiplier, 1, height, width))
    else:
        w = weight_first(b, w, kernel)
    y = b.op(
        "ConvInteger",
        [x, w, _zero_of(b, args[2], x), _zero_of(b, args[3], w)],
        strides=pair(attrs.get("strides", 1)),
        pads=padding(attrs.get("padding", 0)),
        dilations=pair(attrs.get("dilation", 1)),
        group=groups,
    )
    return back(b, y, str(attrs.get("out_layout") or data))


def _dense(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """int32 sums, (..., k) by (units, k)."""
    x, w = args[0], args[1]
    turned = b.constant(np.ascontiguousarray(b.array(w, "the weight").T)) if w.name in b.arrays else None
    turned = turned or b.transpose(w, [1, 0])
    return b.op("MatMulInteger", [x, turned, _zero_of(b, args[2], x), _zero_of(b, args[3], w)])


def _binary(kind: str) -> Any:
    """Both operands are brought to the result's scale (a product to its own), then combined."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        x, y, *rest = args
        scales = [float(b.array(rest[i], "a scale").reshape(-1)[0]) for i in (0, 2, 4)]
        zeros = [_number(b, rest[i], "a zero point") for i in (1, 3, 5)]
        parts = []
        for operand, scale, zero in ((x, scales[0], zeros[0]), (y, scales[1], zeros[1])):
            wide = b.op("Sub", [b.cast(operand, "int64"), b.constant(zero, "int64")])
            if kind == "Add" and scale != scales[2]:
                wide = _scaled(b, wide, [fixed_point(scale / scales[2])], -1, "UPWARD")
            parts.append(wide)
        total = b.op(kind, parts)
        ratio = np.array(1.0 if kind == "Add" else scales[0] * scales[1] / scales[2])
        return _requantized(b, total, ratio, zeros[2], x.dtype, -1, "UPWARD")

    return convert


def _concatenate(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """Parts with scales of their own, each brought to the result's."""
    parts, in_scales, in_zeros, out_scale, out_zero = args
    wanted = b.array(out_scale, "the output scale").reshape(-1)[0]
    zero = _number(b, out_zero, "the zero point")
    made = []
    for part, scale, offset in zip(parts, in_scales, in_zeros, strict=True):
        same = b.array(scale, "a scale").reshape(-1)[0] == wanted
        if same and _number(b, offset, "a zero point") == zero:
            made.append(part)
        else:
            made.append(_requantize(b, [part, scale, offset, out_scale, out_zero], {"out_dtype": part.dtype}))
    return b.op("Concat", made, axis=int(attrs.get("axis", 0)))


def _fixed_point_multiply(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    pairs = [(int(attrs["multiplier"]), int(attrs["shift"]))]
    return b.cast(_scaled(b, b.cast(args[0], "int64"), pairs, -1, "UPWARD"), args[0].dtype)


OPERATORS: Mapping[str, Any] = {
    "fixed_point_multiply": _fixed_point_multiply,
    "qnn.add": _binary("Add"),
    "qnn.concatenate": _concatenate,
    "qnn.conv2d": _conv2d,
    "qnn.dense": _dense,
    "qnn.dequantize": _dequantize,
    "qnn.mul": _binary("Mul"),
    "qnn.quantize": _quantize,
    "qnn.requantize": _requantize,
}
