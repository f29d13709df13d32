"""Tensor trains of matrices: how few numbers say a matrix, to know where that is less than low rank.

Novikov et al., "Tensorizing neural networks", NIPS 2015, section 3: rows and columns are cut into as many
factors, a pair of which is one dimension of a tensor, which is then factored by singular values from left to
right (Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 2011, algorithm 1). An analysis, not a
pass: no kernel multiplies by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_MOST_CORES = 4


@dataclass(frozen=True)
class Train:
    """Cores (rank, rows, columns, rank), whose products are a matrix.

    Attributes
    ----------
    cores : sequence of numpy.ndarray
        The ranks at both ends are 1.
    """

    cores: Sequence[np.ndarray]

    @property
    def parameters(self) -> int:
        return sum(core.size for core in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(core.shape[-1] for core in self.cores[:-1])

    def matrix(self) -> np.ndarray:
        """What the cores are together: (product of rows, product of columns)."""
        made = np.ones((1, 1, 1))
        for core in self.cores:
            made = np.einsum("mnr,rpqs->mpnqs", made, core)
            rows, more_rows, columns, more_columns, rank = made.shape
            made = made.reshape(rows * more_rows, columns * more_columns, rank)
        return made[..., 0]


def tensor_train(matrix: np.ndarray, rows: Sequence[int], columns: Sequence[int], error: float) -> Train:
    """``matrix`` (product of ``rows``, product of ``columns``) with the least ranks for an error.

    ``error`` is that of the squares of all elements; each of the cuts may take an equal part of it.
    """
    count = len(rows)
    order = [axis for pair in zip(range(count), range(count, 2 * count), strict=True) for axis in pair]
    left = matrix.reshape(*rows, *columns).transpose(order)
    allowed = error * float((matrix**2).sum()) / max(1, count - 1)
    cores, rank = [], 1
    for more_rows, more_columns in list(zip(rows, columns, strict=True))[:-1]:
        unfolded = left.reshape(rank * more_rows * more_columns, -1)
        u, values, right = np.linalg.svd(unfolded, full_matrices=False)
        dropped = np.cumsum(values[::-1] ** 2)[::-1]
        kept = max(1, int(np.count_nonzero(dropped > allowed)))
        cores.append(u[:, :kept].reshape(rank, more_rows, more_columns, kept))
        left, rank = values[:kept, None] * right[:kept], kept
    return Train([*cores, left.reshape(rank, rows[-1], columns[-1], 1)])


def smallest_train(matrix: np.ndarray, error: float) -> Train:
    """The one of the fewest numbers, of all ways to cut both sides into two to four factors."""
    found = [tensor_train(matrix, rows, columns, error) for rows, columns in _cuts(*matrix.shape)]
    return min(found, key=lambda train: train.parameters)


def low_rank_parameters(matrix: np.ndarray, error: float) -> int:
    """Numbers of the least rank for the same ``error``, no more than the matrix itself has."""
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    dropped = np.cumsum(squares[::-1])[::-1]
    rank = max(1, int(np.count_nonzero(dropped > error * squares.sum())))
    return int(min(rank * sum(matrix.shape), matrix.size))


def _cuts(rows: int, columns: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The most even factors of both sides, one side's from small to large and from large to small."""
    for count in range(2, _MOST_CORES + 1):
        down, along = _even(rows, count), _even(columns, count)
        yield from {(down, along), (down, along[::-1])}


def _even(number: int, count: int) -> tuple[int, ...]:
    """``count`` factors of ``number`` whose largest is least."""
    if count == 1:
        return (number,)
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    found = ((first, *_even(number // first, count - 1)) for first in divisors)
    return min((tuple(sorted(one)) for one in found), key=lambda one: (max(one), sum(one)))
