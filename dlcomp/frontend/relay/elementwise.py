"""Relay's operators on elements: arithmetic, comparisons, rounding, types, and what fills tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Builder, Tensor
from dlcomp.frontend.relay.attributes import Attributes

# Same operands, same meaning, no attributes.
PLAIN: Mapping[str, str] = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "add": "Add", "asin": "Asin", "asinh": "Asinh",
    "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil", "copy": "Identity", "cos": "Cos", "cosh": "Cosh",
    "divide": "Div", "equal": "Equal", "erf": "Erf", "exp": "Exp", "fast_erf": "Erf", "fast_exp": "Exp",
    "fast_tanh": "Tanh", "floor": "Floor", "greater": "Greater", "greater_equal": "GreaterOrEqual",
    "isinf": "IsInf", "isnan": "IsNaN", "less": "Less", "less_equal": "LessOrEqual", "log": "Log",
    "logical_and": "And", "logical_not": "Not", "logical_or": "Or", "logical_xor": "Xor", "maximum": "Max",
    "minimum": "Min", "multiply": "Mul", "negative": "Neg", "nn.batch_flatten": "Flatten", "power": "Pow",
    "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "subtract": "Sub",
    "tan": "Tan", "tanh": "Tanh", "annotation.stop_fusion": "Identity",
}  # fmt: skip


def half_away(b: Builder, x: Tensor) -> Tensor:
    """Rounded to the nearest integer, halves away from zero, as C's ``round``; ONNX's goes to even."""
    size = b.op("Abs", [x])
    down = b.op("Floor", [size])
    # The rest is exact, size + 0.5 would not be.
    up = b.op("GreaterOrEqual", [b.op("Sub", [size, down]), b.number(0.5, x)])
    return b.op("Mul", [b.op("Sign", [x]), b.op("Add", [down, b.cast(up, x.dtype)])])


def within(value: float, dtype: str) -> Any:
    """A bound that ``dtype`` can hold."""
    if not dtype.startswith(("int", "uint")):
        return value
    info = np.iinfo(dtype)
    if not np.isfinite(value):
        return info.min if value < 0 else info.max
    return max(info.min, min(info.max, int(value)))


def _round(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return half_away(b, args[0])


def _relu(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return args[0] if args[0].dtype.startswith("uint") else b.op("Relu", [args[0]])


def _leaky_relu(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("LeakyRelu", [args[0]], alpha=attrs.real("alpha", 0.25))


def _prelu(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("PRelu", [args[0], b.along(args[1], attrs.whole("axis", 1), args[0].rank)])


def _clip(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    low, high = (b.number(within(attrs.real(name), x.dtype), x) for name in ("a_min", "a_max"))
    return b.op("Clip", [x, low, high])


def _cast(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.cast(args[0], str(attrs.required("dtype")))


def _cast_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.cast(args[0], args[1].dtype)


def _reciprocal_root(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Reciprocal", [b.op("Sqrt", args)])


def _logarithm(base: float) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.op("Div", [b.op("Log", args), b.number(np.log(base), args[0])])

    return convert


def _not_equal(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Not", [b.op("Equal", args)])


def _is_finite(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Not", [b.op("Or", [b.op("IsInf", args), b.op("IsNaN", args)])])


def _where(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    condition, *values = args
    return b.op("Where", [b.cast(condition, "bool"), *values])


def _cut(b: Builder, x: Tensor) -> Tensor:
    """Without what is behind the point."""
    return x if x.is_integer else b.op("Mul", [b.op("Sign", [x]), b.op("Floor", [b.op("Abs", [x])])])


def _trunc(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return _cut(b, args[0])


def _trunc_divide(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return _cut(b, b.op("Div", args))


def _trunc_mod(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Mod", args, fmod=1)


def floor_divide(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """Towards minus infinity; ONNX's division of integers goes towards zero."""
    if not x.is_integer:
        return b.op("Floor", [b.op("Div", [x, y])])
    return b.op("Div", [b.op("Sub", [x, b.op("Mod", [x, y])]), y])


def _floor_divide(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return floor_divide(b, *args)


def _floor_mod(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, y = args
    if x.is_integer:
        return b.op("Mod", [x, y])
    return b.op("Sub", [x, b.op("Mul", [floor_divide(b, x, y), y])])


def _shift(left: bool) -> Any:
    """By constants: a product, or a division that rounds down, with a power of two."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        x, steps = args[0], b.array(args[1], "the steps of a shift")
        if not x.is_integer or (steps.size and (steps.min() < 0 or steps.max() > np.iinfo(x.dtype).bits - 2)):
            raise ValueError("the steps of a shift must fit into the integers")
        power = b.constant(np.left_shift(1, steps.astype("int64")), x.dtype)
        return b.op("Mul", [x, power]) if left else floor_divide(b, x, power)

    return convert


def _square(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Mul", [args[0], args[0]])


def _filled(value: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.filled(value, attrs.wholes("shape"), attrs.text("dtype", "float32"))

    return convert


def _full(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    value = b.reshape(args[0], [])
    return b.spread(b.cast(value, attrs.text("dtype", value.dtype)), attrs.wholes("shape"))


def _filled_like(value: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.filled(value, args[0].shape, args[0].dtype)

    return convert


def _full_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.spread(b.cast(b.reshape(args[1], []), args[0].dtype), args[0].shape)


def _arange(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    start, stop, step = (b.array(x, "a bound").item() for x in args)
    if not step or abs((stop - start) / step) > 2**24:
        raise ValueError(f"from {start} to {stop} in steps of {step}")
    return b.constant(np.arange(start, stop, step).astype(attrs.text("dtype", "float32")))


def _same(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """A mark for TVM's own passes."""
    attrs.ignore()
    return b.op("Identity", [args[0]])


OPERATORS: Mapping[str, Any] = {
    "annotation.cast_hint": _same,
    "annotation.on_device": _same,
    "arange": _arange,
    "cast": _cast,
    "cast_like": _cast_like,
    "clip": _clip,
    "device_copy": _same,
    "floor_divide": _floor_divide,
    "floor_mod": _floor_mod,
    "full": _full,
    "full_like": _full_like,
    "isfinite": _is_finite,
    "left_shift": _shift(True),
    "log10": _logarithm(10),
    "log2": _logarithm(2),
    "mod": _trunc_mod,
    "nn.leaky_relu": _leaky_relu,
    "nn.prelu": _prelu,
    "nn.relu": _relu,
    "not_equal": _not_equal,
    "on_device": _same,
    "ones": _filled(1),
    "ones_like": _filled_like(1),
    "right_shift": _shift(False),
    "round": _round,
    "rsqrt": _reciprocal_root,
    "square": _square,
    "trunc": _trunc,
    "trunc_divide": _trunc_divide,
    "trunc_mod": _trunc_mod,
    "where": _where,
    "zeros": _filled(0),
    "zeros_like": _filled_like(0),
}
