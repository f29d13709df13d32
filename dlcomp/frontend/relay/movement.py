"""Relay's operators that move elements: shapes, slices, joins and look-ups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Builder, Tensor, axis_of
from dlcomp.frontend.relay.attributes import Attributes
from dlcomp.frontend.relay.layouts import to_layout

_ENDLESS, _MOST_PARTS = 2**31 - 1, 2**16


def new_shape(given: tuple[int, ...], codes: list[int], keep_zeros: bool = False) -> list[int]:
    """Relay's reshape codes: 0 keeps a dimension, -1 is what is left, -2 keeps all that follow, -3 joins two,
    -4 splits one into the two sizes behind it (one of them may be -1)."""
    result: list[int] = []
    rest = list(given)
    place = 0
    try:
        while place < len(codes):
            code = codes[place]
            if code == 0 and not keep_zeros:
                result.append(rest.pop(0))
            elif code == -2:
                result += rest
                rest = []
            elif code == -3:
                result.append(rest.pop(0) * rest.pop(0))
            elif code == -4:
                whole, left, right = rest.pop(0), codes[place + 1], codes[place + 2]
                result += [whole // right if left == -1 else left, whole // left if right == -1 else right]
                place += 2
            else:
                result.append(code)
                if rest:
                    rest.pop(0)
            place += 1
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{list(given)} does not take the shape {codes}") from error
    return result


def _reshape(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    shape = new_shape(args[0].shape, attrs.wholes("newshape"), attrs.flag("allowzero"))
    return b.reshape(args[0], shape)


def _reshape_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """Dimensions ``lhs_begin:lhs_end`` take the sizes of ``rhs_begin:rhs_end``."""
    x, like = args
    ends = [attrs.get(name) for name in ("lhs_begin", "lhs_end", "rhs_begin", "rhs_end")]
    left, right = slice(*ends[:2]).indices(x.rank), slice(*ends[2:]).indices(like.rank)
    return b.reshape(x, [*x.shape[: left[0]], *like.shape[right[0] : right[1]], *x.shape[left[1] :]])


def _transpose(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    axes = attrs.wholes("axes", []) or list(range(x.rank))[::-1]
    return b.transpose(x, [axis_of(a, x.rank) for a in axes])


def _layout_transform(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return to_layout(b, args[0], str(attrs.required("src_layout")), str(attrs.required("dst_layout")))


def _squeeze(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    ones = [d for d in range(x.rank) if x.shape[d] == 1]
    gone = [axis_of(a, x.rank) for a in attrs.wholes("axis", ones)]
    if not set(gone) <= set(ones):
        raise ValueError(f"axes {gone} are not of size 1")
    return b.reshape(x, [size for d, size in enumerate(x.shape) if d not in gone])


def _expand_dims(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, count = args[0], attrs.whole("num_newaxis", 1)
    if not 0 <= count <= 64:
        raise ValueError(f"{count} new axes")
    axis = axis_of(attrs.whole("axis"), x.rank + 1)
    return b.reshape(x, [*x.shape[:axis], *[1] * count, *x.shape[axis:]])


def _concatenate(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Concat", list(args[0]), axis=attrs.whole("axis", 0))


def _stack(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    axis = axis_of(attrs.whole("axis", 0), args[0][0].rank + 1)
    parts = [b.reshape(x, [*x.shape[:axis], 1, *x.shape[axis:]]) for x in args[0]]
    return b.op("Concat", parts, axis=axis)


def _split(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    """Equal parts, or parts that begin at the given places."""
    x, parts = args[0], attrs.required("indices_or_sections")
    axis = axis_of(attrs.whole("axis", 0), x.rank)
    size = x.shape[axis]
    if isinstance(parts, list):
        edges = [0, *attrs.wholes("indices_or_sections"), size]
        sizes = [high - low for low, high in itertools.pairwise(edges)]
    else:
        count = attrs.whole("indices_or_sections")
        if not 1 <= count <= _MOST_PARTS or size % count:
            raise ValueError(f"{size} does not divide into {count} parts")
        sizes = [size // count] * count
    if min(sizes) < 0:
        raise ValueError(f"the places {parts} are not in order within {size}")
    return tuple(b.ops("Split", [x, b.constant(sizes, "int64")], len(sizes), axis=axis))


def _slice(
    b: Builder, x: Tensor, begin: list[int], end: list[int], axes: list[int], steps: list[int]
) -> Tensor:
    if not len(begin) == len(end) == len(axes) == len(steps):
        raise ValueError("begin, end, axes and strides are not of one length")
    return b.op("Slice", [x, *(b.constant(v, "int64") for v in (begin, end, axes, steps))])


def _strided_slice(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """The mode ``size`` gives sizes for ends, -1 for all the rest, and takes every element."""
    x, begin, end = args[0], attrs.wholes("begin"), attrs.wholes("end")
    axes = attrs.wholes("axes", []) or list(range(len(begin)))
    steps = attrs.wholes("strides", [1])
    steps = steps * len(begin) if len(steps) == 1 else steps + [1] * (len(begin) - len(steps))
    if attrs.text("slice_mode", "end") == "size":
        sizes, steps = end, [1] * len(begin)
        # Counted from the front: a begin from the back plus its size may reach zero.
        begin = [low if low >= 0 else low + x.shape[axis] for low, axis in zip(begin, axes, strict=True)]
        end = [low + size if size >= 0 else _ENDLESS for low, size in zip(begin, sizes, strict=True)]
    return _slice(b, x, begin, end, axes, steps)


def _slice_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, like = args
    axes = [axis_of(a, x.rank) for a in attrs.wholes("axes", [])] or list(range(x.rank))
    return _slice(b, x, [0] * len(axes), [like.shape[a] for a in axes], axes, [1] * len(axes))


def _reverse(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return _slice(b, args[0], [-1], [-_ENDLESS], [attrs.whole("axis")], [-1])


def _take(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, indices = args
    axis = attrs.get("axis")
    if attrs.whole("batch_dims", 0):
        raise ValueError("batch_dims is not supported")
    if axis is None:
        x, axis = b.reshape(x, [-1]), 0
    axis = axis_of(int(axis), x.rank)
    size, mode = x.shape[axis], attrs.text("mode", "clip")
    indices = b.cast(indices, "int64")
    if mode == "wrap":
        indices = b.op("Mod", [indices, b.number(size, indices)])
    elif mode == "clip":
        held = b.op("Max", [indices, b.number(0, indices)])
        indices = b.op("Min", [held, b.number(size - 1, indices)])
    elif mode != "fast":
        raise ValueError(f"the mode {mode} is not supported")
    return b.op("Gather", [x, indices], axis=axis)


def _gather(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("GatherElements", [args[0], b.cast(args[1], "int64")], axis=attrs.whole("axis"))


def _gather_nd(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """The first dimension of the indices are the coordinates; ONNX has them last."""
    x, indices = args
    order = [*range(1, indices.rank), 0]
    attrs.get("index_rank")
    turned = b.transpose(b.cast(indices, "int64"), order)
    return b.op("GatherND", [x, turned], batch_dims=attrs.whole("batch_dims", 0))


def _one_hot(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    indices, on, off = args
    depth = attrs.whole("depth", 1)
    axis = axis_of(attrs.whole("axis", -1), indices.rank + 1)
    wide = b.reshape(indices, [*indices.shape[:axis], 1, *indices.shape[axis:]])
    if not 1 <= depth <= 2**24:
        raise ValueError(f"a depth of {depth}")
    dtype = attrs.text("dtype", on.dtype)
    places = b.along(b.constant(np.arange(depth), indices.dtype), axis, indices.rank + 1)
    return b.op("Where", [b.op("Equal", [wide, places]), b.cast(on, dtype), b.cast(off, dtype)])


def _tile(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    repeats, x = attrs.wholes("reps"), args[0]
    rank = max(len(repeats), x.rank)
    x = b.reshape(x, [1] * (rank - x.rank) + list(x.shape))
    return b.op("Tile", [x, b.constant([1] * (rank - len(repeats)) + repeats, "int64")])


def _repeat(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, count = args[0], attrs.whole("repeats")
    axis = attrs.get("axis")
    if axis is None:
        x, axis = b.reshape(x, [-1]), 0
    axis = axis_of(int(axis), x.rank)
    before, behind = list(x.shape[: axis + 1]), list(x.shape[axis + 1 :])
    wide = b.spread(b.reshape(x, [*before, 1, *behind]), [*before, count, *behind])
    return b.reshape(wide, [*before[:-1], before[-1] * count, *behind])


def _broadcast_to(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.spread(args[0], attrs.wholes("shape"))


def _broadcast_to_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.spread(args[0], args[1].shape)


def _shape_of(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.constant(list(args[0].shape), attrs.text("dtype", "int32"))


def _size_of(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.constant(math.prod(args[0].shape), attrs.text("dtype", "int32"))


OPERATORS: Mapping[str, Any] = {
    "broadcast_to": _broadcast_to,
    "broadcast_to_like": _broadcast_to_like,
    "concatenate": _concatenate,
    "expand_dims": _expand_dims,
    "gather": _gather,
    "gather_nd": _gather_nd,
    "layout_transform": _layout_transform,
    "ndarray_size": _size_of,
    "one_hot": _one_hot,
    "repeat": _repeat,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "shape_of": _shape_of,
    "slice_like": _slice_like,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "strided_slice": _strided_slice,
    "take": _take,
    "tile": _tile,
    "transpose": _transpose,
}
