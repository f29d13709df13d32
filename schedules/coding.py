"""Weights that stay small integers where a product reads them: how many bits, and how many share a scale.

A workload says it as its arithmetic: ``w8`` are 8-bit weights with one scale for each column, ``w4g32`` are
4-bit ones with a scale for every 32 neighbours of a column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_NAME = re.compile(r"w([48])(?:g(\d+))?")
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


def is_coded(arithmetic: str) -> bool:
    """Whether the workload's weights are integers that are multiplied by floats."""
    return _NAME.fullmatch(arithmetic) is not None


def coding_of(arithmetic: str) -> Coding:
    """The inverse of :attr:`Coding.text`."""
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


def example(k: int, n: int, coding: Coding, rng: np.random.Generator) -> Coded:
    """A random weight in ``coding``."""
    most = 2 ** (coding.bits - 1)
    integers = rng.integers(-most, most, (k, n)).astype(np.int8)
    scales = rng.uniform(0.5, 1.5, (-(-k // coding.length(k)), n)).astype(np.float32) / most
    return Coded(integers, scales, coding)
