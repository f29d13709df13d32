"""Large matrix products of two run-time operands.

The right operand is copied into panels of ``width`` columns, ``depth`` rows of it at a time, so that a
register tile reads it front to back; rows of the left operand are copied where their distance in memory
would put them all into the same cache sets. Blocking as by Goto and van de Geijn, *Anatomy of
High-Performance Matrix Multiplication* (2008), for caches of which the second holds a panel and a block of
rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import tirx

from dlcomp.schedules.anchor import Anchor
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
from dlcomp.schedules.cpu.gemm import DirectBatchMatmul, aligned, unflatten
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    bytes_a_cycle,
    lanes_of,
    multiply_accumulate,
    pieces,
    tile_cycles,
    tile_shapes,
    write_row,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs
from dlcomp.schedules.workload import BatchMatmul, Workload
from dlcomp.target import Target

# One way of L1 on every processor with 64 sets; rows at a multiple of half of it collide.
_WAY_BYTES = 4096


class BlockedMatmul(DirectBatchMatmul):
    """Knobs: ``rows`` and ``width`` of the register tile, ``depth`` of a panel, ``group`` (row tiles of a
    task), ``copy_left``.
    """

    name: ClassVar[str] = "matmul.blocked"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return super().accepts(workload, target) and isinstance(workload, BatchMatmul) and workload.m > 1

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, BatchMatmul)
        settings = []
        depths = sorted(
            {-(-workload.k // passes) for passes in (-(-workload.k // d) for d in (256, 512, 1024))}
        )
        for rows, width in tile_shapes(target, workload.m, workload.n):
            tiles = -(-workload.m // rows)
            for depth in depths:
                # A block of rows takes at most half of L2; blocks are of even size, some for every core.
                most = max(1, min(tiles, target.l2_bytes // 2 // (rows * depth * 4)))
                tasks = -(-tiles // most)
                if workload.batch == 1 and tiles >= target.cores:
                    tasks = -(-tasks // target.cores) * target.cores
                settings.append(
                    {
                        "rows": rows,
                        "width": width,
                        "depth": depth,
                        "group": -(-tiles // tasks),
                        "copy_left": int(workload.k * 4 % (_WAY_BYTES // 2) == 0),
                    }
                )
        return settings

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, BatchMatmul)
        wl, rows, width, depth = workload, knobs["rows"], knobs["width"], knobs["depth"]
        tiles, panels, passes = -(-wl.m // rows), -(-wl.n // width), -(-wl.k // depth)
        panel = depth * width * 4
        block = knobs["group"] * rows * depth * 4
        stream = rows * 4 / bytes_a_cycle(block + panel, target) + width * 4 / bytes_a_cycle(panel, target)
        a_tile = max(tile_cycles(rows, width, target), stream) * wl.k + 3 * rows * (width / 8) * passes + 20
        copied = wl.k * panels * width * 4 + knobs["copy_left"] * wl.m * wl.k * 4
        return wl.batch * (tiles * panels * a_tile + copied / 8 + passes * 500)

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, BatchMatmul)
        kind = parallel_kind(workload.flops, target)
        inner = kind if workload.batch == 1 else "serial"

        wl, left, right = workload, *anchor.inputs
        shape = [int(d) for d in anchor.output.shape[:-2]]

        def one(index: Expr) -> Stmt:
            batch = unflatten(index, shape)
            a_batch, b_batch = aligned(batch, left.shape[:-2]), aligned(batch, right.shape[:-2])
            product = _Product(
                anchor,
                (wl.m, wl.n, wl.k),
                knobs,
                lanes_of(target),
                lambda row, k: [*a_batch, row, k],
                lambda row, column: [*batch, row, column],
                inner,
            )
            deepest = max(size for _, size in product.depths())
            panels = scratch("panels", (-(-wl.n // knobs["width"]), deepest, knobs["width"]))
            steps: list[Stmt] = [alloc(panels)]
            for begin, size in product.depths():
                steps.append(_copy(product, panels, begin, size, lambda k, column: [*b_batch, k, column]))
                steps.append(product.multiply(panels, begin, size))
            return seq(steps)

        return anchor.schedule_of(loop("batch", wl.batch, one, kind if wl.batch > 1 else "serial"))


@dataclass(frozen=True)
class _Product:
    """The code for one product: (m, n, k) in ``extents``, and where elements of its operands lie."""

    anchor: Anchor
    extents: tuple[int, int, int]
    knobs: Knobs
    lanes: int
    left_at: Callable[[Expr, Expr], list[Expr]]
    output_at: Callable[[Expr, Expr], list[Expr]]
    kind: str

    def depths(self) -> list[tuple[int, int]]:
        """(first row, rows) of the right operand that are passed over together.

        All of them where the result is of another type (quantized): it cannot hold sums meanwhile.
        """
        k, depth = self.extents[2], self.knobs["depth"]
        if str(self.anchor.output.dtype) != "float32":
            return [(0, k)]
        return [(begin, min(depth, k - begin)) for begin in range(0, k, depth)]

    def multiply(self, panels: Expr, begin: int, size: int) -> Stmt:
        """All tiles of rows by the ``size`` rows in the panels, a group of tiles a task.

        ``begin`` is the first column of the left operand; if it is not zero, the output holds the sums
        so far.
        """
        m, n, _ = self.extents
        rows, group = self.knobs["rows"], self.knobs["group"]
        tiles = -(-m // rows)
        # ``large`` tiles of ``height`` rows, then tiles of one row less.
        height, large = -(-m // tiles), m % tiles or tiles
        count = -(-n // self.knobs["width"])

        def task(index: Expr) -> Stmt:
            first = index * group
            last = tirx.min(first + group, const(tiles))
            left = _Left(self, height, first, begin, size)

            def weights(panel: Expr, k: Expr, column: int, lanes: int) -> Expr:
                return vload(panels, [panel, k, const(column)], lanes)

            def tile(panel: Expr, t: Expr) -> Stmt:
                if large == tiles:
                    return self.tile(weights, panel, left, t, t * height, height, begin, size)
                start = t * (height - 1) + tirx.min(t, const(large))
                return tirx.IfThenElse(
                    t < large,
                    self.tile(weights, panel, left, t, start, height, begin, size),
                    self.tile(weights, panel, left, t, start, height - 1, begin, size),
                )

            def panel(number: Expr) -> Stmt:
                return dynamic_loop("t", first, last - first, lambda t: tile(number, t))

            return seq([*left.copy(last, large), loop("panel", count, panel)])

        return loop("task", -(-tiles // group), task, self.kind)

    def tile(
        self,
        weights: Callable[[Expr, Expr, int, int], Expr],
        panel: Expr,
        left: _Left,
        t: Expr,
        start: Expr,
        rows: int,
        begin: int,
        size: int,
    ) -> Stmt:
        width, n = self.knobs["width"], self.extents[1]
        acc = Accumulators(rows, width)
        tail = n % width

        def step(k: Expr) -> Stmt:
            return multiply_accumulate(
                acc,
                range(rows),
                self.lanes,
                lambda offset, count: weights(panel, k, offset, count),
                lambda r: left.at(t, start, r, k),
            )

        def first(columns: int) -> Stmt:
            return self.start(acc, panel, start, rows, columns, begin)

        def last(columns: int) -> Stmt:
            return self.store(acc, panel, start, rows, columns, begin + size)

        def by_columns(part: Callable[[int], Stmt]) -> Stmt:
            if not tail or n < width:
                return part(min(width, n))
            return tirx.IfThenElse(panel == n // width, part(tail), part(width))

        begun = by_columns(first) if begin else first(width)
        return seq([acc.alloc(), begun, loop("k", size, step), by_columns(last)])

    def start(self, acc: Accumulators, panel: Expr, start: Expr, rows: int, columns: int, begin: int) -> Stmt:
        """The accumulators: zero, or what earlier panels gave."""
        width = self.knobs["width"]
        statements = []
        for r in range(rows):
            for offset, lanes in pieces(width, self.lanes):
                value = splat(tirx.const(0, "float32"), lanes)
                statements.append(acc.store(r, value, offset, lanes))
            if begin == 0:
                continue
            for offset, lanes in pieces(columns, self.lanes):
                value = vload(self.anchor.output, self.output_at(start + r, panel * width + offset), lanes)
                statements.append(acc.store(r, value, offset, lanes))
        return seq(statements)

    def store(self, acc: Accumulators, panel: Expr, start: Expr, rows: int, columns: int, end: int) -> Stmt:
        """The sums through the epilogue; before the last panels as they are."""
        width = self.knobs["width"]
        statements = []
        for r in range(rows):
            if end == self.extents[2]:
                *lead, column = self.output_at(start + r, panel * width)
                statements.append(write_row(self.anchor, acc, r, columns, self.lanes, lead, column))
                continue
            for offset, lanes in pieces(columns, self.lanes):
                where = self.output_at(start + r, panel * width + offset)
                value = acc.load(r, offset, lanes)
                statements.append(vstore(self.anchor.output, value, where, lanes))
        return seq(statements)


def _copy(
    product: _Product, panels: Expr, begin: int, size: int, right_at: Callable[[Expr, Expr], list[Expr]]
) -> Stmt:
    """``size`` rows of the right operand from ``begin`` into panels, zeros after the last column."""
    width = product.knobs["width"]
    full, tail = divmod(product.extents[1], width)
    right = product.anchor.inputs[1]

    def panel(number: Expr, columns: int) -> Stmt:
        def row(k: Expr) -> Stmt:
            moves = []
            for offset, lanes in pieces(columns, product.lanes):
                value = vload(right, right_at(k + begin, number * width + offset), lanes)
                moves.append(vstore(panels, value, [number, k, const(offset)], lanes))
            for offset, lanes in pieces(width - columns, product.lanes):
                zero = splat(tirx.const(0, "float32"), lanes)
                moves.append(vstore(panels, zero, [number, k, const(columns + offset)], lanes))
            return seq(moves)

        return loop("k", size, row)

    steps = [loop("panel", full, lambda number: panel(number, width), product.kind)] if full else []
    return seq([*steps, panel(const(full), tail)] if tail else steps)


class _Left:
    """The left operand's rows of one task: as they lie, or copied to a distance of an odd number of lines."""

    def __init__(self, product: _Product, height: int, first: Expr, begin: int, size: int) -> None:
        self.product, self.height, self.first, self.begin, self.size = product, height, first, begin, size
        self.source = product.anchor.inputs[0]
        lines = -(-size // 16)
        self.buffer = scratch("rows", (product.knobs["group"] * height, 16 * (lines + 1 - lines % 2)))

    def at(self, t: Expr, start: Expr, r: int, k: Expr) -> Expr:
        if self.product.knobs["copy_left"]:
            return tirx.BufferLoad(self.buffer, [(t - self.first) * self.height + r, k])
        return tirx.BufferLoad(self.source, self.product.left_at(start + r, k + self.begin))

    def copy(self, last: Expr, large: int) -> list[Stmt]:
        """The statements that copy; none if nothing is copied."""
        if not self.product.knobs["copy_left"]:
            return []
        most = self.product.lanes

        def tile(t: Expr) -> Stmt:
            start = t * (self.height - 1) + tirx.min(t, const(large))

            def row(r: Expr) -> Stmt:
                # The one row more that a smaller tile copies is the next tile's, or beyond the last.
                index = tirx.min(start + r, const(self.product.extents[0] - 1))

                def move(k: Expr, lanes: int) -> Stmt:
                    value = vload(self.source, self.product.left_at(index, k + self.begin), lanes)
                    return vstore(self.buffer, value, [(t - self.first) * self.height + r, k], lanes)

                full = self.size // most
                steps = [loop("k", full, lambda k: move(k * most, most))] if full else []
                rest = pieces(self.size % most, most)
                return seq([*steps, *(move(const(full * most + o), lanes) for o, lanes in rest)])

            return loop("r", self.height, row)

        return [alloc(self.buffer), dynamic_loop("t", self.first, last - self.first, tile)]
