"""The state of a recurrent layer by the right factor of its weight: once a step, for all gates."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop, scratch, seq, vload, vstore
from dlcomp.schedules.cpu.recurrence_blocking import short_width
from dlcomp.schedules.cpu.tile import Accumulators, independent_sums, lanes_of, multiply_accumulate, pieces
from dlcomp.schedules.workload import Recurrence
from dlcomp.target import Target


class Short:
    """The product for ``rows`` rows of the batch.

    Attributes
    ----------
    right : buffer (directions, blocks, hidden, width)
        The packed factor.
    result : scratch buffer (rows, blocks * width)
        Of ``layer.rank`` numbers, then of zeros that nothing reads.
    """

    def __init__(self, layer: Recurrence, rows: int, target: Target) -> None:
        self.hidden, self.rows, self.lanes = layer.hidden, rows, lanes_of(target)
        self.width = short_width(layer, rows, target)
        self.blocks = -(-layer.rank // self.width)
        # A short row alone would wait for each of its sums: they are made of parts of the state side by side.
        vectors = len(pieces(self.width, self.lanes))
        self.parts = min(layer.hidden, max(1, independent_sums(target) // (rows * vectors)))
        shape = (layer.directions, self.blocks, layer.hidden, self.width)
        self.right = tirx.decl_buffer(shape, "float32", name="right")
        self.result = scratch("short", (rows, self.blocks * self.width))

    def product(self, state: Any, direction: Expr, kind: str) -> Stmt:
        """``state`` (rows, hidden) by the factor of ``direction``; ``kind``: that of the loop over blocks."""
        length, rest = divmod(self.hidden, self.parts)

        def block(index: Expr) -> Stmt:
            acc = Accumulators(self.parts * self.rows, self.width)

            def add(part: int, k: Expr) -> Stmt:
                return multiply_accumulate(
                    acc,
                    range(part * self.rows, (part + 1) * self.rows),
                    self.lanes,
                    lambda offset, size: vload(self.right, [direction, index, k, const(offset)], size),
                    lambda r: tirx.BufferLoad(state, [const(r - part * self.rows), k]),
                )

            def step(k: Expr) -> Stmt:
                return seq([add(part, k + part * length) for part in range(self.parts)])

            stored = [
                vstore(
                    self.result, self._total(acc, row, at, size), [const(row), index * self.width + at], size
                )
                for row in range(self.rows)
                for at, size in pieces(self.width, self.lanes)
            ]
            return seq(
                [
                    acc.alloc(),
                    acc.clear(self.lanes, tirx.const(0, "float32")),
                    loop("k", length, step),
                    *([loop("k", rest, lambda k: add(0, k + self.parts * length))] if rest else []),
                    *stored,
                ]
            )

        return loop("short", self.blocks, block, kind if self.blocks > 1 else "serial")

    def _total(self, acc: Accumulators, row: int, offset: int, size: int) -> Expr:
        """The sum of a row's parts, two by two."""
        sums = [acc.load(part * self.rows + row, offset, size) for part in range(self.parts)]
        while len(sums) > 1:
            pairs = zip(sums[::2], sums[1::2], strict=False)
            sums = [left + right for left, right in pairs] + sums[len(sums) // 2 * 2 :]
        return sums[0]
