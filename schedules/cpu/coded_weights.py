"""Weights stored as 4- or 8-bit integers with scales: how they lie in memory, and floats of them.

8-bit weights (k, n) are (n/width, k, width); of 4-bit ones eight neighbours along k, the first in the lowest
bits, are one word of (n/width, k/8, width). Scales are (n/width, groups, width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from dlcomp.schedules.coding import NIBBLES, Coded, Coding
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop, seq, splat, vload, vstore
from dlcomp.schedules.cpu.tile import Accumulators, multiply_accumulate, pieces

# What the lowest bit of the highest nibble of a word stands for.
_NIBBLE = np.float32(1 << 28)
# A step of the reduction at ``k``, whose ``weight(offset, size)`` are integers as floats.
Weight = Callable[[int, int], Expr]
Visit = Callable[[Expr, Weight], Stmt]
Scalar = Callable[[int, Expr], Expr]


def pack(weight: Coded, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The integers and the scales."""
    if weight.coding.bits == 8:
        return _panels(weight.integers, width), _panels(weight.scales, width)
    k, n = weight.integers.shape
    padded = np.pad(weight.integers, ((0, -k % NIBBLES), (0, 0)))
    nibbles = (padded.astype(np.uint32) & 15).reshape(-1, NIBBLES, n)
    shifts = 4 * np.arange(NIBBLES, dtype=np.uint32)[:, None]
    words = np.bitwise_or.reduce(nibbles << shifts, axis=1)
    return _panels(words.view(np.int32), width), _panels(weight.scales / _NIBBLE, width)


def element(coding: Coding, codes: Any, scales: Any, width: int, length: int, k: Expr, n: Expr) -> Expr:
    """One weight as a definition has it; ``length`` neighbours of a column have one scale."""
    whole = codes[n // width, k, n % width]
    if coding.bits == 4:
        word = codes[n // width, k // NIBBLES, n % width]
        whole = _nibble(word, tirx.Cast("int32", k % NIBBLES), 1)
    return tirx.Cast("float32", whole) * scales[n // width, k // length, n % width]


class Panel:
    """The ``width`` columns of a block of weights, ``length`` of ``k`` rows of which have one scale."""

    def __init__(self, codes: Any, scales: Any, coding: Coding, k: int, width: int, lanes: int) -> None:
        self.codes, self.scales, self.coding = codes, scales, coding
        self.k, self.length = k, coding.length(k)
        self.width, self.lanes = width, lanes

    def multiply(self, total: Accumulators, block: Expr, scalar: Scalar) -> list[Stmt]:
        """``total[row, :] += scalar(row, k) * weights[k, :]``, floats made in registers.

        The sum of a group is multiplied by its scale once.
        """

        def group(number: Expr, count: int) -> Stmt:
            acc = Accumulators(total.rows, total.width)

            def step(k: Expr, weight: Weight) -> Stmt:
                return multiply_accumulate(
                    acc, range(acc.rows), self.lanes, weight, lambda row: scalar(row, k)
                )

            made = [acc.alloc(), acc.clear(self.lanes, tirx.const(0, "float32"))]
            made += self._steps(block, number * self.length, count, step)
            for offset, size, scale, bound in self._bound_scales(block, number):
                made.append(bound)
                for row in range(acc.rows):
                    value = total.load(row, offset, size) + acc.load(row, offset, size) * scale
                    made.append(total.store(row, value, offset, size))
            return seq(made)

        return self._groups(group)

    def decode(self, floats: Any, block: Expr) -> list[Stmt]:
        """``floats`` (k, width) become the weights."""

        def group(number: Expr, count: int) -> Stmt:
            scales = self._bound_scales(block, number)

            def step(k: Expr, weight: Weight) -> Stmt:
                stores = [
                    vstore(floats, weight(offset, size) * scale, [k, const(offset)], size)
                    for offset, size, scale, _ in scales
                ]
                return seq(stores)

            return seq([*(s[3] for s in scales), *self._steps(block, number * self.length, count, step)])

        return self._groups(group)

    def _groups(self, group: Callable[[Expr, int], Stmt]) -> list[Stmt]:
        """All groups, of which the last one may be shorter."""
        whole, rest = divmod(self.k, self.length)
        made = [loop("g", whole, lambda g: group(g, self.length))] if whole else []
        return [*made, group(const(whole), rest)] if rest else made

    def _bound_scales(self, block: Expr, number: Expr) -> list[tuple[int, int, Expr, Stmt]]:
        """Of each vector: its place, its size, the variable of its scales, and what binds that."""
        made = []
        for offset, size in pieces(self.width, self.lanes):
            scale = tirx.Var("s", _kind("float32", size))
            bound = tirx.Bind(scale, vload(self.scales, [block, number, const(offset)], size))
            made.append((offset, size, scale, bound))
        return made

    def _steps(self, block: Expr, first: Expr, count: int, visit: Visit) -> list[Stmt]:
        """``visit`` at ``count`` rows from ``first``, at which a word begins."""
        if self.coding.bits == 8:
            return [loop("k", count, lambda k: self._byte(block, first + k, visit))]
        words, rest = divmod(count, NIBBLES)
        made = []
        if words:
            made.append(loop("k", words, lambda k: self._word(block, first + k * NIBBLES, NIBBLES, visit)))
        return [*made, self._word(block, first + words * NIBBLES, rest, visit)] if rest else made

    def _byte(self, block: Expr, k: Expr, visit: Visit) -> Stmt:
        def weight(offset: int, size: int) -> Expr:
            return tirx.Cast(_kind("float32", size), vload(self.codes, [block, k, const(offset)], size))

        return visit(k, weight)

    def _word(self, block: Expr, k: Expr, count: int, visit: Visit) -> Stmt:
        words: dict[int, Expr] = {}
        made = []
        for offset, size in pieces(self.width, self.lanes):
            words[offset] = tirx.Var("word", _kind("int32", size))
            read = vload(self.codes, [block, tirx.floordiv(k, const(NIBBLES)), const(offset)], size)
            made.append(tirx.Bind(words[offset], read))
        for place in range(count):

            def weight(offset: int, size: int, place: int = place) -> Expr:
                whole = _nibble(words[offset], tirx.const(place, "int32"), size)
                return tirx.Cast(_kind("float32", size), whole)

            made.append(visit(k + place, weight))
        return seq(made)


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
