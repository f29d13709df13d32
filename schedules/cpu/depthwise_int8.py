"""Depthwise convolution of 8-bit integers, NHWC, with exact 32-bit sums.

Instructions for integers add the products of a few neighbours along the reduction; a depthwise convolution
has none along the channels. Here they are taken along the rows of the window. A task copies the rows of the
image that a line of output needs, a block of channels of them, one above the other: each row once, and with
the padding, so that all tiles are alike. What lies in one column is then woven together
(:mod:`dlcomp.schedules.cpu.interleave`) into words of a few rows, which all outputs that read it share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import arithmetic_of
from dlcomp.schedules.cpu.depthwise_block import (
    NARROWEST,
    Block,
    columns_of,
    item_bytes,
    lanes_of_sums,
    span_of,
)
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, dynamic_loop, loop, seq
from dlcomp.schedules.cpu.tile import bytes_a_cycle, lanes_of, split_evenly
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Window2d, Workload
from dlcomp.target import Target

# Bytes of a line of the cache.
_LINE = 64
# Tasks a core, so that the last one does not wait for a long one of another.
_TASKS = 4


class IntegerDepthwise(Template):
    """Knobs: ``rows`` (output pixels of a tile), ``width`` (channels of a task), ``bands`` (tasks that an
    image's lines are shared among).

    Data are unsigned. Weights are (kh/group, kw, c * group): one word of a group of rows for every channel.
    The last block of channels ends with the last channel, and computes some of them again.
    """

    name: ClassVar[str] = "depthwise.integer"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Window2d)
            and workload.kind == "depthwise"
            and workload.arithmetic != "float32"
            and workload.ow > 0
            and target.kind == "cpu"
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Window2d)
        wl, kinds = workload, arithmetic_of(workload.arithmetic)
        widest = max(NARROWEST, target.vector_bits // (8 * item_bytes(kinds)))
        widths = [w for w in (64, 32, 16, 8, 4) if w <= min(widest, wl.c)] or [1]
        # Beside the sums the weights of a row of words, a word, and what the epilogue has are in registers.
        most = max(1, min(14, target.vector_registers - min(wl.kw, 6) - 8))
        heights = sorted({size for most_ in range(1, most + 1) for _, size in split_evenly(wl.ow, most_)[:1]})
        return [
            {"rows": rows, "width": width, "bands": _bands(wl, width, target)}
            for width in widths
            for rows in heights
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Window2d)
        wl, width, kinds = workload, knobs["width"], arithmetic_of(workload.arithmetic)
        groups = -(-wl.kh // kinds.group)
        lanes = lanes_of_sums(kinds, width, lanes_of(target))
        # Cycles of an instruction on a vector of words: processors do two of 256 bits at once.
        once = max(1.0, 32 * lanes / 256) / 2

        def tile(rows: int) -> float:
            columns = min((rows - 1) * wl.sw + (wl.kw - 1) * wl.dw + 1, rows * wl.kw)
            work = rows * wl.kw * groups * (1 if kinds.group == 4 else 2)
            # The latency of an instruction, where there are few sums to wait for.
            waiting = 4 * wl.kw * groups / max(1.0, once * 2)
            loads = (columns + wl.kw) * groups
            return once * (max(work, loads, waiting) + loads / 4 + 8 * rows) + 4

        blocks, parts = -(-wl.c // width), width // lanes
        tiles = split_evenly(wl.ow, knobs["rows"])
        # Tiles of two sizes are code twice.
        line = parts * sum(tile(size) for _, size in tiles) * (1.0 if tiles[0][1] == tiles[-1][1] else 1.1)
        columns, new, words = columns_of(wl), min(span_of(wl), wl.sh), 0.0
        if kinds.group > 1 and width >= NARROWEST:
            words = groups * parts * (4 * once + 1)
        # Whole lines of the cache come from the image and go to the result, however few channels are wanted.
        wide = max(width, _LINE)
        image = wl.h * wl.w * wl.c + wl.oh * wl.ow * wl.c
        moved = (columns * new + wl.ow) * wide / bytes_a_cycle(image, target)
        held = span_of(wl) * columns * width * item_bytes(kinds)
        beyond = columns * new * width / 8 if 2 * held > target.l1_bytes else 0.0
        copied = columns * new * (2 + width * item_bytes(kinds) / 32) + moved + beyond
        again = knobs["bands"] * (span_of(wl) - new) * columns * 3
        return wl.n * blocks * (wl.oh * (line + columns * words + copied) + again)

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
        """(c, kh, kw, 1) to (kh/group, kw, c * group), zeros below the last row."""
        assert isinstance(workload, Window2d)
        wl, group = workload, arithmetic_of(workload.arithmetic).group
        groups = -(-wl.kh // group)
        padded = np.zeros((wl.c, groups * group, wl.kw), weight.dtype)
        padded[:, : wl.kh] = weight[..., 0]
        split = padded.reshape(wl.c, groups, group, wl.kw).transpose(1, 3, 0, 2)
        return np.ascontiguousarray(split).reshape(groups, wl.kw, wl.c * group)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Window2d)
        wl, (data, packed) = workload, operands
        kinds = arithmetic_of(wl.arithmetic)
        ky, kx = te.reduce_axis((0, wl.kh), "ky"), te.reduce_axis((0, wl.kw), "kx")

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            iy, ix = y * wl.sh + ky * wl.dh - wl.top, x * wl.sw + kx * wl.dw - wl.left
            inside = te.all(iy >= 0, iy < wl.h, ix >= 0, ix < wl.w)
            pixel = tirx.if_then_else(inside, data[n, iy, ix, c], tirx.const(wl.filling, data.dtype))
            weight = packed[ky // kinds.group, kx, c * kinds.group + ky % kinds.group]
            return te.sum(tirx.Cast(kinds.sums, pixel) * tirx.Cast(kinds.sums, weight), axis=[ky, kx])

        shape = (wl.n, wl.oh, wl.ow, wl.c)
        return te.compute(shape, at, name=wl.kind, attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Window2d)
        wl, width, bands = workload, knobs["width"], knobs["bands"]
        blocks, lines = -(-wl.c // width), -(-wl.oh // bands)

        def task(index: Expr) -> Stmt:
            block, rest = index % blocks, index // blocks
            band = tirx.Var("band", "int64")
            channel = tirx.Var("channel", "int64")
            part = Block(anchor, wl, knobs["rows"], width, target, rest // bands, channel)
            count = tirx.min(const(lines), wl.oh - band * lines)
            return seq(
                [
                    tirx.Bind(band, rest % bands),
                    tirx.Bind(channel, tirx.min(block * width, const(wl.c - width))),
                    *part.begin(band * lines),
                    dynamic_loop("line", const(0), count, lambda line: part.line(band * lines + line)),
                ]
            )

        kind = parallel_kind(4 * wl.flops, target)
        return anchor.schedule_of(loop("task", wl.n * bands * blocks, task, kind))


def _bands(wl: Window2d, width: int, target: Target) -> int:
    """As many as give every core some tasks, of several lines each."""
    tasks = wl.n * -(-wl.c // width)
    most = max(1, wl.oh // max(4, 2 * wl.kh))
    wanted = min(most, -(-_TASKS * target.cores // tasks)) if target.cores > 1 else 1
    return -(-wl.oh // -(-wl.oh // wanted))
