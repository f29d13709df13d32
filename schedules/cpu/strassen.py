"""Large products of two run-time operands by Strassen's algorithm (*Gaussian Elimination is not Optimal*).

A level cuts both operands into quarters and does seven products instead of eight. The sums of quarters are
made while the operands are copied into panels, as they have to be anyway, and a product is added to the
quarters of the result that it belongs to from its register tile (Huang et al., *Strassen's Algorithm
Reloaded*, 2016), so that a level needs no memory for what lies between.

Sums and differences of large values lose digits: the bound on the error grows about twelve times with each
level (Higham, *Accuracy and Stability of Numerical Algorithms*, section 23.2.2). Nothing takes this unless it
is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
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
from dlcomp.schedules.cpu.gemm_blocked import BlockedMatmul
from dlcomp.schedules.cpu.tile import Accumulators, lanes_of, multiply_accumulate, pieces, write_back
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs
from dlcomp.schedules.workload import BatchMatmul, Workload
from dlcomp.target import Target

# Below this the additions cost more than the product that they save.
_LEAST = 256
_LEVELS = (1, 2)
# Quarters of the left operand, of the right one and of the result, by product.
_LEFT = [[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [-1, 0, 1, 0], [0, 1, 0, -1]]
_RIGHT = [[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
_RESULT = [[1, 0, 0, 1], [0, 0, 1, -1], [0, 1, 0, 1], [1, 0, 1, 0], [-1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]

# (sign, row of blocks, column of blocks)
Term = tuple[int, int, int]


@cache
def products(levels: int) -> list[tuple[list[Term], list[Term], list[Term]]]:
    """The 7**levels products: blocks of the left and the right operand that are summed, and where they go."""
    tables = []
    for table in (_LEFT, _RIGHT, _RESULT):
        whole = np.ones((1, 1), int)
        for _ in range(levels):
            whole = np.kron(whole, np.array(table))
        tables.append(whole)

    def terms(row: np.ndarray) -> list[Term]:
        found = []
        for number in np.flatnonzero(row):
            down = across = 0
            for level in reversed(range(levels)):
                quarter = int(number) // 4**level % 4
                down, across = 2 * down + quarter // 2, 2 * across + quarter % 2
            found.append((int(row[number]), down, across))
        return found

    return [(terms(a), terms(b), terms(c)) for a, b, c in zip(*tables, strict=True)]


class StrassenMatmul(BlockedMatmul):
    """Knobs: ``levels``, and ``rows``, ``width``, ``depth`` and ``group`` of the products of blocks."""

    name: ClassVar[str] = "matmul.strassen"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return super().accepts(workload, target) and bool(self.space(workload, target))

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, BatchMatmul)
        settings = []
        for levels in _LEVELS if workload.batch == 1 else ():
            part = _block(workload, levels)
            if part is None:
                continue
            # Wide tiles first: of two that the estimate cannot tell apart they are the faster.
            for knobs in reversed(super().space(part, target)):
                # What is added to the result must not be added twice, so that no tile can be moved up.
                if part.m % knobs["rows"] == 0 and part.n % knobs["width"] == 0:
                    kept = {key: knobs[key] for key in ("rows", "width", "depth", "group")}
                    settings.append({**kept, "levels": levels})
        return settings

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, BatchMatmul)
        part = _block(workload, knobs["levels"])
        assert part is not None
        inner = {**knobs, "copy_left": 1}
        cycles = 0.0
        for left, right, result in products(knobs["levels"]):
            # Every element of a further block is read, of the result also written, at 4 bytes a cycle.
            more = (len(left) - 1) * part.m * part.k + (len(right) - 1) * part.k * part.n
            cycles += super().estimate(part, inner, target) + more + 2 * len(result) * part.m * part.n
        return cycles

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, BatchMatmul)
        return anchor.schedule_of(_Strassen(anchor, workload, knobs, target).statement())


def _block(workload: BatchMatmul, levels: int) -> BatchMatmul | None:
    """The product of blocks after so many levels; None where they are not of one size or too small."""
    parts = 1 << levels
    extents = (workload.m, workload.n, workload.k)
    if any(extent % parts or extent // parts < _LEAST for extent in extents):
        return None
    return BatchMatmul(1, *(extent // parts for extent in extents))


class _Strassen:
    """The code for one product."""

    def __init__(self, anchor: Anchor, workload: BatchMatmul, knobs: Knobs, target: Target) -> None:
        part = _block(workload, knobs["levels"])
        assert part is not None
        self.anchor, self.whole, self.part, self.knobs = anchor, workload, part, knobs
        self.lanes, self.kind = lanes_of(target), parallel_kind(workload.flops, target)
        self.rows, self.width, self.group = knobs["rows"], knobs["width"], knobs["group"]
        # Equal passes over the depth: one piece of code does them all.
        passes = -(-part.k // knobs["depth"])
        while part.k % passes:
            passes += 1
        self.passes, self.depth = passes, part.k // passes
        self.panels = scratch("panels", (part.n // self.width, self.depth, self.width))
        # An odd number of lines apart, so that the rows of a tile are not all in the same sets of the cache.
        lines = -(-workload.n // 16)
        self.stride = 16 * (lines + 1 - lines % 2)
        self.sums = scratch("sums", (workload.m * self.stride,))

    def statement(self) -> Stmt:
        steps: list[Stmt] = [alloc(self.panels), alloc(self.sums), self.clear()]
        for left, right, result in products(self.knobs["levels"]):

            def step(number: Expr, left: Any = left, right: Any = right, result: Any = result) -> Stmt:
                begin = number * self.depth
                return seq([self.copy_right(right, begin), self.multiply(left, result, begin)])

            steps.append(loop("pass", self.passes, step))
        return seq([*steps, self.finish()])

    def clear(self) -> Stmt:
        def row(y: Expr) -> Stmt:
            zero = splat(tirx.const(0, "float32"), 16)
            return loop(
                "x", self.stride // 16, lambda x: vstore(self.sums, zero, [y * self.stride + x * 16], 16)
            )

        return loop("y", self.whole.m, row, self.kind)

    def total(self, terms: Sequence[Term], size: tuple[int, int], at: Callable[[int, int], Expr]) -> Expr:
        """The sum of blocks of ``size``; ``at(row, column)`` loads what lies so far from the first block."""
        value = None
        for sign, down, across in terms:
            one = at(down * size[0], across * size[1])
            if value is None:
                value = one if sign > 0 else -one
            else:
                value = value + one if sign > 0 else value - one
        return value

    def load(self, operand: Any, row: Expr, column: Expr, lanes: int) -> Expr:
        lead = [const(0)] * (len(operand.shape) - 2)
        return vload(operand, [*lead, row, column], lanes)

    def copy_right(self, terms: Sequence[Term], begin: Expr) -> Stmt:
        part, right = self.part, self.anchor.inputs[1]

        def panel(number: Expr) -> Stmt:
            def row(k: Expr) -> Stmt:
                moves = []
                for offset, lanes in pieces(self.width, self.lanes):

                    def at(down: int, across: int, offset: int = offset, lanes: int = lanes) -> Expr:
                        column = number * self.width + (offset + across)
                        return self.load(right, k + (begin + down), column, lanes)

                    value = self.total(terms, (part.k, part.n), at)
                    moves.append(vstore(self.panels, value, [number, k, const(offset)], lanes))
                return seq(moves)

            return loop("k", self.depth, row)

        return loop("panel", part.n // self.width, panel, self.kind)

    def multiply(self, left: Sequence[Term], result: Sequence[Term], begin: Expr) -> Stmt:
        """A sum of blocks of the left operand by the panels, added to its blocks of the result."""
        part, size = self.part, self.depth
        tiles = part.m // self.rows
        lines = -(-size // 16)

        def task(index: Expr) -> Stmt:
            copied = scratch("rows", (self.group * self.rows, 16 * (lines + 1 - lines % 2)))
            first = index * self.group
            last = tirx.min(first + self.group, const(tiles))

            def copy(row: Expr) -> Stmt:
                def move(k: Expr, lanes: int) -> Stmt:
                    def at(down: int, across: int) -> Expr:
                        source = self.anchor.inputs[0]
                        return self.load(source, first * self.rows + row + down, k + (begin + across), lanes)

                    value = self.total(left, (part.m, part.k), at)
                    return vstore(copied, value, [row, k], lanes)

                full = size // self.lanes
                steps = [loop("k", full, lambda k: move(k * self.lanes, self.lanes))] if full else []
                rest = pieces(size % self.lanes, self.lanes)
                return seq([*steps, *(move(const(full * self.lanes + o), lanes) for o, lanes in rest)])

            def tile(panel: Expr, t: Expr) -> Stmt:
                acc = Accumulators(self.rows, self.width)

                def step(k: Expr) -> Stmt:
                    return multiply_accumulate(
                        acc,
                        range(self.rows),
                        self.lanes,
                        lambda offset, lanes: vload(self.panels, [panel, k, const(offset)], lanes),
                        lambda r: tirx.BufferLoad(copied, [(t - first) * self.rows + r, k]),
                    )

                zero = acc.clear(self.lanes, tirx.const(0, "float32"))
                adds = [self.add(acc, term, t * self.rows, panel * self.width) for term in result]
                return seq([acc.alloc(), zero, loop("k", size, step), *adds])

            def panel(number: Expr) -> Stmt:
                return dynamic_loop("t", first, last - first, lambda t: tile(number, t))

            rows = dynamic_loop("r", const(0), (last - first) * self.rows, copy)
            return seq([alloc(copied), rows, loop("panel", part.n // self.width, panel)])

        return loop("task", -(-tiles // self.group), task, self.kind)

    def add(self, acc: Accumulators, term: Term, row: Expr, column: Expr) -> Stmt:
        """A tile added to one block of the result."""
        sign, down, across = term
        statements = []
        for r in range(self.rows):
            for offset, lanes in pieces(self.width, self.lanes):
                y = row + (down * self.part.m + r)
                at = [y * self.stride + column + (across * self.part.n + offset)]
                value = acc.load(r, offset, lanes)
                before = vload(self.sums, at, lanes)
                value = before + value if sign > 0 else before - value
                statements.append(vstore(self.sums, value, at, lanes))
        return seq(statements)

    def finish(self) -> Stmt:
        """The sums through the epilogue."""
        lead = [const(0)] * (len(self.anchor.output.shape) - 2)

        def row(y: Expr) -> Stmt:
            def block(x: Expr, lanes: int) -> Stmt:
                def values(offset: int) -> tuple[Expr, Expr]:
                    return self.sums, y * self.stride + x + offset

                return write_back(self.anchor, values, lanes, self.lanes, [*lead, y], x)

            full = self.whole.n // self.lanes
            steps = [loop("x", full, lambda x: block(x * self.lanes, self.lanes))]
            rest = pieces(self.whole.n % self.lanes, self.lanes)
            return seq([*steps, *(block(const(full * self.lanes + o), lanes) for o, lanes in rest)])

        return loop("y", self.whole.m, row, self.kind)
