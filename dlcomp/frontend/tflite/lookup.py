"""TFLite's operators that look up and search: gather, scatter, largest places, one-hot rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.builder import Tensor, axis_of
from dlcomp.frontend.tflite.call import Call


def _gather(call: Call) -> Tensor:
    """``batch_dims`` first dimensions are the same in both operands."""
    b, x, indices = call.b, call.arg(0), indices_of(call, 1)
    batch = call.options.whole("BatchDims")
    batch = batch + indices.rank if batch < 0 else batch
    axis = axis_of(call.options.whole("Axis"), x.rank)
    if not batch:
        return b.op("Gather", [x, indices], axis=axis)
    if not 0 < batch <= min(indices.rank, x.rank - 1) or axis < batch:
        raise ValueError(f"{batch} batch dimensions and axis {axis} of {list(x.shape)}")
    # GatherND looks along the dimension behind the batch; that of the file is moved there, and its place
    # is where the indices' own dimensions belong.
    turned = b.transpose(x, [*range(batch), axis, *(d for d in range(batch, x.rank) if d != axis)])
    y = b.op("GatherND", [turned, b.unsqueeze(indices, [indices.rank])], batch_dims=batch)
    own, before = indices.rank - batch, axis - batch
    front, middle = batch + own, list(range(batch, batch + own))
    order = [*range(batch), *range(front, front + before), *middle, *range(front + before, y.rank)]
    return b.transpose(y, order)


def indices_of(call: Call, place: int) -> Tensor:
    """An operand of indices."""
    x = call.arg(place)
    if not x.is_integer:
        raise ValueError(f"indices of {x.dtype}")
    return call.b.wide(x)


def _gather_nd(call: Call) -> Tensor:
    return call.b.op("GatherND", [call.arg(0), indices_of(call, 1)])


def _scatter_nd(call: Call) -> Tensor:
    """Updates summed into zeros."""
    b, updates = call.b, call.arg(1)
    zeros = b.filled(0, call.wholes(2, "the shape"), updates.dtype)
    return b.op("ScatterND", [zeros, indices_of(call, 0), updates], reduction="add")


def _embedding_lookup(call: Call) -> Tensor:
    return call.b.op("Gather", [call.arg(1), indices_of(call, 0)], axis=0)


def _extreme(kind: str) -> Callable[[Call], Tensor]:
    """Of integers too: a scale is positive."""

    def convert(call: Call) -> Tensor:
        x = call.arg(0)
        axis = axis_of(call.whole(1, "the axis"), x.rank)
        return call.b.op(kind, [x], axis=axis, keepdims=0)

    return convert


def _top_k(call: Call) -> list[Tensor]:
    b = call.b
    return b.ops("TopK", [call.arg(0), b.reshape(indices_of(call, 1), [1])], 2, axis=-1)


def _one_hot(call: Call) -> Tensor:
    """An index outside has no place that is on; ONNX would count negative ones from the end."""
    b, x = call.b, indices_of(call, 0)
    axis = call.options.whole("Axis", -1)
    depth, on, off = call.whole(1, "the depth"), call.arg(2), call.arg(3)
    axis = axis_of(axis, x.rank + 1)
    if not 0 <= depth <= 2**24:
        raise ValueError(f"a depth of {depth}")
    places = b.constant(list(range(depth)), "int64")
    row = b.reshape(places, [depth, *[1] * (x.rank - axis)])
    return b.op("Where", [b.op("Equal", [b.unsqueeze(x, [axis]), row]), on, off])


MOVING: Mapping[str, Any] = {
    "EMBEDDING_LOOKUP": _embedding_lookup,
    "GATHER": _gather,
    "GATHER_ND": _gather_nd,
    "ONE_HOT": _one_hot,
    "TOPK_V2": _top_k,
}
OPERATORS: Mapping[str, Any] = {"SCATTER_ND": _scatter_nd}
ALWAYS_MOVING: Mapping[str, Any] = {"ARG_MAX": _extreme("ArgMax"), "ARG_MIN": _extreme("ArgMin")}
