"""Convolutions with weights of which whole vectors of output channels are zeros, NHWC.

A task is one row of output pixels: the rows of the image that its kernel covers are copied with their
padding, and every weight that is left is a fixed distance from an output pixel's first input in that copy.
So a k x k kernel is the sparse product of :mod:`dlcomp.schedules.cpu.block_sparse`, without an im2col. Where
there is no padding the image is read as it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.block_sparse import (
    Operands,
    definition,
    is_blocked,
    pack,
    tile,
    tile_estimate,
    tile_heights,
)
from dlcomp.schedules.cpu.emit import (
    Expr,
    Stmt,
    alloc,
    const,
    dynamic_loop,
    loop,
    scratch,
    seq,
    splat,
    vload,
    vstore,
)
from dlcomp.schedules.cpu.tile import call_rows, lanes_of, pieces, split_evenly
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.sparsity import counts
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Conv2d, Workload
from dlcomp.target import Target


class SparseConv2d(Template):
    """Knobs: ``rows`` (output pixels of a tile) and ``width`` (of a block of output channels)."""

    name: ClassVar[str] = "conv2d.block_sparse"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Conv2d)
            and target.kind == "cpu"
            and workload.ow > 0
            and workload.arithmetic == "float32"
            and workload.groups == 1
            and is_blocked(workload.stored)
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        return [
            {"rows": rows, "width": width}
            for rows, width in tile_heights(workload.ow, workload.stored, target)
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        wl, width = workload, knobs["width"]
        stored, blocks = counts(wl.stored)[width], -(-wl.co // width)
        inputs, line = wl.kh * wl.kw * wl.ci, wl.kh * _pitch(wl) * wl.ci
        a_line = sum(
            tile_estimate(stored / blocks, inputs, size, width, stored * width * 4, line * 4, target)
            for _, size in split_evenly(wl.ow, knobs["rows"])
        )
        copied = 2 * line / lanes_of(target) if _is_padded(wl) else 0
        return wl.n * wl.oh * (blocks * a_line + copied)

    def flops(self, workload: Workload, knobs: Knobs) -> int:
        assert isinstance(workload, Conv2d)
        stored = counts(workload.stored)[knobs["width"]] * knobs["width"]
        return 2 * workload.n * workload.oh * workload.ow * stored

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """(co, kh, kw, ci) as :func:`dlcomp.schedules.cpu.block_sparse.pack` does."""
        assert isinstance(workload, Conv2d)
        wl = workload
        rows = np.arange(wl.kh)[:, None, None] * _row_step(wl) * _pitch(wl)
        columns = np.arange(wl.kw)[:, None] * wl.dw
        offsets = ((rows + columns) * wl.ci + np.arange(wl.ci)).reshape(-1)
        # Every core has rows of its own, so the blocks keep their order.
        return pack(weight.reshape(wl.co, -1).T, offsets, knobs["width"], shares=1)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Conv2d)
        wl = workload
        data, *packed = operands
        row = _pitch(wl) * wl.ci

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            def read(offset: Expr) -> Expr:
                iy = y * wl.sh + offset // row * (wl.dh // _row_step(wl)) - wl.top
                ix = x * wl.sw + offset % row // wl.ci - wl.left
                inside = te.all(iy >= 0, iy < wl.h, ix >= 0, ix < wl.w)
                return tirx.if_then_else(inside, data[n, iy, ix, offset % wl.ci], tirx.const(0, "float32"))

            return definition(knobs["width"], packed, c, read)

        shape = (wl.n, wl.oh, wl.ow, wl.co)
        return te.compute(shape, at, name="conv2d", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        wl, operands = workload, Operands.of(anchor)
        lines = scratch("lines", (wl.kh, _pitch(wl), wl.ci))

        def task(line: Expr) -> Stmt:
            n, oy = line // wl.oh, line % wl.oh

            def pixel(x: Expr, offset: Expr) -> Expr:
                # The last index counts on into the pixels and rows that follow.
                if _is_padded(wl):
                    return tirx.BufferLoad(lines, [const(0), x * wl.sw, offset])
                return tirx.BufferLoad(operands.data, [n, oy * wl.sh, x * wl.sw, offset])

            def piece(start: Expr, size: int, place: Expr) -> Stmt:
                return tile(
                    anchor,
                    operands,
                    place,
                    size,
                    knobs["width"],
                    wl.co,
                    target,
                    lambda r, offset: pixel(start + r, offset),
                    lambda r: [n, oy, start + r],
                )

            def block(place: Expr) -> Stmt:
                pixels = split_evenly(wl.ow, knobs["rows"])
                return call_rows(pixels, lambda s, z: False, lambda s, z, _: piece(s, z, place))

            blocks = loop("block", operands.blocks, block)
            if not _is_padded(wl):
                return blocks
            return seq([alloc(lines), _copy(wl, operands.data, lines, n, oy, lanes_of(target)), blocks])

        kind = parallel_kind(self.flops(workload, knobs), target)
        return anchor.schedule_of(loop("line", wl.n * wl.oh, task, kind))


def _is_padded(wl: Conv2d) -> bool:
    """Whether a window leaves the image somewhere."""
    bottom = (wl.oh - 1) * wl.sh + (wl.kh - 1) * wl.dh - wl.top
    right = (wl.ow - 1) * wl.sw + (wl.kw - 1) * wl.dw - wl.left
    return wl.top > 0 or wl.left > 0 or bottom >= wl.h or right >= wl.w


def _pitch(wl: Conv2d) -> int:
    """Pixels from a row to the next: of the copy, or of the image."""
    return (wl.ow - 1) * wl.sw + (wl.kw - 1) * wl.dw + 1 if _is_padded(wl) else wl.w


def _row_step(wl: Conv2d) -> int:
    """Rows from a row of the kernel to the next; the copy has only those that a kernel row meets."""
    return 1 if _is_padded(wl) else wl.dh


def _copy(wl: Conv2d, data: Any, lines: Any, n: Expr, oy: Expr, lanes: int) -> Stmt:
    """The image's rows under a kernel, zeros outside of it."""
    pitch = _pitch(wl)
    before, after = max(0, min(pitch, wl.left)), max(0, pitch - wl.w - wl.left)

    def pixels(name: str, start: int, count: Expr, ky: Expr, value: Any) -> Stmt:
        def move(x: Expr, c: Expr, size: int) -> Stmt:
            return vstore(lines, value(start + x, c, size), [ky, start + x, c], size)

        def one(x: Expr) -> Stmt:
            full = wl.ci // lanes
            steps = [loop("c", full, lambda c: move(x, c * lanes, lanes))] if full else []
            rest = pieces(wl.ci % lanes, lanes)
            return seq([*steps, *(move(x, const(full * lanes + o), size) for o, size in rest)])

        return dynamic_loop(name, const(0), count, one)

    def zeros(x: Expr, c: Expr, size: int) -> Expr:
        return splat(tirx.const(0, "float32"), size)

    def row(ky: Expr) -> Stmt:
        iy = oy * wl.sh + ky * wl.dh - wl.top
        inside = tirx.all(iy >= 0, iy < wl.h)

        def image(x: Expr, c: Expr, size: int) -> Expr:
            return vload(data, [n, iy, x - wl.left, c], size)

        whole = [
            pixels("before", 0, const(before), ky, zeros),
            pixels("x", before, const(pitch - before - after), ky, image),
            pixels("after", pitch - after, const(after), ky, zeros),
        ]
        return tirx.IfThenElse(inside, seq(whole), pixels("x", 0, const(pitch), ky, zeros))

    return loop("ky", wl.kh, row)
