"""TFLite's operators that combine the elements along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.builder import Tensor, axis_of
from dlcomp.frontend.tflite.call import Call


def _reduced(call: Call, kind: str, x: Tensor) -> Tensor:
    axes = sorted({axis_of(a, x.rank) for a in call.wholes(1, "the axes")})
    if not axes:
        return x
    return call.b.op(kind, [x, call.b.constant(axes, "int64")], keepdims=int(call.options.flag("KeepDims")))


def _reduce(kind: str) -> Callable[[Call], Tensor]:
    def convert(call: Call) -> Tensor:
        return _reduced(call, kind, call.arg(0))

    return convert


def _truth(kind: str) -> Callable[[Call], Tensor]:
    """Whether any, or all, are true: the largest or smallest of 0 and 1."""

    def convert(call: Call) -> Tensor:
        return call.b.cast(_reduced(call, kind, call.b.cast(call.arg(0), "int32")), "bool")

    return convert


def _cumulative_sum(call: Call) -> Tensor:
    b, x = call.b, call.arg(0)
    axis = axis_of(call.whole(1, "the axis"), x.rank)
    flags = {name.lower(): int(call.options.flag(name)) for name in ("Exclusive", "Reverse")}
    return b.op("CumSum", [x, b.constant(axis, "int64")], **flags)


def _l2_normalization(call: Call) -> Tensor:
    """Along the channels, by a length of 1e-6 at least."""
    b, x = call.b, call.arg(0)
    squares = b.op("ReduceSum", [b.op("Mul", [x, x]), b.constant([x.rank - 1], "int64")], keepdims=1)
    length = b.op("Max", [b.op("Sqrt", [squares]), b.number(1e-6, x)])
    return b.op("Div", [x, length])


OPERATORS: Mapping[str, Any] = {
    "CUMSUM": _cumulative_sum,
    "L2_NORMALIZATION": _l2_normalization,
    "MEAN": _reduce("ReduceMean"),
    "REDUCE_ALL": _truth("ReduceMin"),
    "REDUCE_ANY": _truth("ReduceMax"),
    "REDUCE_MAX": _reduce("ReduceMax"),
    "REDUCE_MIN": _reduce("ReduceMin"),
    "REDUCE_PROD": _reduce("ReduceProd"),
    "SUM": _reduce("ReduceSum"),
}
