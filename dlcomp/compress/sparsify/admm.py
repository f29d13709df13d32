"""Layer-wise reconstruction under a pattern by ADMM (Boža, "Fast and effective weight update", 2024).

Dense weights that keep the outputs and sparse ones that have the pattern are pulled together: the dense step
is one product with an inverse made once, the sparse step a projection. Sparsity grows over the first steps,
so that weights which were dropped early may come back.
"""

from __future__ import annotations

import numpy as np

from dlcomp.compress.refit import refit
from dlcomp.compress.sparsify.patterns import Pattern

# Steps in which the sparsity grows to its target, by the cube as in Zhu and Gupta, 2017.
_GROWING = 16
# And in which the target holds, before the support is final.
_STEADY = 8
# The penalty on the distance of the two, for inputs scaled to a variance of one.
_PENALTY = 1.0


def admm(weights: np.ndarray, hessian: np.ndarray, pattern: Pattern, sparsity: float) -> np.ndarray:
    """Sparse weights ``(O, K)``, on their support the least squares fit; ``hessian`` is positive definite."""
    # In units of its input's norm, the square of a weight is Wanda's score.
    norms = np.sqrt(np.diag(hessian))
    scaled = hessian / np.outer(norms, norms)
    start = weights * norms
    target = start @ scaled
    solve = np.linalg.inv(scaled + _PENALTY * np.eye(len(scaled)))
    dense, dual = start, np.zeros_like(start)
    for step in range(_GROWING + _STEADY):
        grown = 1 - (1 - min(1.0, (step + 1) / _GROWING)) ** 3
        kept = pattern.kept_mask((dense + dual) ** 2, sparsity * grown)
        sparse = np.where(kept, dense + dual, 0.0)
        dual += dense - sparse
        dense = (target + _PENALTY * (sparse - dual)) @ solve
    kept = pattern.kept_mask((dense + dual) ** 2, sparsity)
    result = np.where(kept, dense + dual, 0.0) / norms
    return refit(result, hessian, weights @ hessian, kept)
