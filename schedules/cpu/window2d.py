"""Depthwise convolution, max and average pooling, NHWC: a window over every channel alone.

Vectors run along the channels, a tile is a run of output pixels; borders are resolved as in
:mod:`dlcomp.schedules.cpu.conv2d`. Weights of a depthwise convolution are (kh, kw, c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.emit import (
    Expr,
    Stmt,
    const,
    dynamic_loop,
    loop,
    seq,
    splat,
    vload,
)
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    bytes_a_cycle,
    lanes_of,
    pieces,
    runs,
    split_evenly,
    write_rows,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Window2d, Workload
from dlcomp.target import Target


class DirectWindow2d(Template):
    """Knobs: ``rows`` (output pixels) and ``width`` (channels) of a tile, and whether all channels of a
    tile's pixels come before the next pixels (``pixels_outer``: the image is read as it lies) or a line of
    pixels before the next channels (the weights stay in L1).
    """

    name: ClassVar[str] = "window2d.direct"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Window2d)
            and workload.ow > 0
            and (workload.arithmetic == "float32" or workload.kind == "max")
            and target.kind == "cpu"
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Window2d)
        lanes = _lanes(workload, target)
        widths = sorted({min(lanes * v, workload.c) for v in (1, 2, 4)})
        heights = sorted({min(rows, workload.ow) for rows in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)})
        return [
            {"rows": rows, "width": width, "pixels_outer": outer}
            for width in widths
            for rows in heights
            if rows * -(-width // lanes) <= target.vector_registers - 4
            for outer in (0, 1)
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Window2d)
        wl, width = workload, knobs["width"]
        full, tail = divmod(wl.c, width)
        far = 4 * wl.h * wl.w * wl.c > target.l2_bytes

        def tile(rows: int, channels: int) -> float:
            vectors = len(pieces(channels, _lanes(wl, target)))
            # LLVM keeps the pixels that neighbouring outputs share in registers; what there is no room
            # for is stored and loaded again in every row of the window.
            pixels = (rows - 1) * wl.sw + (wl.kw - 1) * wl.dw + 1
            shared = pixels if pixels < rows * wl.kw else 0
            spilled = max(0, (rows + shared + 1) * vectors + 2 - target.vector_registers)
            loads = wl.kh * vectors * (min(pixels, rows * wl.kw) + (wl.kw if wl.kind == "depthwise" else 0))
            work = rows * vectors * wl.kh * wl.kw
            # Every pixel of a tile is a stream of its own, too many for the prefetcher beyond L2.
            streams = wl.kh * pixels / 4 if far and knobs["pixels_outer"] else 0
            return max(work, loads, 2 * wl.kh * wl.kw) + spilled * wl.kh + streams + 4 + rows * vectors

        row = sum(
            full * tile(size, width) + (tile(size, tail) if tail else 0)
            for _, size in split_evenly(wl.ow, knobs["rows"])
        )
        lines = wl.n * wl.oh
        if knobs["pixels_outer"]:
            weights = wl.kh * wl.kw * wl.c * 4 if wl.kind == "depthwise" else 0
            tiles = -(-wl.ow // knobs["rows"])
            # Beside the pixels a quarter of L1 is left for the weights; most of the wait is hidden.
            again = tiles * weights / bytes_a_cycle(4 * weights, target) / 4
        else:
            # Pixels of one column lie apart; what comes from beyond L2 then comes without prefetching.
            again = wl.w * wl.c / 16 if far else 0.0
        return lines * (row + again)

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
        """(c, kh, kw, 1) to (kh, kw, c)."""
        return np.ascontiguousarray(weight[..., 0].transpose(1, 2, 0))

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Window2d)
        wl, data = workload, operands[0]
        ky, kx = te.reduce_axis((0, wl.kh), "ky"), te.reduce_axis((0, wl.kw), "kx")
        lowest = tirx.min_value(data.dtype) if wl.kind == "max" else tirx.const(0, data.dtype)

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            iy, ix = y * wl.sh + ky * wl.dh - wl.top, x * wl.sw + kx * wl.dw - wl.left
            inside = te.all(iy >= 0, iy < wl.h, ix >= 0, ix < wl.w)
            pixel = tirx.if_then_else(inside, data[n, iy, ix, c], lowest)
            if wl.kind == "depthwise":
                return te.sum(pixel * operands[1][ky, kx, c], axis=[ky, kx])
            if wl.kind == "max":
                return te.max(pixel, axis=[ky, kx])
            return te.sum(pixel, axis=[ky, kx])

        shape = (wl.n, wl.oh, wl.ow, wl.c)
        return te.compute(shape, at, name=wl.kind, attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Window2d)
        wl = workload

        lanes = _lanes(wl, target)
        blocks, tail = divmod(wl.c, knobs["width"])
        kind = parallel_kind(4 * wl.flops, target)
        # Two loops in each other are written as one where they can: LLVM copies the body of loops of ten
        # turns and fewer, and two such loops make more code than the instruction cache holds.
        if knobs["pixels_outer"] or tail or not blocks:
            lines = loop("line", wl.n * wl.oh, lambda line: _line(anchor, wl, knobs, lanes, line), kind)
            return anchor.schedule_of(lines)

        def task(i: Expr) -> Stmt:
            return _pixels(anchor, wl, knobs, lanes, i // blocks, i % blocks * knobs["width"], knobs["width"])

        return anchor.schedule_of(loop("i", wl.n * wl.oh * blocks, task, kind))


def _lanes(wl: Window2d, target: Target) -> int:
    """Elements in a vector register."""
    return lanes_of(target) * 4 // np.dtype(wl.arithmetic).itemsize


def _line(anchor: Anchor, wl: Window2d, knobs: Knobs, lanes: int, line: Expr) -> Stmt:
    """One row of output pixels, all channels."""
    width = knobs["width"]
    full, tail = divmod(wl.c, width)

    def channels(each: Callable[[Expr, int], Stmt]) -> Stmt:
        statements = [loop("block", full, lambda b: each(b * width, width))] if full else []
        return seq([*statements, each(const(full * width), tail)] if tail else statements)

    if not knobs["pixels_outer"]:
        return channels(lambda first, size: _pixels(anchor, wl, knobs, lanes, line, first, size))

    def run(run: _Run) -> Stmt:
        if tail:
            return loop(
                "t",
                run.count,
                lambda t: channels(
                    lambda first, size: _tile(anchor, wl, run.at(line, t), first, size, lanes)
                ),
            )
        return loop(
            "i",
            run.count * full,
            lambda i: _tile(anchor, wl, run.at(line, i // full), i % full * width, width, lanes),
        )

    return seq([run(found) for found in _runs(wl, knobs)])


def _pixels(
    anchor: Anchor, wl: Window2d, knobs: Knobs, lanes: int, line: Expr, channel: Expr, width: int
) -> Stmt:
    """``width`` channels from ``channel`` of one row of output pixels."""

    def run(run: _Run) -> Stmt:
        return loop("t", run.count, lambda t: _tile(anchor, wl, run.at(line, t), channel, width, lanes))

    return seq([run(found) for found in _runs(wl, knobs)])


@dataclass(frozen=True)
class _Run:
    """``count`` tiles of ``size`` pixels from ``first``; ``apart``: one that reads beyond the image."""

    first: int
    size: int
    count: int
    apart: bool

    def at(self, line: Expr, t: Expr) -> _Pixels:
        fixed = self.first if self.apart else None
        return _Pixels(line, t * self.size + self.first, self.size, fixed)


def _runs(wl: Window2d, knobs: Knobs) -> list[_Run]:
    def special(start: int, size: int) -> bool:
        """Whether a column of the kernel lies outside the image."""
        last = (start + size - 1) * wl.sw + (wl.kw - 1) * wl.dw - wl.left
        return start * wl.sw < wl.left or last >= wl.w

    return [_Run(*found) for found in runs(split_evenly(wl.ow, knobs["rows"]), special)]


@dataclass(frozen=True)
class _Pixels:
    """``size`` output pixels of ``line`` from ``start``, which is ``fixed`` where it is known."""

    line: Expr
    start: Expr
    size: int
    fixed: int | None


def _tile(anchor: Anchor, wl: Window2d, pixels: _Pixels, channel: Expr, width: int, most: int) -> Stmt:
    """``width`` channels from ``channel`` of a tile of pixels."""
    n, oy = pixels.line // wl.oh, pixels.line % wl.oh
    start, size, fixed = pixels.start, pixels.size, pixels.fixed
    parts = pieces(width, most)

    def reads(kx: int, ox: int) -> bool:
        return 0 <= ox * wl.sw + kx * wl.dw - wl.left < wl.w

    acc = Accumulators(size, width, wl.arithmetic)
    first, last = _kernel_rows(wl, oy)

    def taps(ky: Expr) -> Stmt:
        statements: list[Stmt] = []
        for kx in range(wl.kw):
            rows = [r for r in range(size) if fixed is None or reads(kx, fixed + r)]
            if not rows:
                continue
            places = [
                (r, [n, oy * wl.sh + ky * wl.dh - wl.top, (start + r) * wl.sw + (kx * wl.dw - wl.left)])
                for r in rows
            ]
            statements += column(anchor, wl.kind, acc, parts, (ky, const(kx)), channel, places)
        return seq(statements) if statements else tirx.Evaluate(const(0))

    begin = tirx.const(0, wl.arithmetic)
    if wl.kind == "max":
        begin = -tirx.infinity("float32") if wl.arithmetic == "float32" else tirx.min_value(wl.arithmetic)
    fill = acc.clear(most, begin)
    scale = []
    if wl.kind.startswith("avg"):
        for r in range(size):
            count = _covered(wl, oy, None if fixed is None else fixed + r)
            scale += [_divide(acc, r, offset, lanes, count) for offset, lanes in parts]
    stores = write_rows(anchor, acc, width, most, lambda r: [n, oy, start + r], channel)
    body = dynamic_loop("ky", first, tirx.max(const(0), last - first), taps)
    return seq([acc.alloc(), fill, body, *scale, stores])


def column(
    anchor: Anchor,
    kind: str,
    acc: Accumulators,
    parts: Sequence[tuple[int, int]],
    tap: tuple[Expr, Expr],
    channel: Expr,
    places: Sequence[tuple[int, Sequence[Expr]]],
) -> list[Stmt]:
    """One tap of the window for the rows of a tile: ``places`` are their numbers and where each reads.

    ``parts`` are the vectors that the tile's channels, from ``channel`` on, are cut into.
    """
    statements: list[Stmt] = []
    for offset, lanes in parts:
        weight = None
        if kind == "depthwise":
            weight = tirx.Var("w", f"float32x{lanes}" if lanes > 1 else "float32")
            taken = vload(anchor.inputs[1], [*tap, channel + offset], lanes)
            statements.append(tirx.Bind(weight, taken))
        for row, place in places:
            pixel = vload(anchor.inputs[0], [*place, channel + offset], lanes)
            new = _combine(kind, acc.load(row, offset, lanes), pixel, weight, lanes)
            statements.append(acc.store(row, new, offset, lanes))
    return statements


def _combine(kind: str, acc: Expr, pixel: Expr, weight: Expr | None, lanes: int) -> Expr:
    """What a tap of the window makes of the accumulator."""
    if kind == "depthwise":
        return acc + pixel * weight
    if kind == "max" and "int" in str(acc.ty.dtype):
        return tirx.max(acc, pixel)
    if kind == "max":
        # NaN stays in ``acc`` because nothing is greater; a NaN pixel is what does not compare with
        # infinity (TVM takes ``pixel != pixel`` for false).
        infinity = splat(tirx.infinity("float32"), lanes)
        return tirx.Select(pixel <= infinity, tirx.Select(pixel > acc, pixel, acc), pixel)
    return acc + pixel


def _divide(acc: Accumulators, row: int, offset: int, lanes: int, count: Expr) -> Stmt:
    mean = acc.load(row, offset, lanes) / splat(tirx.Cast("float32", count), lanes)
    return acc.store(row, mean, offset, lanes)


def _covered(wl: Window2d, oy: Expr, ox: int | None) -> Expr:
    """The elements that an average divides by; ``ox`` is None where all columns are inside the image."""
    if wl.kind == "avg":
        first, last = _kernel_rows(wl, oy)
        least, most = 0, wl.w
    else:
        first = const(0)
        last = tirx.min(const(wl.kh), (wl.h + wl.bottom + wl.top - oy * wl.sh + wl.dh - 1) // wl.dh)
        least, most = -wl.left, wl.w + wl.right
    columns = wl.kw
    if ox is not None:
        columns = sum(least <= ox * wl.sw + kx * wl.dw - wl.left < most for kx in range(wl.kw))
    return tirx.max(const(1), (last - first) * columns)


def _kernel_rows(wl: Window2d, oy: Expr) -> tuple[Expr, Expr]:
    """The first kernel row inside the image for output row ``oy``, and the one after the last."""
    above = wl.top - oy * wl.sh
    first = tirx.max(const(0), (above + (wl.dh - 1)) // wl.dh)
    return first, tirx.min(const(wl.kh), (wl.h + above + (wl.dh - 1)) // wl.dh)
