"""3x3 convolution of stride 1 by minimal filtering F(m x m, 3 x 3), NHWC (Lavin and Gray, 2016).

A task takes a group of tiles through all three stages while they are in cache: patches of the image are
transformed, one small matrix product is done for each of the (m + 2)^2 positions with weights that were
transformed at compile time, and the sums are transformed back and leave through the epilogue. F(4x4) does a
quarter of the multiplications of the direct method, F(2x2) four ninths; both lose some digits (F(4x4) about
three bits, measured in the tests), as sums of large and small terms cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.cook_toom import apply, matrices
from dlcomp.schedules.cpu.emit import (
    Expr,
    Stmt,
    alloc,
    const,
    local,
    loop,
    open_loop,
    scratch,
    seq,
    splat,
    vload,
    vstore,
)
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    bytes_a_cycle,
    call_rows,
    lanes_of,
    multiply_accumulate,
    pieces,
    split_evenly,
    tile_cycles,
    tile_shapes,
    write_back,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Conv2d, Workload
from dlcomp.target import Target

_TAPS = 3


class WinogradConv2d(Template):
    """Knobs: ``m`` (output pixels of a tile along each axis), ``tiles`` (of a task), ``rows`` and ``width``
    of the register tile.
    """

    name: ClassVar[str] = "conv2d.winograd"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Conv2d)
            and target.kind == "cpu"
            and workload.arithmetic == "float32"
            and (workload.kh, workload.kw) == (_TAPS, _TAPS)
            and (workload.sh, workload.sw, workload.dh, workload.dw) == (1, 1, 1, 1)
            and workload.groups == 1
            and min(workload.ci, workload.co) >= lanes_of(target)
            and min(workload.oh, workload.ow) > 2
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        settings = []
        for m in (2, 4):
            total = _tiles(workload, m)
            for wanted in (8, 12, 16, 24, 32, 48, 64):
                # As many tasks as that takes, a multiple of the cores where there are several, of even size.
                tasks = -(-total // wanted)
                if tasks > 1:
                    tasks = -(-tasks // target.cores) * target.cores
                tiles = -(-total // tasks)
                for rows, width in tile_shapes(target, tiles, workload.co):
                    setting = {"m": m, "tiles": tiles, "rows": rows, "width": width}
                    if setting not in settings:
                        settings.append(setting)
        return settings

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        wl, m, tiles, width = workload, knobs["m"], knobs["tiles"], knobs["width"]
        positions, lanes = (m + 2) ** 2, lanes_of(target)
        tasks, blocks = -(-_tiles(wl, m) // tiles), -(-wl.co // width)
        panel = wl.ci * width * 4
        weights = positions * blocks * panel
        values, sums = positions * tiles * wl.ci * 4, positions * tiles * width * 4
        # Transforms: about a load, a store and three operations for each position and vector.
        vectors = tiles * (-(-wl.ci // lanes) + -(-wl.co // lanes))
        moved = vectors * positions * (4 + 128 / bytes_a_cycle(values + sums, target))
        stream = width * 4 / bytes_a_cycle(weights, target)
        product = sum(
            max(tile_cycles(size, width, target), 0 if row else stream) * wl.ci + 3 * size * (width / 8) + 20
            for row, (_, size) in enumerate(split_evenly(tiles, knobs["rows"]))
        )
        again = blocks * values / bytes_a_cycle(values + panel, target)
        return tasks * (moved + positions * blocks * product + again)

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """(co, 3, 3, ci) to (co/width, positions, ci, width), and the matrices B^T and A^T."""
        assert isinstance(workload, Conv2d)
        width, m = knobs["width"], knobs["m"]
        output, filters, data = matrices(m, _TAPS)
        blocks = -(-workload.co // width)
        transformed = np.einsum("ik,oklc,jl->ijco", filters, weight.astype(np.float64), filters)
        padded = np.zeros(((m + 2) ** 2, workload.ci, blocks * width), weight.dtype)
        padded[:, :, : workload.co] = transformed.reshape((m + 2) ** 2, workload.ci, workload.co)
        split = padded.reshape((m + 2) ** 2, workload.ci, blocks, width)
        packed = np.ascontiguousarray(split.transpose(2, 0, 1, 3))
        return packed, data.astype(weight.dtype), output.astype(weight.dtype)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any, shape: Any = None) -> Any:
        """``shape`` is that of the result, which an image of open size does not say."""
        assert isinstance(workload, Conv2d)
        wl, width, m = workload, knobs["width"], knobs["m"]
        image, packed, data, output = operands
        size = m + 2
        p, q, i, j = (te.reduce_axis((0, size), name) for name in "pqij")
        ci = te.reduce_axis((0, wl.ci), "ci")

        def at(n: Expr, y: Expr, x: Expr, o: Expr) -> Expr:
            iy, ix = y // m * m + i - wl.top, x // m * m + j - wl.left
            inside = te.all(iy >= 0, iy < image.shape[1], ix >= 0, ix < image.shape[2])
            pixel = tirx.if_then_else(inside, image[n, iy, ix, ci], tirx.const(0, image.dtype))
            product = pixel * packed[o // width, p * size + q, ci, o % width]
            forth = product * data[p, i] * data[q, j]
            return te.sum(forth * output[y % m, p] * output[x % m, q], axis=[p, q, i, j, ci])

        result = (wl.n, wl.oh, wl.ow, wl.co) if shape is None else tuple(shape)
        return te.compute(result, at, name="conv2d", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        total = _tiles(workload, knobs["m"])
        tasks = -(-total // knobs["tiles"])

        def task(index: Expr) -> Stmt:
            # The last group is moved up to be a full one; what two tasks store twice is the same.
            first = tirx.min(index * knobs["tiles"], const(total - knobs["tiles"]))
            return TileGroup(anchor, workload, knobs, lanes_of(target), first).statement()

        return anchor.schedule_of(loop("task", tasks, task, parallel_kind(workload.flops, target)))


def _tiles(wl: Conv2d, m: int) -> int:
    return int(wl.n * tiles_along(wl.oh, m) * tiles_along(wl.ow, m))


def tiles_along(extent: Any, m: int) -> Any:
    """Tiles of ``m`` pixels that cover ``extent``, which may be an expression."""
    return -(-extent // m) if isinstance(extent, int) else tirx.floordiv(extent + (m - 1), const(m))


def _odd_lines(elements: int) -> int:
    """At least ``elements``, and an odd number of cache lines, so that the positions of one tile, which are
    written together, fall into different sets of the cache.
    """
    lines = -(-elements // 16)
    return 16 * (lines + 1 - lines % 2)


class TileGroup:
    """The code for ``tiles`` tiles from ``first``: what a task does.

    Parameters
    ----------
    size : (h, w, oh, ow), optional
        Of the image and of the result, where only the run knows them.
    present : expression, optional
        How many tiles there are from ``first`` on, where that may be fewer than ``tiles``.
    """

    def __init__(
        self,
        anchor: Anchor,
        wl: Conv2d,
        knobs: Knobs,
        lanes: int,
        first: Expr,
        size: tuple[Expr, Expr, Expr, Expr] | None = None,
        present: Expr | None = None,
    ) -> None:
        self.anchor, self.wl, self.first, self.lanes, self.present = anchor, wl, first, lanes, present
        self.h, self.w, self.oh, self.ow = size or (wl.h, wl.w, wl.oh, wl.ow)
        self.m, self.tiles, self.rows, self.width = (knobs[k] for k in ("m", "tiles", "rows", "width"))
        self.size = self.m + 2
        self.positions = self.size**2
        self.output, _, self.data = matrices(self.m, _TAPS)
        # (position, tile * channels + channel)
        self.values = scratch("values", (self.positions, _odd_lines(self.tiles * wl.ci)))
        self.sums = scratch("sums", (self.positions, _odd_lines(self.tiles * self.width)))

    def statement(self) -> Stmt:
        wl = self.wl
        blocks = -(-wl.co // self.width)

        def block(b: Expr) -> Stmt:
            product = loop("p", self.positions, lambda p: self.product(b, p))
            back = by_block(b, wl.co, self.width, lambda columns: self.back(b, columns))
            return seq([product, back])

        return seq([alloc(self.values), alloc(self.sums), self.forth(), loop("block", blocks, block)])

    def placed(self, tile: Expr, body: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """``body(image, first output row, first output column)`` of a tile."""
        down, across = tiles_along(self.oh, self.m), tiles_along(self.ow, self.m)
        index = self.first + tile
        place = index // (down * across), index // across % down * self.m, index % across * self.m
        if self.present is None:
            return body(*place)
        # Quotients by sizes of the run are worked out once, and TVM's passes do not have to compare them.
        names = [tirx.Var(name, "int64") for name in ("n", "oy", "ox")]
        return seq([*map(tirx.Bind, names, place), body(*names)])

    def forth(self) -> Stmt:
        """All patches of the image, transformed, into ``values``."""

        def tile(t: Expr, n: Expr, oy: Expr, ox: Expr) -> Stmt:
            if self.present is not None:
                return self.clamped(t, n, oy, ox)
            y, x = oy - self.wl.top, ox - self.wl.left
            within = tirx.all(y >= 0, y + self.size <= self.h, x >= 0, x + self.size <= self.w)

            def patch(guarded: bool) -> Stmt:
                return self.channels(self.wl.ci, lambda c, lanes: part(c, lanes, guarded))

            def part(c: Expr, lanes: int, guarded: bool) -> Stmt:
                def load(i: int, j: int) -> Expr:
                    pixel = vload(self.anchor.inputs[0], [n, y + i, x + j, c], lanes)
                    if not guarded:
                        return pixel
                    inside = tirx.all(y + i >= 0, y + i < self.h, x + j >= 0, x + j < self.w)
                    return tirx.if_then_else(inside, pixel, splat(tirx.const(0, "float32"), lanes))

                return self.patch(t, load, c, lanes)

            return tirx.IfThenElse(within, patch(False), patch(True))

        return self.each(tile)

    def clamped(self, t: Expr, n: Expr, y: Expr, x: Expr) -> Stmt:
        """A patch of a padded image, whose last pixels stand for those that lie beyond it.

        Which finite pixels those are does not matter: what they add to outputs inside the result cancels to
        rounding. Conditions instead would take TVM a minute to simplify for an image of open size.
        """
        bound: list[Stmt] = []

        def within(first: Expr, extent: Expr, name: str) -> list[Expr]:
            places = [tirx.Var(f"{name}{i}", "int64") for i in range(self.size)]
            for i, place in enumerate(places):
                bound.append(tirx.Bind(place, tirx.min(first + i, extent - 1)))
            return places

        rows, columns = within(y, self.h, "y"), within(x, self.w, "x")

        def part(c: Expr, lanes: int) -> Stmt:
            def load(i: int, j: int) -> Expr:
                return vload(self.anchor.inputs[0], [n, rows[i], columns[j], c], lanes)

            return self.patch(t, load, c, lanes)

        return seq([*bound, self.channels(self.wl.ci, part)])

    def each(self, tile: Callable[[Expr, Expr, Expr, Expr], Stmt]) -> Stmt:
        """``tile(t, *place)`` for all tiles of the group that there are."""

        def one(t: Expr) -> Stmt:
            return self.placed(t, lambda *place: tile(t, *place))

        return loop("t", self.tiles, one) if self.present is None else open_loop("t", self.present, one)

    def channels(self, count: int, body: Callable[[Expr, int], Stmt]) -> Stmt:
        """``body(channel, lanes)`` for ``count`` channels, in full vectors and then smaller ones."""
        full = count // self.lanes
        statements = [loop("c", full, lambda c: body(c * self.lanes, self.lanes))] if full else []
        rest = pieces(count % self.lanes, self.lanes)
        statements += [body(const(full * self.lanes + offset), lanes) for offset, lanes in rest]
        return seq(statements)

    def patch(self, t: Expr, load: Callable[[int, int], Expr], c: Expr, lanes: int) -> Stmt:
        def store(i: int, j: int, value: Expr) -> Stmt:
            return vstore(self.values, value, [const(i * self.size + j), t * self.wl.ci + c], lanes)

        return self.transform(self.data, load, store, lanes)

    def transform(
        self,
        matrix: np.ndarray,
        load: Callable[[int, int], Expr],
        store: Callable[[int, int, Expr], Stmt],
        lanes: int,
    ) -> Stmt:
        """``matrix @ X @ matrix^T`` of a square X of vectors, columns first."""
        rows, size = matrix.shape
        half = local("half", rows * size * lanes)
        statements: list[Stmt] = [alloc(half)]

        def hold(value: Expr) -> Expr:
            var = tirx.Var("h", f"float32x{lanes}" if lanes > 1 else "float32")
            statements.append(tirx.Bind(var, value))
            return var

        for j in range(size):
            column = apply(matrix, [hold(load(i, j)) for i in range(size)], hold)
            for i, value in enumerate(column):
                statements.append(vstore(half, value, [const((i * size + j) * lanes)], lanes))
        for i in range(rows):
            held = [hold(vload(half, [const((i * size + j) * lanes)], lanes)) for j in range(size)]
            row = apply(matrix, held, hold)
            statements += [store(i, j, value) for j, value in enumerate(row)]
        return seq(statements)

    def product(self, block: Expr, p: Expr) -> Stmt:
        """``sums[p] = values[p] @ weights[block, p]``."""
        packed, width, lanes = self.anchor.inputs[1], self.width, self.lanes

        def tile(start: Expr, size: int, _: int | None) -> Stmt:
            acc = Accumulators(size, width)

            def step(k: Expr) -> Stmt:
                return multiply_accumulate(
                    acc,
                    range(size),
                    lanes,
                    lambda offset, count: vload(packed, [block, p, k, const(offset)], count),
                    lambda r: tirx.BufferLoad(self.values, [p, (start + r) * self.wl.ci + k]),
                )

            stores = [
                vstore(
                    self.sums,
                    acc.load(r, offset, count),
                    [p, (start + r) * width + offset],
                    count,
                )
                for r in range(size)
                for offset, count in pieces(width, lanes)
            ]
            zero = acc.clear(lanes, tirx.const(0, "float32"))
            whole = seq([acc.alloc(), zero, loop("k", self.wl.ci, step), *stores])
            # Of a tile of rows some may be none of an image's; what becomes of those is never read.
            return whole if self.present is None else tirx.IfThenElse(start < self.present, whole, None)

        return call_rows(split_evenly(self.tiles, self.rows), lambda *_: False, tile)

    def back(self, block: Expr, channels: int) -> Stmt:
        """``sums`` transformed back and stored through the epilogue, as far as the image goes."""

        def tile(t: Expr, *place: Expr) -> Stmt:
            return self.channels(channels, lambda c, lanes: self.pixels(t, place, block, c, lanes))

        return self.each(tile)

    def pixels(self, t: Expr, corner: tuple[Expr, ...], block: Expr, c: Expr, lanes: int) -> Stmt:
        n, oy, ox = corner
        out = local("out", self.m * self.m * lanes)

        def load(i: int, j: int) -> Expr:
            return vload(self.sums, [const(i * self.size + j), t * self.width + c], lanes)

        def store(i: int, j: int, value: Expr) -> Stmt:
            return vstore(out, value, [const((i * self.m + j) * lanes)], lanes)

        def pixel(i: Expr, j: Expr) -> Stmt:
            where = [n, oy + i, ox + j]
            column = block * self.width + c

            def values(offset: int) -> tuple[Expr, Expr]:
                return out, (i * self.m + j) * lanes + offset

            written = write_back(self.anchor, values, lanes, self.lanes, where, column)
            guards = [
                first + offset < extent
                for first, offset, extent in ((oy, i, self.oh), (ox, j, self.ow))
                if not isinstance(extent, int) or extent % self.m
            ]
            return tirx.IfThenElse(tirx.all(*guards), written, None) if guards else written

        leave = loop("i", self.m, lambda i: loop("j", self.m, lambda j: pixel(i, j)))
        return seq([alloc(out), self.transform(self.output, load, store, lanes), leave])
