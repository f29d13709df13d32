"""TFLite's operators on elements: arithmetic with broadcasting, comparisons, rounding, types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.activations import activated
from dlcomp.frontend.tflite.call import Call

# Same operands, same meaning, no options that matter.
_PLAIN: Mapping[str, str] = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "ELU": "Elu", "EQUAL": "Equal", "EXP": "Exp",
    "FLOOR": "Floor", "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "HARD_SWISH": "HardSwish",
    "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "LOG": "Log", "LOGICAL_AND": "And", "LOGICAL_NOT": "Not",
    "LOGICAL_OR": "Or", "LOGISTIC": "Sigmoid", "MAXIMUM": "Max", "MINIMUM": "Min", "NEG": "Neg",
    "POW": "Pow", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh",
}  # fmt: skip


def _plain(kind: str) -> Callable[[Call], Tensor]:
    def convert(call: Call) -> Tensor:
        return call.b.op(kind, call.all)

    return convert


def _arithmetic(kind: str) -> Callable[[Call], Tensor]:
    """Two operands, then the fused activation."""

    def convert(call: Call) -> Tensor:
        return activated(call, call.b.op(kind, [call.arg(0), call.arg(1)]))

    return convert


def _add_n(call: Call) -> Tensor:
    return call.b.op("Sum", call.all)


def _not_equal(call: Call) -> Tensor:
    return call.b.op("Not", [call.b.op("Equal", call.all)])


def _squared_difference(call: Call) -> Tensor:
    apart = call.b.op("Sub", [call.arg(0), call.arg(1)])
    return call.b.op("Mul", [apart, apart])


def _square(call: Call) -> Tensor:
    return call.b.op("Mul", [call.arg(0), call.arg(0)])


def _reciprocal_root(call: Call) -> Tensor:
    return call.b.op("Reciprocal", [call.b.op("Sqrt", [call.arg(0)])])


def _floor_divided(call: Call) -> Tensor:
    """Towards minus infinity; ONNX's division of integers goes towards zero."""
    b, x, y = call.b, call.arg(0), call.arg(1)
    if not x.is_integer:
        return b.op("Floor", [b.op("Div", [x, y])])
    return b.op("Div", [b.op("Sub", [x, b.op("Mod", [x, y])]), y])


def _floor_mod(call: Call) -> Tensor:
    """With the sign of the divisor."""
    b, x, y = call.b, call.arg(0), call.arg(1)
    if x.is_integer:
        return b.op("Mod", [x, y])
    return b.op("Sub", [x, b.op("Mul", [b.op("Floor", [b.op("Div", [x, y])]), y])])


def _select(call: Call) -> Tensor:
    b, condition, x, y = call.b, call.arg(0), call.arg(1), call.arg(2)
    # A row of conditions chooses whole slices along the first axis.
    if condition.rank == 1 < x.rank:
        condition = b.unsqueeze(condition, list(range(1, x.rank)))
    return b.op("Where", [condition, x, y])


def _select_v2(call: Call) -> Tensor:
    return call.b.op("Where", [call.arg(0), call.arg(1), call.arg(2)])


def _same(call: Call) -> Tensor:
    """Types and scales change at the operator's border; half-precision weights, whatever their size, here."""
    x, b = call.arg(0), call.b
    if x.dtype == "float16" and x.name in b.arrays:
        return b.constant(b.arrays[x.name].astype(np.float32))
    return x


def _cast(call: Call) -> Tensor:
    """The integers as they are, whatever they stand for; C cuts what is behind the point."""
    return call.b.cast(call.arg(0), call.result.dtype)


def _filled(value: int) -> Callable[[Call], Tensor]:
    def convert(call: Call) -> Tensor:
        b, x = call.b, call.arg(0)
        return b.op("Expand", [b.number(value, x), b.op("Shape", [x])])

    return convert


OPERATORS: Mapping[str, Any] = {
    **{name: _plain(kind) for name, kind in _PLAIN.items()},
    "ADD": _arithmetic("Add"),
    "ADD_N": _add_n,
    "DENSIFY": _same,
    "DEQUANTIZE": _same,
    "DIV": _arithmetic("Div"),
    "FLOOR_DIV": _floor_divided,
    "FLOOR_MOD": _floor_mod,
    "MUL": _arithmetic("Mul"),
    "NOT_EQUAL": _not_equal,
    "QUANTIZE": _same,
    "RSQRT": _reciprocal_root,
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _squared_difference,
    "SUB": _arithmetic("Sub"),
}
MOVING: Mapping[str, Any] = {"SELECT": _select, "SELECT_V2": _select_v2}
ALWAYS_MOVING: Mapping[str, Any] = {"CAST": _cast, "ZEROS_LIKE": _filled(0)}
