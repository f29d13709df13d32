"""One operator as its converter sees it: operands, options, and what the file says of its results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.builder import Builder
from dlcomp.frontend.tflite.network import Info, Options, Quantization


@dataclass(frozen=True)
class Call:
    """An operator with its operands written already; one that was left out is None.

    Attributes
    ----------
    moved : Quantization, optional
        Set where integers are moved, not computed with: what they mean.
    """

    b: Builder
    args: list[Tensor | None]
    options: Options
    results: list[Info]
    moved: Quantization | None = None

    def arg(self, place: int) -> Tensor:
        """An operand that must be there."""
        found = self.args[place] if place < len(self.args) else None
        if found is None:
            raise ValueError(f"it has no operand {place}")
        return found

    def maybe(self, place: int) -> Tensor | None:
        return self.args[place] if place < len(self.args) else None

    @property
    def all(self) -> list[Tensor]:
        """Every operand, none left out."""
        return [self.arg(place) for place in range(len(self.args))]

    def array(self, place: int, what: str) -> np.ndarray:
        """The elements of an operand that must be a constant."""
        return self.b.array(self.arg(place), what)

    def wholes(self, place: int, what: str) -> list[int]:
        """A constant operand as a list of whole numbers."""
        found = self.array(place, what)
        if found.dtype.kind not in "iu":
            raise ValueError(f"{what} must be whole numbers, not {found.dtype}")
        return [int(v) for v in found.reshape(-1)]

    def whole(self, place: int, what: str) -> int:
        found = self.wholes(place, what)
        if len(found) != 1:
            raise ValueError(f"{what} must be one number, not {found}")
        return found[0]

    def is_known(self, place: int) -> bool:
        return self.arg(place).name in self.b.arrays

    @property
    def result(self) -> Info:
        if not self.results:
            raise ValueError("it has no result")
        return self.results[0]
