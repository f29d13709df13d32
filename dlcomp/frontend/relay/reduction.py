"""Relay's reductions, orders and running sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dlcomp.frontend.builder import Builder, Tensor, axis_of
from dlcomp.frontend.relay.attributes import Attributes


def _axes(x: Tensor, attrs: Attributes) -> list[int]:
    """The axes that go: those given, all, or with ``exclude`` all others."""
    axis = attrs.get("axis")
    given = list(range(x.rank)) if axis in (None, []) else attrs.wholes("axis")
    axes = [axis_of(a, x.rank) for a in given]
    return [d for d in range(x.rank) if d not in axes] if attrs.flag("exclude") else axes


def _reduced(b: Builder, kind: str, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if not axes:
        # ONNX would take no axes for all.
        return x
    return b.op(kind, [x, b.constant(axes, "int64")], keepdims=int(keep))


def _reduce(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return _reduced(b, kind, args[0], _axes(args[0], attrs), attrs.flag("keepdims"))

    return convert


def _truth(kind: str) -> Any:
    """All or any of booleans."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        bits = b.cast(args[0], "int32")
        return b.cast(_reduced(b, kind, bits, _axes(bits, attrs), attrs.flag("keepdims")), "bool")

    return convert


def _spread(b: Builder, x: Tensor, mean: Tensor | None, attrs: Attributes) -> Tensor:
    """The mean square of the distances from ``mean``, or from that of the data."""
    axes, keep = _axes(x, attrs), attrs.flag("keepdims")
    centre = _reduced(b, "ReduceMean", x, axes, True) if mean is None else mean
    if centre.rank != x.rank:
        centre = b.reshape(centre, [1 if d in axes else size for d, size in enumerate(x.shape)])
    far = b.op("Sub", [x, centre])
    result = _reduced(b, "ReduceMean", b.op("Mul", [far, far]), axes, keep)
    if not attrs.flag("unbiased"):
        return result
    count = math.prod(x.shape[a] for a in axes)
    if count < 2:
        raise ValueError("an unbiased variance needs two values")
    return b.op("Mul", [result, b.number(count / (count - 1), result)])


def _variance(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return _spread(b, args[0], args[1] if len(args) > 1 else None, attrs)


def _deviation(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Sqrt", [_spread(b, args[0], None, attrs)])


def _arg(kind: str) -> Any:
    """The place of the largest or smallest value; without an axis, in the elements in a row."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        x, keep = args[0], attrs.flag("keepdims")
        axes, shape = _axes(x, attrs), None
        if len(axes) > 1 and len(axes) == x.rank:
            shape = [1] * x.rank if keep else []
            x, axes = b.reshape(x, [-1]), [0]
        if len(axes) != 1:
            raise ValueError("only over one axis, or all")
        last = int(attrs.flag("select_last_index"))
        y = b.op(kind, [x], axis=axes[0], keepdims=int(keep), select_last_index=last)
        return b.cast(y if shape is None else b.reshape(y, shape), "int32")

    return convert


def _ordered(b: Builder, x: Tensor, count: int, axis: int, ascending: bool) -> list[Tensor]:
    if x.rank == 0 or not 1 <= count:
        count = x.shape[axis]
    return b.ops(
        "TopK", [x, b.constant([count], "int64")], 2, axis=axis, largest=int(not ascending), sorted=1
    )


def _top_k(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    x, axis = args[0], axis_of(attrs.whole("axis", -1), args[0].rank)
    values, places = _ordered(b, x, attrs.whole("k", 1), axis, attrs.flag("is_ascend"))
    places = b.cast(places, attrs.text("dtype", "int32"))
    wanted = {"both": (values, places), "values": values, "indices": places}
    return wanted[attrs.text("ret_type", "both")]


def _arg_sort(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, axis = args[0], axis_of(attrs.whole("axis", -1), args[0].rank)
    return b.cast(_ordered(b, x, 0, axis, attrs.flag("is_ascend", True))[1], attrs.text("dtype", "int32"))


def _running_sum(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, axis = args[0], attrs.get("axis")
    if axis is None:
        x, axis = b.reshape(x, [-1]), 0
    x = b.cast(x, attrs.text("dtype", x.dtype))
    return b.op("CumSum", [x, b.constant(int(axis), "int64")], exclusive=int(attrs.flag("exclusive")))


OPERATORS: Mapping[str, Any] = {
    "all": _truth("ReduceMin"),
    "any": _truth("ReduceMax"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "argsort": _arg_sort,
    "cumsum": _running_sum,
    "logsumexp": _reduce("ReduceLogSumExp"),
    "max": _reduce("ReduceMax"),
    "mean": _reduce("ReduceMean"),
    "min": _reduce("ReduceMin"),
    "prod": _reduce("ReduceProd"),
    "std": _deviation,
    "sum": _reduce("ReduceSum"),
    "topk": _top_k,
    "variance": _variance,
}
