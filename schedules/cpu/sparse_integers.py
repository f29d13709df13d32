"""Steps of integer products that skip zeros: how the inputs of one are found, and the code for a tile.

An instruction takes a group of inputs for every output (:mod:`dlcomp.schedules.cpu.arithmetic`). Weights
pruned in blocks of 16x1 leave inputs that are no neighbours: those of a block of outputs, in order, are cut
into groups, and their words are made beside the multiplications, from rows that were turned once
(:mod:`dlcomp.schedules.cpu.word_rows`). Where whole groups of neighbours are zeros (16x4), the words are
those of the rows as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import Arithmetic, arithmetic_of
from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, dynamic_loop, scratch, seq, vload, vstore
from dlcomp.schedules.cpu.gemm import unflatten
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    independent_sums,
    lanes_of,
    multiply_accumulate,
    pieces,
    write_rows,
)
from dlcomp.schedules.cpu.word_rows import Turned, joined
from dlcomp.schedules.template import Knobs
from dlcomp.schedules.workload import Gemm
from dlcomp.target import Target

# Steps by which words are made before they are multiplied, so that the stores of them are done by then.
_AHEAD = 2
# Rows of a tile whose words are made of turned rows, at least; of fewer they are read element by element.
LEAST_TURNED = 4


@dataclass(frozen=True)
class Form:
    """How the inputs of a step are found: groups of neighbours, any inputs of turned rows, or of rows."""

    arithmetic: Arithmetic
    depth: int
    group: int
    turned: Turned | None

    @staticmethod
    def of(workload: Gemm, knobs: Knobs) -> Form:
        arithmetic = arithmetic_of(workload.arithmetic)
        apart = knobs["group"] < arithmetic.group
        turned = None
        if apart and knobs["rows"] >= LEAST_TURNED:
            turned = Turned(knobs["rows"], workload.k, arithmetic.data)
        return Form(arithmetic, workload.k, knobs["group"], turned)

    @property
    def apart(self) -> bool:
        """Whether the inputs of a word are no neighbours."""
        return self.group < self.arithmetic.group

    def inputs(self, kept: np.ndarray) -> np.ndarray:
        """Which inputs the words of a block read, in order; ``depth`` for none."""
        found = np.flatnonzero(kept)
        if not self.apart:
            return np.asarray((found[:, None] * self.group + np.arange(self.group)).reshape(-1))
        return np.pad(found, (0, -len(found) % self.arithmetic.group), constant_values=self.depth)

    def offsets(self, inputs: np.ndarray) -> np.ndarray:
        """Where the inputs of each step are, and those of a few more steps, which are read and not used."""
        inputs = np.where(inputs < self.depth, inputs, 0)
        words = self.arithmetic.group
        if self.apart:
            places = self.turned.places() if self.turned else np.arange(self.depth)
            found = np.pad(places[inputs].reshape(-1, words), ((0, 1 + _AHEAD), (0, 0)))
        else:
            found = np.pad(inputs[::words] // words, (0, 1))
        return found.astype(np.uint16 if found.max() < 1 << 16 else np.uint32)

    def column(self, offsets: Any, step: Expr, word: Expr) -> Expr:
        """The inverse: the input that is the ``word``-th of a step."""
        if not self.apart:
            return offsets[step].astype("int64") * self.group + word
        place = offsets[step, word].astype("int64")
        return self.turned.column(place) if self.turned else place

    def making(self, rows: int) -> float:
        """Cycles that a step's words take beside the multiplications."""
        if not self.apart:
            return 0.0
        words = self.arithmetic.group
        return rows * words * 0.6 if self.turned is None else rows // self.turned.band * words * 0.5

    def turning(self, rows: int) -> float:
        """Cycles in which the rows of a tile are turned."""
        return 0.15 * rows * self.depth if self.turned else 0.0


class Task:
    """The code for a tile of rows and a share of the blocks."""

    def __init__(self, anchor: Anchor, wl: Gemm, knobs: Knobs, target: Target) -> None:
        self.anchor, self.wl, self.lanes = anchor, wl, lanes_of(target)
        self.rows, self.width, self.shares = knobs["rows"], knobs["width"], knobs["shares"]
        self.form = Form.of(wl, knobs)
        self.arithmetic = self.form.arithmetic
        (self.index,) = (b for b in anchor.inputs if str(b.dtype) == "int32")
        # The expression reads the data before the values; both may be of one type.
        (self.offsets,) = (b for b in anchor.inputs if str(b.dtype) in ("uint16", "uint32"))
        self.data, self.values = (b for b in anchor.inputs if b not in (self.index, self.offsets))
        self.blocks = int(self.index.shape[0]) // 2
        self.shape = [int(d) for d in anchor.output.shape[:-1]]
        parts = len(pieces(self.width, self.lanes))
        self.sums = max(1, min(8, -(-independent_sums(target) // (self.rows * parts))))
        words = self.arithmetic.group
        self.words = scratch("words", (-(-wl.k // words) + _AHEAD, self.rows * words), self.arithmetic.data)

    def body(self, index: Expr) -> Stmt:
        first = tirx.min(index // self.shares * self.rows, const(self.wl.m - self.rows))
        room = -(-self.blocks // self.shares)
        start = index % self.shares * room
        count = tirx.min(const(room), self.blocks - start) if self.blocks % self.shares else const(room)
        turned, statements = None, []
        if self.form.turned:
            turned = self.form.turned.buffer()
            statements += [
                alloc(turned),
                self.form.turned.fill(turned, lambda r, c, n: self._read(first + r, c, n)),
            ]
            statements.append(alloc(self.words))
        blocks = dynamic_loop("place", start, count, lambda place: self._block(first, turned, place))
        return seq([*statements, blocks])

    def _lead(self, row: Expr) -> list[Expr]:
        return unflatten(row, self.shape)

    def _read(self, row: Expr, column: Expr, size: int) -> Expr:
        return vload(self.data, [*self._lead(row), column], size)

    def _block(self, first: Expr, turned: Any, place: Expr) -> Stmt:
        """All rows of a tile, the block at ``place`` of the order."""
        block, begin, count = (tirx.Var(name, "int64") for name in ("block", "begin", "count"))
        parts = [Accumulators(self.rows, self.width, self.arithmetic.sums) for _ in range(self.sums)]

        def at(buffer: Any, *indices: Expr) -> Expr:
            return tirx.BufferLoad(buffer, list(indices)).astype("int64")

        def make(step: Expr) -> list[Stmt]:
            return [self._make_words(turned, begin + step, step)] if self.form.turned else []

        def several(number: Expr, many: int) -> Stmt:
            made = []
            for u in range(many):
                step = number * many + u
                made += make(step + _AHEAD)
                made.append(self._multiply(parts[u], first, begin + step, step))
            return seq(made)

        whole = tirx.floordiv(count, const(self.sums))
        loops = [dynamic_loop("step", const(0), whole, lambda i: several(i, self.sums))]
        if self.sums > 1:
            rest = whole * self.sums
            loops += [dynamic_loop("step", rest, count - rest, lambda i: several(i, 1)), self._add_up(parts)]
        last = self.wl.n - (self.blocks - 1) * self.width
        stores = self._store(parts[0], first, block, last if self.blocks == 1 else self.width)
        if self.blocks > 1 and last != self.width:
            stores = tirx.IfThenElse(
                block == self.blocks - 1, self._store(parts[0], first, block, last), stores
            )
        return seq(
            [
                tirx.Bind(block, at(self.index, place)),
                tirx.Bind(begin, at(self.index, block + self.blocks)),
                tirx.Bind(count, at(self.index, block + self.blocks + 1) - begin),
                *(acc.alloc() for acc in parts),
                *(acc.clear(self.lanes, self.arithmetic.zero) for acc in parts),
                *(statement for ahead in range(_AHEAD) for statement in make(const(ahead))),
                *loops,
                stores,
            ]
        )

    def _store(self, acc: Accumulators, first: Expr, block: Expr, columns: int) -> Stmt:
        def lead(row: Any) -> list[Expr]:
            return self._lead(first + row)

        return write_rows(self.anchor, acc, columns, self.lanes, lead, block * self.width)

    def _columns(self, step: Expr) -> tuple[list[Stmt], list[Expr]]:
        """Where the inputs of a step are, as variables, and what binds them."""
        count = self.arithmetic.group if self.form.apart else 1
        variables = [tirx.Var("column", "int64") for _ in range(count)]
        indices = [[step, const(word)] if self.form.apart else [step] for word in range(count)]
        reads = [tirx.BufferLoad(self.offsets, index).astype("int64") for index in indices]
        return [tirx.Bind(v, read) for v, read in zip(variables, reads, strict=True)], variables

    def _make_words(self, turned: Any, step: Expr, place: Expr) -> Stmt:
        """The words of all rows, for a later step."""
        statements, columns = self._columns(step)
        band, words = self.form.turned.band, self.arithmetic.group
        for number in range(self.rows // band):
            made = self.form.turned.words(turned, const(number), columns)
            at = [place, const(number * band * words)]
            statements.append(vstore(self.words, made, at, band * words))
        return seq(statements)

    def _multiply(self, acc: Accumulators, first: Expr, step: Expr, place: Expr) -> Stmt:
        statements, columns = ([], []) if self.form.turned else self._columns(step)

        def weight(offset: int, size: int) -> Expr:
            return self.arithmetic.vector(self.values, [step, const(offset)], size)

        def scalar(row: int) -> Expr:
            if self.form.turned:
                return self.arithmetic.scalar(self.words, [place, const(row)])
            lead = self._lead(first + row)
            if self.form.apart:
                return joined([tirx.BufferLoad(self.data, [*lead, column]) for column in columns])
            return self.arithmetic.scalar(self.data, [*lead, *columns])

        rows = range(self.rows)
        return seq([*statements, multiply_accumulate(acc, rows, self.lanes, weight, scalar, self.arithmetic)])

    def _add_up(self, parts: Sequence[Accumulators]) -> Stmt:
        """The first accumulators take the others."""
        statements = []
        for row in range(self.rows):
            for offset, size in pieces(self.width, self.lanes):
                total = parts[0].load(row, offset, size)
                for acc in parts[1:]:
                    total = total + acc.load(row, offset, size)
                statements.append(parts[0].store(row, total, offset, size))
        return seq(statements)
