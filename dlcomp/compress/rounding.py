"""Rounding of one input's weights after another, each error put right in the inputs still to come.

The optimal brain surgeon in a fixed order: Frantar et al., "GPTQ", ICLR 2023, section 3 and algorithm 1. What
the weights are rounded to is the caller's: integers of a grid, or the values of a codebook.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Columns between two updates of all that is to the right.
_BLOCK = 128

# The column (O,) of an input, and the number of the input, to what it is rounded to.
Nearest = Callable[[np.ndarray, int], np.ndarray]


def in_order(
    weights: np.ndarray, hessian: np.ndarray, nearest: Nearest, by_size: bool = True, block: int = _BLOCK
) -> np.ndarray:
    """Rounded weights ``(O, K)`` whose outputs differ little from those of ``weights``.

    Parameters
    ----------
    hessian : (K, K) float64
        The second moment of the inputs, positive definite.
    nearest : function
        Is asked once for every input.
    by_size : bool
        Inputs of the largest mean square first ("act-order"), while all others can still make up for them.
    """
    order = np.argsort(-np.diag(hessian), kind="stable") if by_size else np.arange(len(hessian))
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    left = weights[:, order].astype(np.float64)
    result = np.empty_like(left)
    inputs = len(order)
    for start in range(0, inputs, block):
        stop = min(inputs, start + block)
        errors = np.empty((len(left), stop - start))
        for place in range(start, stop):
            result[:, place] = nearest(left[:, place], int(order[place]))
            error = (left[:, place] - result[:, place]) / factor[place, place]
            left[:, place + 1 : stop] -= np.outer(error, factor[place, place + 1 : stop])
            errors[:, place - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return np.asarray(result[:, np.argsort(order)])


def descended(
    wanted: np.ndarray, rounded: np.ndarray, hessian: np.ndarray, low: int, high: int, sweeps: int
) -> np.ndarray:
    """Integers ``rounded`` (O, K) after each in turn became the best for what all others are.

    No step makes the error of the outputs larger; the least is not always found. Weights of zero, which
    kernels may skip, stay what they are.
    """
    made = rounded.copy()
    slope = (wanted - made) @ hessian
    diagonal = np.diag(hessian)
    for _ in range(sweeps):
        before = made.copy()
        for place in range(len(hessian)):
            best = np.clip(np.rint(made[:, place] + slope[:, place] / diagonal[place]), low, high)
            change = np.where(wanted[:, place] == 0, 0, best - made[:, place])
            some = np.flatnonzero(change)
            if some.size:
                slope[some] -= np.outer(change[some], hessian[place])
                made[:, place] += change
        if (made == before).all():
            break
    return np.asarray(made)
