"""Convolutions of integers with weights of which whole groups of inputs are zeros for a block of outputs.

An instruction takes a group of neighbouring channels for every output
(:mod:`dlcomp.schedules.cpu.arithmetic`), so what is skipped are groups that are zeros for a whole block of
outputs: those of weights pruned in blocks of 16x4 or 16x2, and of others where zeros are many. The image
(NHWC) comes padded, so every group that is left is a fixed distance from an output pixel's first one in the
image as it lies: nothing is copied or gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import INTEGERS, arithmetic_of, narrowest
from dlcomp.schedules.cpu.block_sparse import Operands, tile, tile_estimate
from dlcomp.schedules.cpu.emit import Expr, Stmt, loop
from dlcomp.schedules.cpu.tile import call_rows, lanes_of, pieces, split_evenly
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.sparsity import counts, groups, vectors
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Conv2d, Workload
from dlcomp.target import Target


class SparseIntegerConv2d(Template):
    """Knobs: ``rows`` (output pixels of a tile) and ``width`` (of a block of output channels)."""

    name: ClassVar[str] = "conv2d.block_sparse_integers"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Conv2d)
            and target.kind == "cpu"
            and workload.ow > 0
            and workload.arithmetic in INTEGERS
            and workload.groups == 1
            and _is_inside(workload)
            and any(width % narrowest(workload.arithmetic) == 0 for width in _left(workload))
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        return [
            {"rows": rows, "width": width}
            for width in sorted(_left(workload))
            if width % narrowest(workload.arithmetic) == 0
            for rows in _heights(workload.ow, width, target)
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        wl, width = workload, knobs["width"]
        steps, blocks = _left(wl)[width], -(-wl.co // width)
        # A step takes 32 bits of every row and of every column, whatever the arithmetic.
        words = wl.ci // arithmetic_of(wl.arithmetic).group
        line = wl.kh * wl.w * words * 4
        a_line = sum(
            tile_estimate(steps / blocks, wl.kh * wl.kw * words, size, width, steps * width * 4, line, target)
            for _, size in split_evenly(wl.ow, knobs["rows"])
        )
        return wl.n * wl.oh * blocks * a_line

    def flops(self, workload: Workload, knobs: Knobs) -> int:
        assert isinstance(workload, Conv2d)
        kept = _left(workload)[knobs["width"]] * arithmetic_of(workload.arithmetic).group
        return 2 * workload.n * workload.oh * workload.ow * kept * knobs["width"]

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """(co, kh, kw, ci) as values (steps, width * group), the distance of each step's inputs in groups,
        and the index: an order of the blocks, then where the steps of each start, and their end.
        """
        assert isinstance(workload, Conv2d)
        wl, width, group = workload, knobs["width"], arithmetic_of(workload.arithmetic).group
        blocks, words = -(-wl.co // width), wl.ci // group
        rows = np.arange(wl.kh)[:, None, None] * wl.dh * wl.w
        columns = np.arange(wl.kw)[:, None] * wl.dw
        places = ((rows + columns) * words + np.arange(words)).reshape(-1)
        padded = np.zeros((blocks * width, len(places) * group), weight.dtype)
        padded[: wl.co] = weight.reshape(wl.co, -1)
        kept = vectors(padded.T, width, group)
        block, step = np.nonzero(kept.T)
        # (blocks, steps, width, group)
        split = padded.reshape(blocks, width, len(places), group).transpose(0, 2, 1, 3)
        values = split[block, step].reshape(-1, width * group)
        kind = np.uint16 if places.max(initial=0) < 1 << 16 else np.uint32
        offsets = places[step].astype(kind)
        if not len(values):
            values, offsets = np.zeros((1, width * group), weight.dtype), np.zeros(1, kind)
        # Every core has rows of its own, so the blocks keep their order.
        index = np.concatenate([np.arange(blocks), [0], np.cumsum(kept.sum(axis=0))]).astype(np.int32)
        return np.ascontiguousarray(values), offsets, index

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Conv2d)
        wl, width, arithmetic = workload, knobs["width"], arithmetic_of(workload.arithmetic)
        data, values, offsets, index = operands
        words = wl.ci // arithmetic.group
        step = te.reduce_axis((0, values.shape[0]), "step")
        word = te.reduce_axis((0, arithmetic.group), "word")
        blocks = index.shape[0] // 2

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            block = blocks + c // width
            mine = te.all(index[block] <= step, step < index[block + 1])
            place = offsets[step].astype("int64")
            iy = y * wl.sh + place // (wl.w * words)
            ix = x * wl.sw + place % (wl.w * words) // words
            read = data[n, iy, ix, place % words * arithmetic.group + word]
            product = arithmetic.product(read, values[step, c % width * arithmetic.group + word])
            return te.sum(tirx.if_then_else(mine, product, arithmetic.zero), axis=[step, word])

        shape = (wl.n, wl.oh, wl.ow, wl.co)
        return te.compute(shape, at, name="conv2d", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        wl, operands, arithmetic = workload, Operands.of(anchor), arithmetic_of(workload.arithmetic)

        def task(line: Expr) -> Stmt:
            n, oy = line // wl.oh, line % wl.oh

            def piece(start: Expr, size: int, place: Expr) -> Stmt:
                def pixel(r: int, offset: Expr) -> Expr:
                    # The last index counts on into the pixels and rows that follow.
                    at = [n, oy * wl.sh, (start + r) * wl.sw, offset]
                    return arithmetic.scalar(operands.data, at)

                return tile(
                    anchor,
                    operands,
                    place,
                    size,
                    knobs["width"],
                    wl.co,
                    target,
                    pixel,
                    lambda r: [n, oy, start + r],
                    arithmetic,
                )

            def block(place: Expr) -> Stmt:
                pixels = split_evenly(wl.ow, knobs["rows"])
                return call_rows(pixels, lambda s, z: False, lambda s, z, _: piece(s, z, place))

            return loop("block", operands.blocks, block)

        kind = parallel_kind(self.flops(workload, knobs), target)
        return anchor.schedule_of(loop("line", wl.n * wl.oh, task, kind))


def _left(wl: Conv2d) -> dict[int, int]:
    """Groups of inputs that are left, by the width of the block of outputs that they are left for."""
    group = arithmetic_of(wl.arithmetic).group
    if group == 1:
        return {width: count for width, count in counts(wl.stored).items() if width > 1}
    return {width: count for (width, size), count in groups(wl.stored).items() if size == group}


def _is_inside(wl: Conv2d) -> bool:
    """Whether no window leaves the image: zeros are not what integers are padded with."""
    bottom = (wl.oh - 1) * wl.sh + (wl.kh - 1) * wl.dh
    right = (wl.ow - 1) * wl.sw + (wl.kw - 1) * wl.dw
    return not (wl.top or wl.left) and bottom < wl.h and right < wl.w


def _heights(pixels: int, width: int, target: Target) -> list[int]:
    """Rows of register tiles that fit beside a step's weights, an input and two registers that LLVM wants."""
    parts = len(pieces(width, lanes_of(target)))
    most = max(1, (target.vector_registers - 3 - parts) // parts)
    found = {-(-pixels // tiles) for tiles in range(-(-pixels // most), pixels + 1)}
    return [height for height in sorted(found) if height >= min(pixels, max(1, most // 4))]
