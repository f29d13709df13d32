"""Products of floats by constant weights that stay 4- or 8-bit integers in memory.

A weight becomes a float in a register, where a tile needs it, so that only the integers come from memory;
the sums of those that share a scale are multiplied by it once. What limits a product of few rows is what it
reads (Lin et al. 2024, "AWQ", section 4.1), which is a quarter or an eighth of float32's.

The sum of a group is that of inputs times integers, those of 4 bits times 2^28, where they lie in a word
without being moved down; it overflows for inputs beyond 10^28, where products with scaled weights need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.coding import NIBBLES, Coding, coding_of, is_coded
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop, seq, splat, vload
from dlcomp.schedules.cpu.gemm import unflatten
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    bytes_a_cycle,
    lanes_of,
    multiply_accumulate,
    pieces,
    tile_cycles,
    tile_shapes,
    write_rows,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target

# Instructions that make a vector of floats of integers, and how many are done in a cycle beside others.
_DECODING = {8: 2, 4: 3}
_ISSUED = 3.0
# What the lowest bit of the highest nibble of a word stands for.
_NIBBLE = np.float32(1 << 28)


class CodedGemm(Template):
    """(..., k) by a constant (k, n) of integers with scales.

    8-bit weights are packed to (n/width, k, width); of 4-bit ones eight neighbours along k, the first in the
    lowest bits, are one word of (n/width, k/8, width). Scales are (n/width, groups, width).

    Knobs: ``rows`` and ``width`` of the register tile; ``chunk``, the row tiles that pass over all weights
    before the next ones do.
    """

    name: ClassVar[str] = "gemm.coded"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Gemm)
            and target.kind == "cpu"
            and workload.m > 0
            and is_coded(workload.arithmetic)
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        return [
            {"rows": rows, "width": width, "chunk": chunk}
            for rows, width in self._tiles(workload, target)
            for chunk in sorted({1, -(-workload.m // rows)})
        ]

    def _tiles(self, workload: Gemm, target: Target) -> list[tuple[int, int]]:
        """Register tiles; the words of 4-bit weights are in registers beside the sums of a wide one."""
        shapes = tile_shapes(target, workload.m, workload.n)
        if coding_of(workload.arithmetic).bits == 8:
            return shapes
        most = lanes_of(target) * (target.vector_registers - 4) // 2
        return [(rows, width) for rows, width in shapes if rows > 1 or width <= most]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        rows, width = knobs["rows"], knobs["width"]
        coding = coding_of(workload.arithmetic)
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        vectors = len(pieces(width, lanes_of(target)))
        item = coding.bits / 8
        panel = workload.k * width * item
        read = width * item / bytes_a_cycle(int(panel if knobs["chunk"] > 1 else panel * blocks), target)
        issued = vectors * (_DECODING[coding.bits] + rows) / _ISSUED
        step = max(tile_cycles(rows, width, target), issued, read)
        groups = -(-workload.k // coding.length(workload.k))
        a_tile = step * workload.k + groups * rows * vectors * 2 + 3 * rows * vectors + 20
        return blocks * tiles * a_tile

    def pack(self, workload: Workload, knobs: Knobs, weight: Any) -> tuple[np.ndarray, ...]:
        """The integers and the scales of a :class:`dlcomp.schedules.coding.Coded`."""
        assert isinstance(workload, Gemm)
        width, coding = knobs["width"], coding_of(workload.arithmetic)
        if coding.bits == 8:
            return _panels(weight.integers, width), _panels(weight.scales, width)
        padded = np.pad(weight.integers, ((0, -workload.k % NIBBLES), (0, 0)))
        nibbles = (padded.astype(np.uint32) & 15).reshape(-1, NIBBLES, workload.n)
        shifts = 4 * np.arange(NIBBLES, dtype=np.uint32)[:, None]
        words = np.bitwise_or.reduce(nibbles << shifts, axis=1)
        return _panels(words.view(np.int32), width), _panels(weight.scales / _NIBBLE, width)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Gemm)
        data, codes, scales = operands
        width, coding = knobs["width"], coding_of(workload.arithmetic)
        length = coding.length(workload.k)
        k = te.reduce_axis((0, workload.k), "k")

        def at(*indices: Expr) -> Expr:
            *lead, n = indices
            whole = codes[n // width, k, n % width]
            if coding.bits == 4:
                word = codes[n // width, k // NIBBLES, n % width]
                whole = _nibble(word, tirx.Cast("int32", k % NIBBLES), 1)
            weight = tirx.Cast("float32", whole) * scales[n // width, k // length, n % width]
            return te.sum(data[(*lead, k)] * weight, axis=[k])

        shape = (*data.shape[:-1], workload.n)
        return te.compute(shape, at, name="gemm", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        rows, width, lanes = knobs["rows"], knobs["width"], lanes_of(target)
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        chunks = -(-tiles // knobs["chunk"])
        per_chunk = -(-tiles // chunks)
        tail = workload.n - (blocks - 1) * width
        lead_shape = [int(d) for d in anchor.output.shape[:-1]]
        tile = _Tile(anchor, workload, coding_of(workload.arithmetic), rows, width, lanes)

        def task(index: Expr) -> Stmt:
            block = index // per_chunk % blocks
            row_tile = index // (per_chunk * blocks) * per_chunk + index % per_chunk
            first = tirx.min(row_tile * rows, const(workload.m - rows))

            def lead(row: Expr) -> list[Expr]:
                return unflatten(first + row, lead_shape)

            total = Accumulators(rows, width)

            def store(columns: int) -> Stmt:
                return write_rows(anchor, total, columns, lanes, lead, block * width)

            stores = store(tail) if blocks == 1 else store(width)
            if blocks > 1 and tail != width:
                stores = tirx.IfThenElse(block == blocks - 1, store(tail), stores)
            zero = total.clear(lanes, tirx.const(0, "float32"))
            return seq([total.alloc(), zero, *tile.groups(total, block, lead), stores])

        kind = parallel_kind(workload.flops, target)
        return anchor.schedule_of(loop("task", chunks * blocks * per_chunk, task, kind))


class _Tile:
    """The sums of a register tile, group by group."""

    def __init__(
        self, anchor: Anchor, workload: Gemm, coding: Coding, rows: int, width: int, lanes: int
    ) -> None:
        self.data, self.codes, self.scales = anchor.inputs
        self.k, self.length, self.bits = workload.k, coding.length(workload.k), coding.bits
        self.rows, self.width, self.lanes = rows, width, lanes

    def groups(self, total: Accumulators, block: Expr, lead: Any) -> list[Stmt]:
        """``total += scale * sum`` for all groups, of which the last one may be shorter."""
        whole, rest = divmod(self.k, self.length)
        made = []
        if whole:
            made.append(loop("g", whole, lambda g: self._group(total, block, lead, g, self.length)))
        if rest:
            made.append(self._group(total, block, lead, const(whole), rest))
        return made

    def _group(self, total: Accumulators, block: Expr, lead: Any, group: Expr, count: int) -> Stmt:
        acc = Accumulators(self.rows, self.width)
        first = group * self.length
        if self.bits == 8:
            steps = [loop("k", count, lambda k: self._bytes(acc, block, lead, first + k))]
        else:
            words, rest = divmod(count, NIBBLES)
            steps = []
            if words:
                steps.append(
                    loop("k", words, lambda k: self._words(acc, block, lead, first + k * NIBBLES, NIBBLES))
                )
            if rest:
                steps.append(self._words(acc, block, lead, first + words * NIBBLES, rest))
        clear = acc.clear(self.lanes, tirx.const(0, "float32"))
        return seq([acc.alloc(), clear, *steps, *self._scaled(total, acc, block, group)])

    def _scaled(self, total: Accumulators, acc: Accumulators, block: Expr, group: Expr) -> list[Stmt]:
        made = []
        for offset, size in pieces(self.width, self.lanes):
            scale = tirx.Var("s", _kind("float32", size))
            made.append(tirx.Bind(scale, vload(self.scales, [block, group, const(offset)], size)))
            for row in range(self.rows):
                value = total.load(row, offset, size) + acc.load(row, offset, size) * scale
                made.append(total.store(row, value, offset, size))
        return made

    def _bytes(self, acc: Accumulators, block: Expr, lead: Any, k: Expr) -> Stmt:
        def weight(offset: int, size: int) -> Expr:
            return vload(self.codes, [block, k, const(offset)], size)

        return self._step(acc, lead, k, weight)

    def _words(self, acc: Accumulators, block: Expr, lead: Any, k: Expr, count: int) -> Stmt:
        """``count`` steps, from a ``k`` at which a word begins."""
        words: dict[int, Expr] = {}
        made = []
        for offset, size in pieces(self.width, self.lanes):
            words[offset] = tirx.Var("word", _kind("int32", size))
            read = vload(self.codes, [block, tirx.floordiv(k, const(NIBBLES)), const(offset)], size)
            made.append(tirx.Bind(words[offset], read))
        for place in range(count):

            def weight(offset: int, size: int, place: int = place) -> Expr:
                return _nibble(words[offset], tirx.const(place, "int32"), size)

            made.append(self._step(acc, lead, k + place, weight))
        return seq(made)

    def _step(self, acc: Accumulators, lead: Any, k: Expr, weight: Any) -> Stmt:
        """``acc[row, :] += data[row, k] * weight`` for every row, ``weight`` of integers."""

        def real(offset: int, size: int) -> Expr:
            return tirx.Cast(_kind("float32", size), weight(offset, size))

        def scalar(row: int) -> Expr:
            return tirx.BufferLoad(self.data, [*lead(row), k])

        return multiply_accumulate(acc, range(self.rows), self.lanes, real, scalar)


def _panels(matrix: np.ndarray, width: int) -> np.ndarray:
    """(k, n) to (n/width, k, width), zeros after the last column."""
    k, n = matrix.shape
    padded = np.pad(matrix, ((0, 0), (0, -n % width)))
    return np.ascontiguousarray(padded.reshape(k, -1, width).transpose(1, 0, 2))


def _nibble(word: Expr, place: Expr, size: int) -> Expr:
    """The signed 4 bits at ``place`` of each of ``size`` words, in the highest bits of a word.

    One instruction fewer than a number: a float of it is as exact, and its power of two is in the scales.
    """
    left = tirx.const(4 * (NIBBLES - 1), "int32") - place * 4
    return (word << splat(left, size)) & splat(tirx.const(-int(_NIBBLE), "int32"), size)


def _kind(dtype: str, size: int) -> str:
    return dtype if size == 1 else f"{dtype}x{size}"
