"""Convolution by im2col: patches copied into rows, then a product; the baseline that others are measured by.

Chellapilla et al., "High performance convolutional neural networks for document processing", 2006. Only as
many patches are copied at a time as half of L2 holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import arithmetic_of
from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, loop, scratch, seq, vload, vstore
from dlcomp.schedules.cpu.gemm import PackedGemm
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    bytes_a_cycle,
    lanes_of,
    multiply_accumulate,
    pieces,
    tile_shapes,
    write_rows,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Conv2d, Gemm, Workload
from dlcomp.target import Target

_GEMM = PackedGemm()


class Im2colConv2d(Template):
    """Knobs: ``rows`` (output pixels) and ``width`` (output channels) of a register tile."""

    name: ClassVar[str] = "conv2d.im2col"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Conv2d)
            and workload.ow > 0
            and workload.groups == 1
            and workload.arithmetic == "float32"
            and target.kind == "cpu"
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        pixels = workload.oh * workload.ow
        shapes = tile_shapes(target, pixels, workload.co)
        return [{"rows": rows, "width": width} for rows, width in shapes]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        product = _product(workload)
        tiles = _chunk(workload, knobs, target)
        copied = 2 * 4 * product.m * product.k
        size = 4 * tiles * knobs["rows"] * product.k
        return _GEMM.estimate(product, {**knobs, "chunk": tiles}, target) + copied / bytes_a_cycle(
            size, target
        )

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
        """(co, kh, kw, ci) to (co/width, kh * kw * ci, width)."""
        assert isinstance(workload, Conv2d)
        product = _product(workload)
        return _GEMM.pack(product, knobs, weight.reshape(workload.co, product.k).T)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Conv2d)
        wl, width = workload, knobs["width"]
        data, packed = operands
        ky, kx, ci = (te.reduce_axis((0, e), n) for e, n in ((wl.kh, "ky"), (wl.kw, "kx"), (wl.ci, "ci")))

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            iy, ix = y * wl.sh + ky * wl.dh - wl.top, x * wl.sw + kx * wl.dw - wl.left
            inside = te.all(iy >= 0, iy < wl.h, ix >= 0, ix < wl.w)
            pixel = tirx.if_then_else(inside, data[n, iy, ix, ci], tirx.const(0, data.dtype))
            return te.sum(
                pixel * packed[c // width, (ky * wl.kw + kx) * wl.ci + ci, c % width], axis=[ky, kx, ci]
            )

        shape = (wl.n, wl.oh, wl.ow, wl.co)
        return te.compute(shape, at, name="conv2d", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        tiles = _chunk(workload, knobs, target)
        whole = -(-workload.oh * workload.ow // knobs["rows"])
        chunks = -(-whole // tiles)
        lanes = lanes_of(target)

        def task(index: Expr) -> Stmt:
            return _patches_product(anchor, workload, knobs, lanes, -(-whole // chunks), index, chunks)

        kind = parallel_kind(workload.flops, target)
        return anchor.schedule_of(loop("task", workload.n * chunks, task, kind))


def _product(wl: Conv2d) -> Gemm:
    return Gemm(wl.n * wl.oh * wl.ow, wl.co, wl.kh * wl.kw * wl.ci)


def _chunk(wl: Conv2d, knobs: Knobs, target: Target) -> int:
    """Tiles of rows whose patches are copied at a time; at least a chunk for every core."""
    a_tile = 4 * knobs["rows"] * wl.kh * wl.kw * wl.ci
    most = max(1, target.l2_bytes // 2 // a_tile)
    whole = -(-wl.oh * wl.ow // knobs["rows"])
    return max(1, min(most, -(-whole // target.cores)))


def _patches_product(
    anchor: Anchor, wl: Conv2d, knobs: Knobs, lanes: int, tiles: int, index: Expr, chunks: int
) -> Stmt:
    """``tiles`` tiles of pixels: their patches, then all output channels."""
    rows, width = knobs["rows"], knobs["width"]
    depth, pixels = wl.kh * wl.kw * wl.ci, wl.oh * wl.ow
    data, packed = anchor.inputs
    n, chunk = index // chunks, index % chunks
    patches = scratch("patches", (tiles, rows, depth))

    def first(tile: Expr) -> Expr:
        """The last tiles are moved up so that they are full ones."""
        return tirx.min((chunk * tiles + tile) * rows, const(pixels - rows))

    def copied(tile: Expr) -> Stmt:
        def of_row(row: Expr) -> Stmt:
            pixel = first(tile) + row
            oy, ox = pixel // wl.ow, pixel % wl.ow

            def of_tap(tap: Expr) -> Stmt:
                iy = oy * wl.sh + tap // wl.kw * wl.dh - wl.top
                ix = ox * wl.sw + tap % wl.kw * wl.dw - wl.left
                inside = tirx.all(iy >= 0, iy < wl.h, ix >= 0, ix < wl.w)

                def moved(value: Any) -> Stmt:
                    return _channels(
                        wl.ci,
                        lanes,
                        lambda c, size: vstore(patches, value(c, size), [tile, row, tap * wl.ci + c], size),
                    )

                zeros = moved(
                    lambda c, size: tirx.Broadcast(tirx.const(0.0), size) if size > 1 else tirx.const(0.0)
                )
                return tirx.IfThenElse(
                    inside, moved(lambda c, size: vload(data, [n, iy, ix, c], size)), zeros
                )

            return loop("tap", wl.kh * wl.kw, of_tap)

        return loop("row", rows, of_row)

    blocks = -(-wl.co // width)
    float32 = arithmetic_of("float32")

    def product(block: Expr, tile: Expr) -> Stmt:
        acc = Accumulators(rows, width)

        def step(k: Expr) -> Stmt:
            return multiply_accumulate(
                acc,
                range(rows),
                lanes,
                lambda offset, size: vload(packed, [block, k, const(offset)], size),
                lambda r: patches[tile, const(r), k],
            )

        def store(columns: int) -> Stmt:
            def place(r: int) -> list[Expr]:
                pixel = first(tile) + r
                return [n, pixel // wl.ow, pixel % wl.ow]

            return write_rows(anchor, acc, columns, lanes, place, block * width)

        stores = by_block(block, wl.co, width, store)
        return seq([acc.alloc(), acc.clear(lanes, float32.zero), loop("k", depth, step), stores])

    products = loop("block", blocks, lambda b: loop("tile", tiles, lambda t: product(b, t)))
    return seq([alloc(patches), loop("tile", tiles, copied), products])


def _channels(count: int, lanes: int, move: Any) -> Stmt:
    """``move(first, size)`` for all channels, in whole vectors and what is left."""
    full = count // lanes
    statements = [loop("c", full, lambda c: move(c * lanes, lanes))] if full else []
    for offset, size in pieces(count - full * lanes, lanes):
        statements.append(move(const(full * lanes + offset), size))
    return seq(statements)
