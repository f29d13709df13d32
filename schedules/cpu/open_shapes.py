"""Convolutions and windows over images of a size that only the run knows.

Borders are no cases: what is passed over was padded before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, narrowest
from dlcomp.schedules.cpu.conv2d import DirectConv2d
from dlcomp.schedules.cpu.emit import (
    Expr,
    Stmt,
    const,
    loop,
    open_loop,
    seq,
    splat,
)
from dlcomp.schedules.cpu.open_runs import heights, runs, shared
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    lanes_of,
    multiply_accumulate,
    pieces,
    tile_cycles,
    tile_shapes,
    write_row,
    write_rows,
)
from dlcomp.schedules.cpu.window2d import DirectWindow2d, column
from dlcomp.schedules.template import Knobs, annotations
from dlcomp.schedules.workload import Conv2d, Window2d, Workload
from dlcomp.target import Target

# What the estimates take the height and the width of an image for.
_LINE = 64


class OpenConv2d(DirectConv2d):
    """A convolution over a padded image of open size, NHWC, weights as those of ``conv2d.direct``.

    Knobs: ``rows`` (output pixels) and ``width`` (output channels) of a tile.
    """

    name: ClassVar[str] = "conv2d.open"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return isinstance(workload, Conv2d) and workload.ow == 0 and target.kind == "cpu"

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        shapes = tile_shapes(target, _LINE, workload.co, narrowest(workload.arithmetic))
        return [{"rows": rows, "width": width} for rows, width in shapes]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        wl = workload
        size = {"h": _LINE * wl.sh, "w": _LINE * wl.sw, "oh": _LINE, "ow": _LINE, "n": 1}
        fields = {name: getattr(wl, name) for name in wl.__dataclass_fields__}
        return super().estimate(Conv2d(**{**fields, **size}), {**knobs, "weights_outer": 0}, target)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any, shape: Any = None) -> Any:
        assert isinstance(workload, Conv2d)
        wl, width = workload, knobs["width"]
        data, packed = operands
        arithmetic = arithmetic_of(workload.arithmetic)
        group = arithmetic.group
        ky, kx, ci = (te.reduce_axis((0, e), n) for e, n in ((wl.kh, "ky"), (wl.kw, "kx"), (wl.ci, "ci")))

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            g, o = (c // wl.co, c % wl.co) if wl.groups > 1 else (0, c)
            pixel = data[n, y * wl.sh + ky * wl.dh, x * wl.sw + kx * wl.dw, g * wl.ci + ci]
            weight = packed[g, o // width, ky, kx, ci // group, o % width * group + ci % group]
            return te.sum(arithmetic.product(pixel, weight), axis=[ky, kx, ci])

        return te.compute(tuple(shape), at, name="conv2d", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        wl, width, lanes = workload, knobs["width"], lanes_of(target)
        arithmetic = arithmetic_of(wl.arithmetic)
        words = wl.ci // arithmetic.group
        data, packed = anchor.inputs
        blocks = -(-wl.co // width)
        images, height, line = anchor.output.shape[:3]

        def task(index: Expr) -> Stmt:
            block = tirx.floormod(index, const(wl.groups * blocks))
            n, oy = (tirx.Var(name, "int64") for name in ("n", "oy"))
            at = tirx.floordiv(index, const(wl.groups * blocks))
            where = [tirx.Bind(n, tirx.floordiv(at, height)), tirx.Bind(oy, tirx.floormod(at, height))]
            group, column = block // blocks, block % blocks

            def tile(start: Expr, size: int) -> Stmt:
                acc = Accumulators(size, width, arithmetic.sums)

                def step(ky: Expr, kx: Expr, ci: Expr) -> Stmt:
                    return multiply_accumulate(
                        acc,
                        range(size),
                        lanes,
                        lambda offset, wide: arithmetic.vector(
                            packed, [group, column, ky, kx, ci, const(offset)], wide
                        ),
                        lambda r: arithmetic.scalar(
                            data,
                            [
                                n,
                                oy * wl.sh + ky * wl.dh,
                                (start + r) * wl.sw + kx * wl.dw,
                                group * words + ci,
                            ],
                        ),
                        arithmetic,
                    )

                def row(ky: Expr) -> Stmt:
                    if wl.dw == 1 and wl.groups == 1:
                        # Taps and channels of a kernel row lie one after the other.
                        return loop("j", wl.kw * words, lambda j: step(ky, j // words, j % words))
                    return loop("kx", wl.kw, lambda kx: loop("ci", words, lambda ci: step(ky, kx, ci)))

                def store(channels: int) -> Stmt:
                    first = group * wl.co + column * width
                    return write_rows(anchor, acc, channels, lanes, lambda r: [n, oy, start + r], first)

                stores = by_block(column, wl.co, width, store)
                zero = acc.clear(lanes, arithmetic.zero)
                return seq([acc.alloc(), zero, loop("ky", wl.kh, row), stores])

            tiles = runs(line, heights(knobs["rows"]), lambda rows: tile_cycles(rows, width, target), tile)
            return seq([*where, tiles])

        count = images * height * const(wl.groups * blocks)
        return anchor.schedule_of(open_loop("task", count, task, shared(target)))


class OpenWindow2d(DirectWindow2d):
    """Depthwise convolution and max pooling over a padded image of open size, NHWC.

    Knobs: ``rows`` (output pixels) and ``width`` (channels) of a tile.
    """

    name: ClassVar[str] = "window2d.open"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return isinstance(workload, Window2d) and workload.ow == 0 and target.kind == "cpu"

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Window2d)
        lanes = lanes_of(target)
        widths = sorted({min(lanes * v, workload.c) for v in (1, 2)})
        return [
            {"rows": rows, "width": width}
            for width in widths
            for rows in (1, 2, 4)
            if rows * -(-width // lanes) <= target.vector_registers - 4
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        # Four pixels of one or two vectors have enough independent sums and never spill.
        return -knobs["rows"] * 100 - knobs["width"]

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any, shape: Any = None) -> Any:
        assert isinstance(workload, Window2d)
        wl, data = workload, operands[0]
        ky, kx = te.reduce_axis((0, wl.kh), "ky"), te.reduce_axis((0, wl.kw), "kx")

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            pixel = data[n, y * wl.sh + ky * wl.dh, x * wl.sw + kx * wl.dw, c]
            if wl.kind == "depthwise":
                return te.sum(pixel * operands[1][ky, kx, c], axis=[ky, kx])
            return te.max(pixel, axis=[ky, kx]) if wl.kind == "max" else te.sum(pixel, axis=[ky, kx])

        return te.compute(tuple(shape), at, name=wl.kind, attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Window2d)
        wl, width, most = workload, knobs["width"], lanes_of(target)
        images, height, line = anchor.output.shape[:3]
        full, tail = divmod(wl.c, width)

        def task(index: Expr) -> Stmt:
            n, oy = (tirx.Var(name, "int64") for name in ("n", "oy"))
            where = [tirx.Bind(n, tirx.floordiv(index, height)), tirx.Bind(oy, tirx.floormod(index, height))]

            def tile(start: Expr, size: int, channel: Expr, wide: int) -> Stmt:
                acc = Accumulators(size, wide)
                parts = pieces(wide, most)

                def taps(ky: Expr) -> Stmt:
                    statements: list[Stmt] = []
                    for kx in range(wl.kw):
                        places = [
                            (r, [n, oy * wl.sh + ky * wl.dh, (start + r) * wl.sw + kx * wl.dw])
                            for r in range(size)
                        ]
                        statements += column(anchor, wl.kind, acc, parts, (ky, const(kx)), channel, places)
                    return seq(statements)

                begin = -tirx.infinity("float32") if wl.kind == "max" else tirx.const(0, "float32")
                scale: list[Stmt] = []
                if wl.kind == "avg_full":
                    share = tirx.const(1.0 / (wl.kh * wl.kw), "float32")
                    for r in range(size):
                        for offset, lanes in parts:
                            scaled = acc.load(r, offset, lanes) * splat(share, lanes)
                            scale.append(acc.store(r, scaled, offset, lanes))
                stores = [
                    write_row(anchor, acc, r, wide, most, [n, oy, start + r], channel) for r in range(size)
                ]
                fill = acc.clear(most, begin)
                return seq([acc.alloc(), fill, loop("ky", wl.kh, taps), *scale, *stores])

            def channels(start: Expr, size: int) -> Stmt:
                parts = []
                if full:
                    parts.append(loop("block", full, lambda b: tile(start, size, b * width, width)))
                if tail:
                    parts.append(tile(start, size, const(full * width), tail))
                return seq(parts)

            return seq([*where, runs(line, heights(knobs["rows"]), lambda rows: rows + 1, channels)])

        return anchor.schedule_of(open_loop("line", images * height, task, shared(target)))
