"""Weights that stay small integers where a product reads them: how many bits, and what they stand for.

A workload says it as its arithmetic: ``w8`` are 8-bit weights with one scale for each column, ``w4g32`` are
4-bit ones with a scale for every 32 neighbours of a column, and ``c5`` are numbers of the 32 values of a
codebook (Han et al., "EIE", ISCA 2016, section 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_NAME = re.compile(r"w([48])(?:g(\d+))?")
_CODEBOOK = re.compile(r"c([2-8])")
# Weights of 4 bits in one word, neighbours along the reduction.
NIBBLES = 8


@dataclass(frozen=True)
class Coding:
    """``bits`` of a weight, 4 or 8; ``group`` is 0 if a whole column has one scale."""

    bits: int
    group: int = 0

    @property
    def text(self) -> str:
        return f"w{self.bits}" + (f"g{self.group}" if self.group else "")

    def length(self, k: int) -> int:
        """How many of a column of ``k`` weights have one scale."""
        return min(self.group or k, k)


@dataclass(frozen=True)
class Codebook:
    """A weight is one of ``2**bits`` values of its layer, and stored as the number of one."""

    bits: int

    @property
    def text(self) -> str:
        return f"c{self.bits}"

    @property
    def in_a_word(self) -> int:
        """Neighbours along the reduction in 32 bits."""
        return 32 // self.bits


def is_coded(arithmetic: str) -> bool:
    """Whether the workload's weights are integers that become floats beside the multiplications."""
    return any(name.fullmatch(arithmetic) for name in (_NAME, _CODEBOOK))


def coding_of(arithmetic: str) -> Coding | Codebook:
    """The inverse of :attr:`Coding.text` and :attr:`Codebook.text`."""
    shared = _CODEBOOK.fullmatch(arithmetic)
    if shared is not None:
        return Codebook(int(shared[1]))
    found = _NAME.fullmatch(arithmetic)
    if found is None:
        raise ValueError(f"{arithmetic!r} names no coding of weights")
    return Coding(int(found[1]), int(found[2] or 0))


@dataclass(frozen=True)
class Coded:
    """A weight (k, n): ``integers`` (k, n) int8, and ``scales`` (groups of a column, n) float32."""

    integers: np.ndarray
    scales: np.ndarray
    coding: Coding

    def reals(self) -> np.ndarray:
        """(k, n) in float32."""
        rows = len(self.integers)
        wide = np.repeat(self.scales, self.coding.length(rows), axis=0)[:rows]
        result: np.ndarray = self.integers.astype(np.float32) * wide
        return result


@dataclass(frozen=True)
class Shared:
    """A weight (k, n): ``numbers`` (k, n) uint8 of ``values``, ``2**bits`` float32."""

    numbers: np.ndarray
    values: np.ndarray

    @property
    def coding(self) -> Codebook:
        return Codebook((len(self.values) - 1).bit_length())

    def reals(self) -> np.ndarray:
        """(k, n) in float32."""
        result: np.ndarray = self.values[self.numbers]
        return result


def shared(weight: np.ndarray, most: int = 256) -> Shared | None:
    """``weight`` (k, n) float32 as numbers of its values, which are not told apart by the sign of zero.

    None if it has more than ``most`` values, or some that are not finite.
    """
    # Almost all weights have too many values, which a few of them show.
    if len(np.unique(weight.reshape(-1)[: 4 * most])) > most:
        return None
    values, numbers = np.unique(weight, return_inverse=True)
    if not 0 < len(values) <= most or not np.isfinite(values).all():
        return None
    # Zero has number 0: what is pruned is what files skip.
    order = np.argsort(values != 0, kind="stable")
    place = np.empty(len(order), np.uint8)
    place[order] = np.arange(len(order))
    table = np.zeros(2 ** max(2, (len(values) - 1).bit_length()), np.float32)
    table[: len(values)] = values[order]
    return Shared(place[numbers.reshape(weight.shape)], table)


def example(k: int, n: int, coding: Coding | Codebook, rng: np.random.Generator) -> Coded | Shared:
    """A random weight in ``coding``."""
    if isinstance(coding, Codebook):
        values = rng.standard_normal(2**coding.bits).astype(np.float32)
        return Shared(rng.integers(0, 2**coding.bits, (k, n)).astype(np.uint8), values)
    most = 2 ** (coding.bits - 1)
    integers = rng.integers(-most, most, (k, n)).astype(np.int8)
    scales = rng.uniform(0.5, 1.5, (-(-k // coding.length(k)), n)).astype(np.float32) / most
    return Coded(integers, scales, coding)
