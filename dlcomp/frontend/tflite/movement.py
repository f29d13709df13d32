"""TFLite's operators that move elements: shapes, joins, padding, blocks of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import OPEN, Tensor, axis_of
from dlcomp.frontend.tflite.activations import activated
from dlcomp.frontend.tflite.call import Call
from dlcomp.frontend.tflite.convolution import channels_first, channels_last


def _reshape(call: Call) -> Tensor:
    """The shape is an operand, or in the options of older files; it may be computed when the network runs."""
    b, x = call.b, call.arg(0)
    if call.maybe(1) is None:
        return b.reshape(x, call.options.wholes("NewShape"))
    if call.is_known(1):
        return b.reshape(x, call.wholes(1, "the shape"))
    y = b.op("Reshape", [x, b.wide(call.arg(1))])
    return Tensor(y.name, call.result.shape, y.dtype)


def _squeeze(call: Call) -> Tensor:
    x = call.arg(0)
    axes = call.options.wholes("SqueezeDims") or [d for d in range(x.rank) if x.shape[d] == 1]
    return call.b.squeeze(x, axes)


def _expand_dims(call: Call) -> Tensor:
    axis = axis_of(call.whole(1, "the axis"), call.arg(0).rank + 1)
    return call.b.unsqueeze(call.arg(0), [axis])


def _transpose(call: Call) -> Tensor:
    x = call.arg(0)
    return call.b.transpose(x, [axis_of(a, x.rank) for a in call.wholes(1, "the order of axes")])


def _concatenation(call: Call) -> Tensor:
    parts = call.all
    if not parts:
        raise ValueError("it has nothing to join")
    axis = axis_of(call.options.whole("Axis"), parts[0].rank)
    y = parts[0] if len(parts) == 1 else call.b.op("Concat", parts, axis=axis)
    return y if call.moved else activated(call, y)


def _pack(call: Call) -> Tensor:
    axis = axis_of(call.options.whole("Axis"), call.arg(0).rank + 1)
    return call.b.op("Concat", [call.b.unsqueeze(x, [axis]) for x in call.all], axis=axis)


def _unpack(call: Call) -> list[Tensor]:
    b, x, count = call.b, call.arg(0), len(call.results)
    axis = axis_of(call.options.whole("Axis"), x.rank)
    if b.known(x, [axis]) != [count]:
        raise ValueError(f"{x.shape[axis]} slices do not go into {count} results")
    sizes = b.constant([1] * count, "int64")
    return [b.squeeze(part, [axis]) for part in b.ops("Split", [x, sizes], count, axis=axis)]


def _tile(call: Call) -> Tensor:
    return call.b.op("Tile", [call.arg(0), call.b.wide(call.arg(1))])


def _broadcast_to(call: Call) -> Tensor:
    b, shape = call.b, call.b.wide(call.arg(1))
    return b.op("Expand", [call.arg(0), shape])


# -- padding -------------------------------------------------------------------------------------------------


def _widths(call: Call) -> Tensor:
    """ONNX's list, all before and then all behind, of the file's (rank, 2)."""
    x, found = call.arg(0), call.array(1, "the widths of the padding")
    if found.size != 2 * x.rank or found.min(initial=0) < 0:
        raise ValueError(f"widths {found.tolist()} for {x.rank} dimensions")
    return call.b.constant(found.reshape(-1, 2).T.reshape(-1), "int64")


def _pad(call: Call) -> Tensor:
    """With zeros, which for integers that stand for numbers is their zero point."""
    x = call.arg(0)
    zero = int(call.moved.zeros[0]) if call.moved is not None else 0
    return call.b.op("Pad", [x, _widths(call), call.b.number(zero, x)])


def _pad_v2(call: Call) -> Tensor:
    value = call.b.reshape(call.arg(2), [])
    return call.b.op("Pad", [call.arg(0), _widths(call), value])


def _mirror_pad(call: Call) -> Tensor:
    """REFLECT leaves the edge out; SYMMETRIC repeats it, which ONNX's Pad cannot: the places are gathered."""
    b, x = call.b, call.arg(0)
    if call.options.whole("Mode") == 0:
        return b.op("Pad", [x, _widths(call)], mode="reflect")
    widths = call.array(1, "the widths of the padding").reshape(-1, 2)
    if len(widths) != x.rank:
        raise ValueError(f"{len(widths)} widths for {x.rank} dimensions")
    for axis, (low, high) in enumerate(widths.tolist()):
        if not low and not high:
            continue
        (size,) = b.known(x, [axis])
        if not 0 <= low <= size or not 0 <= high <= size:
            raise ValueError(f"{size} elements along axis {axis} do not mirror {low} and {high}")
        order = np.r_[range(low - 1, -1, -1), range(size), range(size - 1, size - high - 1, -1)]
        x = b.op("Gather", [x, b.constant(order, "int64")], axis=axis)
    return x


# -- blocks --------------------------------------------------------------------------------------------------


def _depth_to_space(call: Call) -> Tensor:
    b, size = call.b, call.options.whole("BlockSize")
    return channels_last(
        b, b.op("DepthToSpace", [channels_first(b, call.arg(0))], blocksize=size, mode="DCR")
    )


def _space_to_depth(call: Call) -> Tensor:
    b, size = call.b, call.options.whole("BlockSize")
    return channels_last(b, b.op("SpaceToDepth", [channels_first(b, call.arg(0))], blocksize=size))


def _blocks(call: Call) -> tuple[Tensor, list[int], list[list[int]]]:
    x, blocks = call.arg(0), call.wholes(1, "the sizes of blocks")
    edges = call.array(2, "the edges").reshape(-1, 2).tolist()
    if not 1 <= len(blocks) == len(edges) < x.rank or min(blocks) < 1 or min(map(min, edges)) < 0:
        raise ValueError(f"blocks of {blocks} with edges {edges} in {x.rank} dimensions")
    call.b.known(x, range(1, x.rank))
    return x, blocks, edges


def _space_to_batch(call: Call) -> Tensor:
    """(N, H b, W c, ...) to (b c N, H, W, ...), padded before."""
    b = call.b
    x, blocks, edges = _blocks(call)
    rest = x.rank - 1 - len(blocks)
    flat = [0, *(low for low, _ in edges), *[0] * rest, 0, *(high for _, high in edges), *[0] * rest]
    zero = int(call.moved.zeros[0]) if call.moved is not None else 0
    if any(flat):
        x = b.op("Pad", [x, b.constant(flat, "int64"), b.number(zero, x)])
    count, tail = len(blocks), list(x.shape[1 + len(blocks) :])
    cells = []
    for size, block in zip(x.shape[1:], blocks, strict=False):
        if size % block:
            raise ValueError(f"{size} is no multiple of the block {block}")
        cells += [size // block, block]
    y = b.reshape(x, [x.shape[0], *cells, *tail])
    inner = range(2, 2 + 2 * count, 2)
    y = b.transpose(y, [*inner, 0, *(i - 1 for i in inner), *range(1 + 2 * count, y.rank)])
    return b.reshape(y, [_times(x.shape[0], math.prod(blocks)), *cells[::2], *tail])


def _batch_to_space(call: Call) -> Tensor:
    """The way back, cropped behind."""
    b = call.b
    x, blocks, edges = _blocks(call)
    count, tail = len(blocks), list(x.shape[1 + len(blocks) :])
    if x.shape[0] % math.prod(blocks) and x.shape[0] != OPEN:
        raise ValueError(f"a batch of {x.shape[0]} is no multiple of {math.prod(blocks)}")
    batch = OPEN if x.shape[0] == OPEN else x.shape[0] // math.prod(blocks)
    y = b.reshape(x, [*blocks, batch, *x.shape[1:]])
    order = [count]
    for i in range(count):
        order += [count + 1 + i, i]
    y = b.transpose(y, [*order, *range(2 * count + 1, y.rank)])
    sizes = [size * block for size, block in zip(x.shape[1:], blocks, strict=False)]
    y = b.reshape(y, [batch, *sizes, *tail])
    ends = [size - high for size, (_, high) in zip(sizes, edges, strict=True)]
    lists = [[low for low, _ in edges], ends, list(range(1, 1 + count))]
    return b.op("Slice", [y, *(b.constant(v, "int64") for v in lists)])


def _times(size: int, factor: int) -> int:
    return OPEN if size == OPEN else size * factor


MOVING: Mapping[str, Any] = {
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "BROADCAST_TO": _broadcast_to,
    "CONCATENATION": _concatenation,
    "DEPTH_TO_SPACE": _depth_to_space,
    "EXPAND_DIMS": _expand_dims,
    "MIRROR_PAD": _mirror_pad,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad_v2,
    "RESHAPE": _reshape,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SQUEEZE": _squeeze,
    "TILE": _tile,
    "TRANSPOSE": _transpose,
    "UNPACK": _unpack,
}
