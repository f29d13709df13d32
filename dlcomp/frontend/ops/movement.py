"""Operators that move elements: padding, one-hot, reversal of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from dlcomp.frontend.ops.arithmetic import constant_of, dtype_of, number, shape_of
from dlcomp.frontend.symbolic import product


def _pad(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Constant, edge, reflect and wrap; negative widths cut off. The widths must be known."""
    x = inputs[0]
    rank = len(shape_of(x))
    widths = attrs.get("pads", attrs.get("paddings"))
    if widths is None:
        found = constant_of(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else None
        if found is None:
            raise ValueError("the pads must be known when the model is loaded: values={'pads': ...}")
        widths = found.reshape(-1).tolist()
    axes = list(range(rank))
    if len(inputs) > 3 and inputs[3] is not None:
        listed = constant_of(inputs[3])
        if listed is None:
            raise ValueError("the axes must be known when the model is loaded")
        axes = [int(axis) % rank for axis in listed.reshape(-1)]
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = int(widths[place]), int(widths[place + len(axes)])
    dims = shape_of(x)
    if min(*before, *after, 0) < 0:
        begin, end = [max(0, -b) for b in before], [d - max(0, -a) for d, a in zip(dims, after, strict=True)]
        x = relax.op.strided_slice(x, list(range(rank)), begin, end)
        dims = [high - low for low, high in zip(begin, end, strict=True)]
        before, after = [max(0, b) for b in before], [max(0, a) for a in after]
    mode = attrs.get("mode", b"constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode != "constant":
        for axis, size in enumerate(dims):
            x = _mirrored(x, axis, size, before[axis], after[axis], mode)
        return x
    filling = (
        inputs[2] if len(inputs) > 2 and inputs[2] is not None else number(attrs.get("value", 0), inputs[0])
    )
    return _constant_pad(x, dims, before, after, filling)


def _constant_pad(x: Any, dims: list[int], before: list[int], after: list[int], filling: Any) -> Any:
    value = constant_of(filling)
    kind = dtype_of(filling)
    if value is not None and kind == "float32":
        pairs = [width for pair in zip(before, after, strict=True) for width in pair]
        return relax.op.nn.pad(x, pairs, pad_value=float(value.reshape(-1)[0]))
    scalar = filling if not shape_of(filling) else relax.op.reshape(filling, [])
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        sides = [
            [relax.op.broadcast_to(scalar, [*dims[:axis], width, *dims[axis + 1 :]])] if width else []
            for width in (low, high)
        ]
        if low or high:
            x = relax.op.concat([*sides[0], x, *sides[1]], axis)
        dims[axis] += low + high
    return x


def _mirrored(x: Any, axis: int, size: int, low: int, high: int, mode: str) -> Any:
    if not low and not high:
        return x
    numpy_mode: Any = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
    indices = np.pad(np.arange(size), (low, high), mode=numpy_mode)
    return relax.op.take(x, relax.const(indices, "int64"), axis, mode="clip")


def _one_hot(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Indices below zero count from the end; those out of range give rows without a one."""
    indices, depth, values = inputs[0], constant_of(inputs[1]), inputs[2]
    if depth is None:
        raise ValueError("the depth must be known when the model is loaded: values={'depth': ...}")
    count, rank = int(depth.reshape(-1)[0]), len(shape_of(indices)) + 1
    axis = int(attrs.get("axis", -1)) % rank
    whole = relax.op.astype(indices, "int64")
    negative = relax.op.less(whole, relax.const(0, "int64"))
    whole = relax.op.where(negative, relax.op.add(whole, relax.const(count, "int64")), whole)
    grid = np.arange(count).reshape([count if d == axis else 1 for d in range(rank)])
    hit = relax.op.equal(relax.op.expand_dims(whole, axis), relax.const(grid, "int64"))
    off, on = (relax.op.take(values, relax.const(place, "int64"), 0, mode="clip") for place in (0, 1))
    return relax.op.where(hit, on, off)


def _flatten(inputs: Any, attrs: dict[str, Any]) -> Any:
    dims = shape_of(inputs[0])
    axis = int(attrs.get("axis", 1))
    axis += len(dims) if axis < 0 else 0
    return relax.op.reshape(inputs[0], [product(dims[:axis]), product(dims[axis:])])


def _reverse_sequence(inputs: Any, attrs: dict[str, Any]) -> Any:
    """The first ``lengths[b]`` steps of each batch entry in reverse, the rest as it is."""
    x, lengths = inputs[0], inputs[1]
    time, batch = int(attrs.get("time_axis", 0)), int(attrs.get("batch_axis", 1))
    dims = shape_of(x)

    def along(axis: int, expr: Any) -> Any:
        return relax.op.reshape(expr, [dims[axis] if d == axis else 1 for d in range(len(dims))])

    step = along(time, relax.const(np.arange(dims[time]), "int64"))
    length = along(batch, relax.op.astype(lengths, "int64"))
    turned = relax.op.subtract(relax.op.subtract(length, relax.const(1, "int64")), step)
    place = relax.op.where(relax.op.less(step, length), turned, step)
    return relax.op.gather_elements(x, relax.op.broadcast_to(place, dims), axis=time)


def _slice(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Bounds as attributes, as before opset 10, and starts before the first element on the way back."""
    dims = shape_of(inputs[0])
    if "starts" in attrs:
        axes = [int(a) % len(dims) for a in attrs.get("axes", range(len(attrs["starts"])))]
        places = [
            [_place(int(v), dims[a], 0, dims[a]) for v, a in zip(attrs[name], axes, strict=True)]
            for name in ("starts", "ends")
        ]
        return relax.op.strided_slice(inputs[0], axes, *places)
    bounds = [None if i is None else constant_of(i) for i in inputs[1:]]
    if len(bounds) < 4 or any(b is None for b in bounds):
        return None
    starts, ends, axes, steps = ([int(v) for v in b.reshape(-1)] for b in bounds if b is not None)
    if not any(s < 0 and low < -dims[a] for low, a, s in zip(starts, axes, steps, strict=True)):
        return None
    # TVM takes such a start for one that leaves nothing.
    x = inputs[0]
    for low, high, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = dims[axis]
        least, most = (0, size) if step > 0 else (-1, size - 1)
        kept = range(_place(low, size, 0, most), _place(high, size, least, most), step)
        x = relax.op.take(x, relax.const(np.array(kept, "int64"), "int64"), axis % len(dims), mode="clip")
    return x


def _place(place: int, size: int, least: int, most: int) -> int:
    """A bound, from the end if it is negative, and no further than ``least`` and ``most``."""
    return min(max(place + size if place < 0 else place, least), most)


CONVERTERS: Mapping[str, Any] = {
    "OneHot": _one_hot,
    "Flatten": _flatten,
    "Pad": _pad,
    "ReverseSequence": _reverse_sequence,
    "Slice": _slice,
}
