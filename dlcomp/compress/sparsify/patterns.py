"""Where zeros may stand: anywhere, N of M neighbours, or whole blocks of outputs by inputs.

Everything here is about one matrix (outputs by inputs, see ``matrices.py``) whose elements have scores that
add up: what is removed is what loses least in sum.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from dlcomp.errors import UsageError

_LARGEST = 1024


@dataclass(frozen=True)
class Pattern:
    """One kind of sparsity.

    Attributes
    ----------
    rows, columns : int
        Outputs and inputs of a block; elements are blocks of 1 by 1.
    kept, of : int
        N and M: as many of so many neighbouring inputs stay; 0 and 1 where any number may go.
    """

    rows: int = 1
    columns: int = 1
    kept: int = 0
    of: int = 1

    @staticmethod
    def parse(text: str) -> Pattern:
        """``unstructured``, ``2:4`` (2 of 4 stay), or ``16x1`` (outputs by inputs).

        Raises
        ------
        UsageError
            It is none of these, or its numbers make no sense.
        """
        if text == "unstructured":
            return Pattern()
        found = re.fullmatch(r"(\d+)([:x])(\d+)", text)
        if not found:
            raise UsageError(
                f"there is no pattern {text!r}",
                hint="unstructured, N:M as 2:4 (2 of 4 stay), or OUTPUTSxINPUTS as 16x1",
            )
        first, second = int(found[1]), int(found[3])
        if found[2] == ":":
            if not 1 <= first < second <= _LARGEST:
                raise UsageError(f"of N:M, 1 <= N < M <= {_LARGEST}, not {text}")
            return Pattern(kept=first, of=second)
        if not (1 <= first <= _LARGEST and 1 <= second <= _LARGEST):
            raise UsageError(f"a block has 1 to {_LARGEST} outputs and inputs, not {text}")
        return Pattern(first, second)

    @property
    def fixed(self) -> float | None:
        """The sparsity that the pattern itself decides, of N:M."""
        return 1 - self.kept / self.of if self.kept else None

    @property
    def width(self) -> int:
        """Columns that are decided about together."""
        return max(self.columns, self.of)

    def misfit(self, outputs: int, inputs: int, channels: int) -> str | None:
        """Why a matrix ``(outputs, inputs)`` cannot have the pattern, or None if it can.

        ``channels`` are neighbouring inputs of the same tap. Blocks at the edges may be partial.
        """
        if self.kept and channels % self.of:
            return f"{channels} input channels are no multiple of {self.of}"
        if outputs < self.rows:
            return f"{outputs} outputs are less than {self.rows}"
        if inputs < self.columns:
            return f"{inputs} inputs are less than {self.columns}"
        return None

    def units(self, scores: np.ndarray) -> np.ndarray:
        """Scores ``(O, K)`` summed over each block: ``(ceil(O / rows), ceil(K / columns))``."""
        if self.rows == self.columns == 1:
            return scores
        down = np.add.reduceat(scores, np.arange(0, scores.shape[0], self.rows), axis=0)
        return np.asarray(np.add.reduceat(down, np.arange(0, scores.shape[1], self.columns), axis=1))

    def spread(self, units: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
        """A value of each block as one of each element: ``(outputs, inputs)``."""
        down = np.repeat(units, self.rows, axis=0)[:outputs]
        return np.repeat(down, self.columns, axis=1)[:, :inputs]

    def count(self, outputs: int, inputs: int, sparsity: float) -> int:
        """How many blocks of a matrix go for ``sparsity``."""
        blocks = math.ceil(outputs / self.rows) * math.ceil(inputs / self.columns)
        return min(blocks, round(sparsity * blocks))

    def kept_mask(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Which elements of ``(O, K)`` stay: bool, False where the sums of ``scores`` are least."""
        if self.kept:
            return best_of(scores, self.kept, self.of)
        units = self.units(scores)
        outputs, inputs = scores.shape
        gone = self.count(outputs, inputs, sparsity)
        return self.spread(~lowest(units, gone), outputs, inputs)


def lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """A mask of exactly ``count`` of the least ``scores``; of equal ones, the first in order."""
    mask = np.zeros(scores.size, bool)
    if count > 0:
        mask[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def best_of(scores: np.ndarray, kept: int, of: int) -> np.ndarray:
    """Of every ``of`` neighbours in a row, the ``kept`` of largest score; K is a multiple of ``of``."""
    groups = scores.reshape(scores.shape[0], -1, of)
    order = np.argsort(-groups, axis=-1, kind="stable")[..., :kept]
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask.reshape(scores.shape)
