"""Relay's pooling: windows, whole images and grids of a given size; of integers it is exact."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Builder, Tensor
from dlcomp.frontend.relay.attributes import Attributes
from dlcomp.frontend.relay.layouts import plain, to_layout

# One node for each shift, and one count for each pixel.
_MOST_SHIFTS, _LARGEST_IMAGE = 4096, 2**26
_LOWEST = {"int16": -(2**15), "int32": -(2**31), "int64": -(2**63), "uint16": 0, "uint32": 0}


def pool(b: Builder, x: Tensor, attrs: Attributes, rank: int, kind: str) -> Tensor:
    """A largest or average value of each window; integer averages are cut towards zero, as in C."""
    first = plain(rank)
    layout = attrs.text("layout", first)
    x = to_layout(b, x, layout, first)
    kernel, strides = attrs.each("pool_size", rank), attrs.each("strides", rank)
    dilation, pads = attrs.each("dilation", rank), attrs.pads(rank)
    if min(*kernel, *strides, *dilation) < 1:
        raise ValueError("a window, stride or dilation below 1")
    if attrs.flag("ceil_mode"):
        # One window more where a part of it lies inside: padding behind, never counted.
        for axis, size in enumerate(x.shape[2:]):
            spare = size + pads[axis] + pads[rank + axis] - dilation[axis] * (kernel[axis] - 1) - 1
            pads[rank + axis] += -spare % strides[axis]
    counted = attrs.flag("count_include_pad") if kind == "AveragePool" else False
    apart = kind == "AveragePool" and (x.is_integer or max(dilation) > 1)
    if apart or x.dtype in _LOWEST:
        y = _by_shifts(b, x, kernel, strides, dilation, pads, counted, kind)
    else:
        more = {"count_include_pad": int(counted)} if kind == "AveragePool" else {"dilations": dilation}
        y = b.op(kind, [x], kernel_shape=kernel, strides=strides, pads=pads, **more)
    return to_layout(b, y, first, attrs.text("out_layout", layout))


def _by_shifts(
    b: Builder,
    x: Tensor,
    kernel: list[int],
    strides: list[int],
    dilation: list[int],
    pads: list[int],
    counted: bool,
    kind: str,
) -> Tensor:
    """The padded image, shifted to every place in the window, combined."""
    rank = len(kernel)
    if math.prod(kernel) > _MOST_SHIFTS or math.prod(x.shape[2:]) > _LARGEST_IMAGE:
        raise ValueError(f"a window of {kernel} over integers of {list(x.shape[2:])} is too large")
    average = kind == "AveragePool"
    empty = 0 if average else _LOWEST[x.dtype]
    flat = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
    padded = b.op("Pad", [x, b.constant(flat, "int64"), b.number(empty, x)]) if any(flat) else x
    inside = np.pad(np.ones(x.shape[2:]), list(zip(pads[:rank], pads[rank:], strict=True)))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    ends = [size - r for size, r in zip(padded.shape[2:], reach, strict=True)]
    if min(ends) < 1:
        raise ValueError(f"a window of {kernel} is larger than the image")
    counts, total = np.zeros(()), None
    axes = b.constant(list(range(2, 2 + rank)), "int64")
    steps = b.constant(strides, "int64")
    for place in itertools.product(*map(range, kernel)):
        low = [p * d for p, d in zip(place, dilation, strict=True)]
        high = [a + e for a, e in zip(low, ends, strict=True)]
        part = b.op("Slice", [padded, b.constant(low, "int64"), b.constant(high, "int64"), axes, steps])
        cut = tuple(slice(a, e, s) for a, e, s in zip(low, high, strides, strict=True))
        counts = counts + inside[cut]
        total = part if total is None else b.op("Add" if average else "Max", [total, part])
    assert total is not None
    if not average:
        return total
    share = np.full(counts.shape, math.prod(kernel)) if counted else np.maximum(counts, 1)
    return b.op("Div", [total, b.constant(share, x.dtype)])


def _pool(kind: str, rank: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        attrs.required("pool_size")
        return pool(b, args[0], attrs, rank, kind)

    return convert


def _whole(b: Builder, x: Tensor, kind: str) -> Tensor:
    """Over all of the image."""
    axes = b.constant(list(range(2, x.rank)), "int64")
    if kind == "MaxPool":
        return b.op("ReduceMax", [x, axes], keepdims=1)
    if x.is_integer:
        total = b.op("ReduceSum", [x, axes], keepdims=1)
        return b.op("Div", [total, b.number(math.prod(x.shape[2:]), x)])
    return b.op("GlobalAveragePool", [x])


def _global_pool(kind: str, rank: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        layout = attrs.text("layout", plain(rank))
        y = _whole(b, to_layout(b, args[0], layout, plain(rank)), kind)
        return to_layout(b, y, plain(rank), attrs.text("out_layout", layout))

    return convert


def _adaptive_pool(kind: str, rank: int) -> Any:
    """A grid of the given size; a cell begins and ends at the whole pixels around it."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        layout = attrs.text("layout", plain(rank))
        x = to_layout(b, args[0], layout, plain(rank))
        size = attrs.get("output_size")
        wanted = list(x.shape[2:]) if size in (None, []) else attrs.each("output_size", rank)
        if min(wanted) < 1 or max(wanted) > _MOST_SHIFTS:
            raise ValueError(f"an image of {wanted}")
        if wanted == [1] * rank:
            y = _whole(b, x, kind)
        elif not any(have % want for have, want in zip(x.shape[2:], wanted, strict=True)):
            cell = [have // want for have, want in zip(x.shape[2:], wanted, strict=True)]
            y = pool(b, x, Attributes({"pool_size": cell, "strides": cell}), rank, kind)
        elif kind == "AveragePool" and x.is_integer:
            raise ValueError(f"integers of {list(x.shape[2:])} do not divide into {wanted}")
        else:
            y = x
            for axis, want in enumerate(wanted, 2):
                y = _cells(b, y, axis, want, "ReduceMean" if kind == "AveragePool" else "ReduceMax")
        return to_layout(b, y, plain(rank), attrs.text("out_layout", layout))

    return convert


def _cells(b: Builder, x: Tensor, axis: int, count: int, kind: str) -> Tensor:
    size, along = x.shape[axis], b.constant([axis], "int64")
    cells = []
    for cell in range(count):
        low, high = cell * size // count, -(-(cell + 1) * size // count)
        part = b.op("Slice", [x, b.constant([low], "int64"), b.constant([high], "int64"), along])
        cells.append(b.op(kind, [part, along], keepdims=1))
    return b.op("Concat", cells, axis=axis)


OPERATORS: Mapping[str, Any] = {
    f"nn.{name}{rank}d": make(kind, rank)
    for rank in (1, 2, 3)
    for kind, short in (("AveragePool", "avg"), ("MaxPool", "max"))
    for name, make in (
        (f"{short}_pool", _pool),
        (f"global_{short}_pool", _global_pool),
        (f"adaptive_{short}_pool", _adaptive_pool),
    )
}
