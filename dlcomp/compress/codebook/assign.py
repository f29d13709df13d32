"""Which centroid each weight becomes, where the outputs of the layer decide and not the weights themselves.

Errors are put right in the inputs still to come (:mod:`dlcomp.compress.rounding`). Zeros stay zeros. For a
fixed assignment the best centroids solve a small system of equations.
"""

from __future__ import annotations

import numpy as np

from dlcomp.compress.codebook.kmeans import nearest
from dlcomp.compress.rounding import in_order

# Of the mean of the diagonal: what keeps inputs that are almost sums of others from huge corrections.
DAMPING = 0.01


def damped(second: np.ndarray) -> np.ndarray:
    """A second moment (K, K) that can be inverted; inputs that are always zero count a little."""
    mean = float(np.trace(second)) / len(second)
    return second + DAMPING * (mean or 1.0) * np.eye(len(second))


def assign(matrix: np.ndarray, second: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The numbers (O, K) of the ``centroids`` (k,), -1 where ``matrix`` (O, K) is zero.

    ``second`` (K, K) is that of the inputs, damped.
    """
    zero = matrix == 0
    found = np.empty(matrix.shape, np.int64)

    def value_of(column: np.ndarray, place: int) -> np.ndarray:
        which = np.where(zero[:, place], -1, nearest(column, centroids))
        found[:, place] = which
        return np.where(which < 0, 0.0, centroids[which])

    in_order(matrix, second, value_of)
    return found


def refitted(
    matrix: np.ndarray, second: np.ndarray, assigned: np.ndarray, centroids: np.ndarray
) -> np.ndarray:
    """The centroids with which ``assigned`` (O, K) changes the outputs of ``matrix`` least, ascending or not.

    Sums over outputs of S^T C S c = S^T C w, where S (K, k) says which weight has which centroid.
    """
    count = len(centroids)
    left, right = np.zeros((count, count)), np.zeros(count)
    for row, which in zip(matrix.astype(np.float64), assigned, strict=True):
        used = np.flatnonzero(which >= 0)
        choice = np.zeros((len(row), count))
        choice[used, which[used]] = 1.0
        moved = second @ choice
        left += choice.T @ moved
        right += moved.T @ row
    # Centroids that nothing has stay where they are.
    tiny = 1e-9 * (float(np.trace(left)) / count or 1.0) * np.eye(count)
    return np.asarray(np.linalg.solve(left + tiny, right + tiny @ centroids))
