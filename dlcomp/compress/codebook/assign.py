"""Which centroid each weight becomes, where the outputs of the layer decide and not the weights themselves.

One input after the other is rounded, and what that changes in the outputs is put right in the weights of the
inputs still to come (Frantar et al., "GPTQ", ICLR 2023, section 3; the optimal brain surgeon of Hassibi and
Stork). Zeros stay zeros. For a fixed assignment the best centroids solve a small system of equations.
"""

from __future__ import annotations

import numpy as np

from dlcomp.compress.codebook.kmeans import nearest

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
    order = np.argsort(-np.diag(second), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(second[np.ix_(order, order)])).T
    left = matrix[:, order].astype(np.float64)
    zero = left == 0
    found = np.empty(left.shape, np.int64)
    for place in range(left.shape[1]):
        column = left[:, place]
        which = np.where(zero[:, place], -1, nearest(column, centroids))
        error = (column - np.where(which < 0, 0.0, centroids[which])) / upper[place, place]
        left[:, place + 1 :] -= np.outer(error, upper[place, place + 1 :])
        found[:, place] = which
    return np.asarray(found[:, np.argsort(order)])


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
