"""Words of a few 8- or 16-bit inputs that do not lie side by side, for instructions that take such words.

A tile's rows are turned once, so that a column of them is contiguous: by rounds of interleaving each row
with the one half of the rows further on, which after log2(rows) rounds is a transposition. The words of all
rows, of any inputs, are then columns interleaved: a few shuffles for as many multiply-adds as there are rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop, scratch, seq, vload, vstore

# Of a shuffle that a processor does in one instruction on bytes; longer vectors are as many lanes.
_LANE_BYTES = 16
_VECTOR_BYTES = 32


@dataclass(frozen=True)
class Turned:
    """How ``rows`` rows of ``depth`` elements of ``kind`` lie once they are turned.

    Rows are cut into bands of a power of two. In a band, chunks of columns are turned, the last one moved up
    to be a full one; the elements of a column are neighbours.
    """

    rows: int
    depth: int
    kind: str

    @property
    def item(self) -> int:
        return int(np.dtype(self.kind).itemsize)

    @property
    def lane(self) -> int:
        """Columns that are interleaved together."""
        return min(_LANE_BYTES // self.item, self.vector)

    @property
    def vector(self) -> int:
        """Columns of a chunk."""
        return min(_VECTOR_BYTES // self.item, 1 << (self.depth.bit_length() - 1))

    @property
    def band(self) -> int:
        """Rows that are turned together."""
        return min(self.rows & -self.rows, _LANE_BYTES // self.item)

    @property
    def chunks(self) -> int:
        return -(-self.depth // self.vector)

    @property
    def size(self) -> int:
        """Elements of a band."""
        return self.chunks * self.vector * self.band

    def places(self) -> np.ndarray:
        """Where the elements of each column begin in a band."""
        column = np.arange(self.depth)
        chunk = column // self.vector
        inside = column - self._start(chunk)
        flat = inside % self.lane * self.band
        place = flat // self.lane * self.vector + inside // self.lane * self.lane + flat % self.lane
        return np.asarray(chunk * self.vector * self.band + place)

    def _start(self, chunk: np.ndarray) -> np.ndarray:
        return np.minimum(chunk * self.vector, self.depth - self.vector)

    def column(self, place: Expr) -> Expr:
        """The inverse of :meth:`places`."""
        chunk, rest = place // (self.vector * self.band), place % (self.vector * self.band)
        flat = rest // self.vector * self.lane + rest % self.lane
        inside = rest % self.vector // self.lane * self.lane + flat // self.band
        return tirx.min(chunk * self.vector, self.depth - self.vector) + inside

    def buffer(self) -> Any:
        """``(bands, elements)``, to be allocated."""
        return scratch("turned", (self.rows // self.band, self.size), self.kind)

    def fill(self, buffer: Any, load: Callable[[Expr, Expr, int], Expr]) -> Stmt:
        """``load(row, column, size)`` are neighbours of a row."""

        def chunk(band: Expr, number: Expr) -> Stmt:
            start = number * self.vector
            if self.depth % self.vector:
                start = tirx.min(start, const(self.depth - self.vector))
            statements: list[Stmt] = []

            def hold(value: Expr) -> Expr:
                var = tirx.Var("t", f"{self.kind}x{self.vector}" if self.vector > 1 else self.kind)
                statements.append(tirx.Bind(var, value))
                return var

            rows = [hold(load(band * self.band + r, start, self.vector)) for r in range(self.band)]
            for v, value in enumerate(self._interleaved(rows, hold)):
                place = number * (self.vector * self.band) + v * self.vector
                statements.append(vstore(buffer, value, [band, place], self.vector))
            return seq(statements)

        def bands(band: Expr) -> Stmt:
            return loop("chunk", self.chunks, lambda number: chunk(band, number))

        return loop("band", self.rows // self.band, bands)

    def _interleaved(self, rows: list[Expr], hold: Callable[[Expr], Expr]) -> list[Expr]:
        count, half = len(rows), max(1, self.lane // 2)
        for _ in range(count.bit_length() - 1):
            if self.lane == 1:
                # Single elements are in the order of the rows as they are.
                break
            new = []
            for low, high in zip(rows[: count // 2], rows[count // 2 :], strict=True):
                for first in (0, half):
                    lanes = [
                        lane + first + i + side * self.vector
                        for lane in range(0, self.vector, self.lane)
                        for i in range(half)
                        for side in (0, 1)
                    ]
                    new.append(hold(shuffle([low, high], lanes)))
            rows = new
        return rows

    def words(self, buffer: Any, band: Expr, columns: list[Expr]) -> Expr:
        """Of every row of a band the elements in ``columns``, which are :meth:`places`: a word a row."""
        read = [vload(buffer, [band, place], self.band) for place in columns]
        order = [side * self.band + row for row in range(self.band) for side in range(len(columns))]
        return shuffle(read, order)


def shuffle(vectors: list[Expr], lanes: list[int]) -> Expr:
    """Elements of several vectors, counted through."""
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", lane) for lane in lanes])


def joined(elements: list[Expr]) -> Expr:
    """A word of 32 bits of elements of 8 or 16, the first in the lowest bits."""
    bits = 32 // len(elements)
    word = None
    for number, element in enumerate(elements):
        part = tirx.Cast("int32", tirx.Cast(f"uint{bits}", element)) << tirx.const(bits * number, "int32")
        word = part if word is None else word | part
    return word
