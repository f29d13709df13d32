"""Optimal brain surgeon, column by column: SparseGPT (Frantar and Alistarh, 2023, section 3 and algorithm 1).

A weight that goes is made up for by those to the right of it in its row, by the inverse of the Hessian of
what has not been decided yet; all rows share the inverse, whose Cholesky factor holds those of every step.
"""

from __future__ import annotations

import numpy as np

from dlcomp.compress.refit import refit
from dlcomp.compress.sparsify.patterns import Pattern, best_of, lowest

# Columns between two updates of all that is to the right: an eighth of a small matrix, at most so many.
_BLOCK = 128


def obs(weights: np.ndarray, hessian: np.ndarray, pattern: Pattern, sparsity: float) -> np.ndarray:
    """Sparse weights ``(O, K)``, on their support the least squares fit; ``hessian`` is positive definite.

    SparseGPT gives each block of columns the same sparsity. Here what is left of the quota is decided over
    all columns to the right, by what their weights have become, so that inputs that are always near zero (the
    edges of pictures) lose more.
    """
    outputs, inputs = weights.shape
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    costs = np.diag(factor) ** 2
    result = weights.copy()
    kept = np.ones(weights.shape, bool)
    left = pattern.count(outputs, inputs, sparsity)
    size = max(8, min(_BLOCK, inputs // 8))
    size = size // pattern.width * pattern.width or pattern.width
    for start in range(0, inputs, size):
        stop = min(inputs, start + size)
        if pattern.kept:
            keeps = best_of(result[:, start:stop] ** 2 / costs[start:stop], pattern.kept, pattern.of)
        else:
            units = pattern.units(result[:, start:] ** 2 / costs[start:])
            gone = lowest(units, left)[:, : -(-(stop - start) // pattern.columns)]
            left -= int(gone.sum())
            keeps = ~pattern.spread(gone, outputs, stop - start)
        kept[:, start:stop] = keeps
        errors = np.zeros((outputs, stop - start))
        for place in range(start, stop):
            error = np.where(keeps[:, place - start], 0.0, result[:, place]) / factor[place, place]
            result[:, place:stop] -= error[:, None] * factor[place, place:stop]
            errors[:, place - start] = error
        result[:, stop:] -= errors @ factor[start:stop, stop:]
    # The steps repaired to the right only.
    return refit(np.where(kept, result, 0.0), hessian, weights @ hessian, kept)
