"""A matrix as low rank plus sparse blocks: GoDec (Zhou and Tao, ICML 2011, section 2), by outputs.

What the sparse part leaves gets its best low rank, what that leaves gets sparse again by the optimal brain
surgeon, so that errors are those of a layer's outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.lowrank.methods import leading
from dlcomp.compress.refit import error_of
from dlcomp.compress.sparsify.obs import obs
from dlcomp.compress.sparsify.patterns import Pattern

# Of the bytes, what the low rank gets: either alone, and mixtures.
SHARES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
_SWEEPS = 6
_NUMBER = 4
# Which input a stored block reads.
_INDEX = 2


@dataclass(frozen=True)
class Mixture:
    """A matrix (O, K) that is nearly ``low + sparse``.

    Attributes
    ----------
    rank : int
        That of ``low``; 0 where it is nothing.
    kept : float
        The share of blocks of ``sparse`` that may be other than zero.
    bytes : int
        Of both factors, and of the blocks that are stored, with their places.
    error : float
        Of the outputs: tr(E C E^T).
    """

    low: np.ndarray
    sparse: np.ndarray
    rank: int
    kept: float
    bytes: int
    error: float


def mixtures(matrix: np.ndarray, metric: np.ndarray, pattern: Pattern, budget: float) -> list[Mixture]:
    """One for each of :data:`SHARES` within ``budget`` bytes: sparse alone first, low rank alone last."""
    outputs, inputs = matrix.shape
    blocks = math.ceil(outputs / pattern.rows) * math.ceil(inputs / pattern.columns)
    row = _NUMBER * (outputs + inputs)
    block = _NUMBER * pattern.rows * pattern.columns + _INDEX
    found = []
    for share in SHARES:
        rank = min(int(share * budget / row), *matrix.shape)
        stored = min(blocks, int((budget - rank * row) / block)) if share < 1 else 0
        low, sparse = decomposed(matrix, metric, pattern, rank, stored / blocks)
        error = error_of(matrix - low - sparse, metric)
        found.append(Mixture(low, sparse, rank, stored / blocks, rank * row + stored * block, error))
    return found


def decomposed(
    matrix: np.ndarray, metric: np.ndarray, pattern: Pattern, rank: int, kept: float
) -> tuple[np.ndarray, np.ndarray]:
    """A matrix of ``rank`` and one of which a share ``kept`` of the blocks is not zero."""
    sparse = np.zeros_like(matrix)
    best, least = (sparse, sparse), np.inf
    for _ in range(_SWEEPS if rank and kept else 1):
        low = lowered(matrix - sparse, metric, rank)
        if kept:
            sparse = obs(matrix - low, metric, pattern, 1 - kept)
        error = error_of(matrix - low - sparse, metric)
        if error < least:
            best, least = (low, sparse), error
    return best


def lowered(matrix: np.ndarray, metric: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of ``rank``, in the metric of the inputs."""
    if not rank:
        return np.zeros_like(matrix)
    rows = leading(matrix, metric, rank)
    return np.asarray(matrix @ metric @ rows.T @ rows)
