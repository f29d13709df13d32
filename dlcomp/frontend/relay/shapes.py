"""Relay's operators on shapes, elements and reductions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.relay.builder import Builder, Tensor

Attributes = Mapping[str, Any]
_ENDLESS = 2**31 - 1


def _ints(value: Any) -> list[int]:
    return [int(v) for v in (value if isinstance(value, list) else [value])]


def new_shape(given: tuple[int, ...], codes: list[int]) -> list[int]:
    """Relay's reshape codes: 0 keeps a dimension, -1 is what is left, -2 keeps all that follow, -3 joins two,
    -4 splits one into the two sizes behind it (one of them may be -1)."""
    result: list[int] = []
    rest = list(given)
    place = 0
    while place < len(codes):
        code = codes[place]
        if code == 0:
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
    return result


def _reshape(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.reshape(args[0], new_shape(args[0].shape, _ints(attrs["newshape"])))


def _reshape_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.reshape(args[0], args[1].shape)


def _transpose(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, axes = args[0], attrs.get("axes")
    rank = len(x.shape)
    order = [a % rank for a in _ints(axes)] if axes else list(range(rank))[::-1]
    return b.transpose(x, order)


def _layout_transform(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    old, new = str(attrs["src_layout"]), str(attrs["dst_layout"])
    if sorted(old) != sorted(new) or not old.isalpha() or not old.isupper():
        raise ValueError(f"{old} to {new} is not supported")
    return b.transpose(args[0], [old.index(c) for c in new])


def _squeeze(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, axis = args[0], attrs.get("axis")
    rank = len(x.shape)
    gone = (
        [a % rank for a in _ints(axis)] if axis is not None else [d for d in range(rank) if x.shape[d] == 1]
    )
    if any(x.shape[a] != 1 for a in gone):
        raise ValueError(f"axis {gone} is not of size 1")
    return b.reshape(x, [size for d, size in enumerate(x.shape) if d not in gone])


def _expand_dims(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, axis, count = args[0], int(attrs["axis"]), int(attrs.get("num_newaxis", 1))
    axis += len(x.shape) + 1 if axis < 0 else 0
    return b.reshape(x, [*x.shape[:axis], *[1] * count, *x.shape[axis:]])


def _concatenate(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Concat", list(args[0]), axis=int(attrs.get("axis", 0)))


def _stack(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    axis = int(attrs.get("axis", 0))
    return b.op("Concat", [_expand_dims(b, [x], {"axis": axis}) for x in args[0]], axis=axis)


def _split(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    """Equal parts, or parts that begin at the given places."""
    x, axis = args[0], int(attrs.get("axis", 0))
    size, parts = x.shape[axis], attrs["indices_or_sections"]
    if isinstance(parts, list):
        edges = [0, *_ints(parts), size]
        sizes = [high - low for low, high in itertools.pairwise(edges)]
    else:
        sizes = [size // int(parts)] * int(parts)
    return tuple(b.ops("Split", [x, b.constant(sizes, "int64")], len(sizes), axis=axis))


def _strided_slice(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    begin, end = _ints(attrs["begin"]), _ints(attrs["end"])
    given = attrs.get("axes")
    axes = _ints(given) if given else list(range(len(begin)))
    strides = _ints(attrs.get("strides") or [1])
    strides = strides * len(begin) if len(strides) == 1 else strides
    if str(attrs.get("slice_mode", "end")) == "size":
        end = [low + size if size >= 0 else _ENDLESS for low, size in zip(begin, end, strict=True)]
    bounds = [b.constant(values, "int64") for values in (begin, end, axes, strides[: len(begin)])]
    return b.op("Slice", [x, *bounds])


def _take(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, indices = args
    axis = attrs.get("axis")
    if axis is None:
        x, axis = b.reshape(x, [-1]), 0
    size = x.shape[int(axis)]
    indices = b.cast(indices, "int64")
    if str(attrs.get("mode", "clip")) == "wrap":
        indices = b.op("Mod", [indices, b.number(size, indices)])
    else:
        held = b.op("Max", [indices, b.number(0, indices)])
        indices = b.op("Min", [held, b.number(size - 1, indices)])
    return b.op("Gather", [x, indices], axis=int(axis))


def _cast(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.cast(args[0], str(attrs["dtype"]))


def _cast_like(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.cast(args[0], args[1].dtype)


def _clip(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    return b.op("Clip", [x, b.number(attrs["a_min"], x), b.number(attrs["a_max"], x)])


def _divide(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Div", args)


def _rsqrt(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Reciprocal", [b.op("Sqrt", args)])


def _not_equal(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Not", [b.op("Equal", args)])


def _floor_divide(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, y = args
    if "float" in x.dtype:
        return b.op("Floor", [b.op("Div", args)])
    return b.op("Div", [b.op("Sub", [x, b.op("Mod", [x, y])]), y])


def _square(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Mul", [args[0], args[0]])


def _tile(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    repeats = _ints(attrs["reps"])
    x = args[0]
    rank = max(len(repeats), len(x.shape))
    x = b.reshape(x, [1] * (rank - len(x.shape)) + list(x.shape))
    return b.op("Tile", [x, b.constant([1] * (rank - len(repeats)) + repeats, "int64")])


def _repeat(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, axis, count = args[0], int(attrs["axis"]) % len(args[0].shape), int(attrs["repeats"])
    indices = np.repeat(np.arange(x.shape[axis]), count)
    return b.op("Gather", [x, b.constant(indices, "int64")], axis=axis)


def _broadcast_to(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Expand", [args[0], b.constant(_ints(attrs["shape"]), "int64")])


def _filled(value: float) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.constant(np.full(_ints(attrs["shape"]), value, str(attrs["dtype"])))

    return convert


def _full(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    value = b.cast(args[0], str(attrs["dtype"])) if attrs.get("dtype") else args[0]
    return b.op("Expand", [value, b.constant(_ints(attrs["shape"]), "int64")])


def _like(value: float) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.constant(np.full(args[0].shape, value, args[0].dtype))

    return convert


def _arange(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    start, stop, step = (b.array(x, "a bound").item() for x in args)
    return b.constant(np.arange(start, stop, step).astype(str(attrs.get("dtype", "float32"))))


def _axes(x: Tensor, attrs: Attributes) -> list[int]:
    axis, rank = attrs.get("axis"), len(x.shape)
    axes = [a % rank for a in _ints(axis)] if axis not in (None, []) else list(range(rank))
    return [d for d in range(rank) if d not in axes] if attrs.get("exclude", False) else axes


def _reduce(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        axes = b.constant(_axes(args[0], attrs), "int64")
        return b.op(kind, [args[0], axes], keepdims=int(bool(attrs.get("keepdims", False))))

    def attribute(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        # Before opset 18 for these; the builder's opset takes axes as an operand.
        return convert(b, args, attrs)

    return attribute


def _variance(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """About a mean that is given, or that of the data."""
    x = args[0]
    keep = {**attrs, "keepdims": True}
    mean = args[1] if len(args) > 1 else _reduce("ReduceMean")(b, [x], keep)
    centred = b.op("Sub", [x, mean])
    result: Tensor = _reduce("ReduceMean")(b, [b.op("Mul", [centred, centred])], attrs)
    if not attrs.get("unbiased", False):
        return result
    count = int(np.prod([x.shape[a] for a in _axes(x, attrs)]))
    return b.op("Mul", [result, b.number(count / (count - 1), result)])


def _arg(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        axes = _axes(args[0], attrs)
        if len(axes) != 1:
            raise ValueError("only over one axis")
        keep = int(bool(attrs.get("keepdims", False)))
        last = int(bool(attrs.get("select_last_index", False)))
        return b.cast(b.op(kind, [args[0]], axis=axes[0], keepdims=keep, select_last_index=last), "int32")

    return convert


OPERATORS: Mapping[str, Any] = {
    "arange": _arange,
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "broadcast_to": _broadcast_to,
    "cast": _cast,
    "cast_like": _cast_like,
    "clip": _clip,
    "concatenate": _concatenate,
    "divide": _divide,
    "expand_dims": _expand_dims,
    "floor_divide": _floor_divide,
    "full": _full,
    "gather": lambda b, args, attrs: b.op("GatherElements", args, axis=int(attrs["axis"])),
    "layout_transform": _layout_transform,
    "max": _reduce("ReduceMax"),
    "mean": _reduce("ReduceMean"),
    "min": _reduce("ReduceMin"),
    "not_equal": _not_equal,
    "ones": _filled(1),
    "ones_like": _like(1),
    "prod": _reduce("ReduceProd"),
    "repeat": _repeat,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "rsqrt": _rsqrt,
    "split": _split,
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "strided_slice": _strided_slice,
    "sum": _reduce("ReduceSum"),
    "take": _take,
    "tile": _tile,
    "transpose": _transpose,
    "variance": _variance,
    "zeros": _filled(0),
    "zeros_like": _like(0),
}
