"""Weights stored as numbers of a codebook: how they lie in memory, and the values of a vector of them.

As many neighbours along k as fit into 32 bits, the first in the lowest bits, are one word of
(n/width, k/neighbours, width). A vector's values are read from a codebook in registers by one permutation,
where an instruction looks at the lowest bits of each number alone, or by several and choices among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from dlcomp.schedules.coding import Codebook, Shared
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop, seq, splat, vload, vstore
from dlcomp.schedules.cpu.tile import Accumulators, multiply_accumulate, pieces
from dlcomp.target import Target

# By the elements of a vector: permutations of one register by numbers, and of two.
_ONE = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}
_TWO = {16: "llvm.x86.avx512.vpermi2var.ps.512"}
# A step of the reduction at ``k``, whose ``weight(offset, size)`` are values.
Visit = Callable[[Expr, Callable[[int, int], Expr]], Stmt]
Scalar = Callable[[int, Expr], Expr]


def is_known(target: Target) -> bool:
    """Whether ``target`` has an instruction that permutes a whole register by numbers."""
    needed = {512: "avx512f", 256: "avx2"}.get(target.vector_bits)
    return target.architecture == "x86_64" and needed is not None and target.has(needed)


def instructions(coding: Codebook, lanes: int) -> int:
    """How many make a vector of values of words that have been read."""
    held = lanes * (2 if lanes in _TWO else 1)
    permutations = max(1, 2**coding.bits // held)
    # A choice takes a test and a blend.
    return 1 + permutations + 2 * (permutations - 1)


def pack(weight: Shared, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The words and the codebook, which fills a vector of any target at least."""
    bits, per = weight.coding.bits, weight.coding.in_a_word
    k, n = weight.numbers.shape
    padded = np.pad(weight.numbers, ((0, -k % per), (0, -n % width))).astype(np.uint32)
    shifts = bits * np.arange(per, dtype=np.uint32)[:, None]
    words = np.bitwise_or.reduce(padded.reshape(-1, per, padded.shape[1]) << shifts, axis=1)
    panels = np.ascontiguousarray(words.reshape(len(words), -1, width).transpose(1, 0, 2))
    # Numbers beyond a short codebook repeat it: the lowest bits are the same.
    return panels.view(np.int32), np.tile(weight.values, max(1, 32 // len(weight.values)))


def element(coding: Codebook, words: Any, values: Any, width: int, k: Expr, n: Expr) -> Expr:
    """One weight as a definition has it."""
    per = coding.in_a_word
    word = words[n // width, k // per, n % width]
    number = (word >> (tirx.Cast("int32", k % per) * coding.bits)) & (2**coding.bits - 1)
    return values[tirx.Cast("int64", number)]


class SharedPanel:
    """The ``width`` columns of a block of weights: :class:`coded_weights.Panel` of a codebook."""

    def __init__(self, words: Any, values: Any, coding: Codebook, k: int, width: int, lanes: int) -> None:
        self.words, self.values, self.coding = words, values, coding
        self.k, self.width, self.lanes = k, width, lanes

    def multiply(self, total: Accumulators, block: Expr, scalar: Scalar) -> list[Stmt]:
        """``total[row, :] += scalar(row, k) * weights[k, :]``, values looked up in registers."""

        def step(k: Expr, weight: Callable[[int, int], Expr]) -> Stmt:
            return multiply_accumulate(
                total, range(total.rows), self.lanes, weight, lambda row: scalar(row, k)
            )

        return self._steps(block, step)

    def decode(self, floats: Any, block: Expr) -> list[Stmt]:
        """``floats`` (k, width) become the weights."""

        def step(k: Expr, weight: Callable[[int, int], Expr]) -> Stmt:
            vectors = pieces(self.width, self.lanes)
            return seq([vstore(floats, weight(at, size), [k, const(at)], size) for at, size in vectors])

        return self._steps(block, step)

    def _steps(self, block: Expr, visit: Visit) -> list[Stmt]:
        tables, bound = self._codebook()
        whole, rest = divmod(self.k, self.coding.in_a_word)
        made = list(bound)
        if whole:
            made.append(
                loop("k", whole, lambda w: self._word(block, w, self.coding.in_a_word, tables, visit))
            )
        return [*made, self._word(block, const(whole), rest, tables, visit)] if rest else made

    def _codebook(self) -> tuple[list[Expr], list[Stmt]]:
        """The codebook in registers, and what binds them."""
        count = max(1, 2**self.coding.bits // self.lanes)
        tables = [tirx.Var("table", f"float32x{self.lanes}") for _ in range(count)]
        reads = [vload(self.values, [const(i * self.lanes)], self.lanes) for i in range(count)]
        return tables, [tirx.Bind(var, read) for var, read in zip(tables, reads, strict=True)]

    def _word(self, block: Expr, word: Expr, count: int, tables: list[Expr], visit: Visit) -> Stmt:
        """``visit`` at the ``count`` rows whose numbers are in a row of words."""
        words: dict[int, Expr] = {}
        made = []
        for offset, size in pieces(self.width, self.lanes):
            words[offset] = tirx.Var("word", f"int32x{size}")
            made.append(tirx.Bind(words[offset], vload(self.words, [block, word, const(offset)], size)))
        for place in range(count):

            def weight(offset: int, size: int, place: int = place) -> Expr:
                shift = splat(tirx.const(self.coding.bits * place, "int32"), size)
                return self._looked_up(words[offset] >> shift if place else words[offset], tables)

            made.append(visit(word * self.coding.in_a_word + place, weight))
        return seq(made)

    def _looked_up(self, numbers: Expr, tables: list[Expr]) -> Expr:
        """The values of ``numbers``, of which bits above those of the codebook do not count."""
        kind = f"float32x{self.lanes}"
        if len(tables) == 1:
            return tirx.call_llvm_pure_intrin(kind, _ONE[self.lanes], tables[0], numbers)
        if len(tables) == 2 and self.lanes in _TWO:
            return tirx.call_llvm_pure_intrin(kind, _TWO[self.lanes], tables[0], numbers, tables[1])
        half = len(tables) // 2
        low, high = (self._looked_up(numbers, part) for part in (tables[:half], tables[half:]))
        # The bit that decides becomes the sign.
        decides = (half * self.lanes).bit_length() - 1
        sign = numbers << splat(tirx.const(31 - decides, "int32"), self.lanes)
        return tirx.Select(sign < splat(tirx.const(0, "int32"), self.lanes), high, low)
