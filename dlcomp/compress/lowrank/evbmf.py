"""How many singular values of a matrix are more than noise, from the matrix alone.

The global analytic solution of empirical variational Bayesian matrix factorization: Nakajima, Sugiyama,
Babacan and Tomioka, "Global analytic solution of fully-observed variational Bayesian matrix factorization",
JMLR 2013, theorem 2, with the noise's variance by minimising the free energy (corollary 1).
"""

from __future__ import annotations

import math

import numpy as np

# The limit of the threshold for a square root of the shape's ratio; their equation for it has no closed form.
_TAU = 2.5129
_GRID = 200


def evbmf_rank(values: np.ndarray, rows: int, columns: int) -> int:
    """The number of singular ``values`` (min(rows, columns),), descending, that are kept."""
    short, long = min(rows, columns), max(rows, columns)
    squares = np.asarray(values, np.float64)[:short] ** 2
    if not squares.size or squares[0] == 0:
        return 0
    ratio = short / long
    tau = _TAU * math.sqrt(ratio)
    border = (1 + tau) * (1 + ratio / tau)
    variance = _variance(squares, short, long, ratio, border)
    return int(np.count_nonzero(squares > long * variance * border))


def _variance(squares: np.ndarray, short: int, long: int, ratio: float, border: float) -> float:
    """That of the noise: the least free energy between the bounds of theorem 2, on finer and finer grids."""
    most = min(math.ceil(short / (1 + ratio)) - 1, len(squares) - 1)
    high = float(squares.sum()) / (short * long)
    rest = squares[most:].mean() / long
    low = max(float(squares[most]) / (long * border), float(rest), 1e-12 * high)
    if low >= high:
        return high
    for _ in range(3):
        tried = np.geomspace(low, high, _GRID)
        best = int(np.argmin([_energy(squares, v, short, long, ratio, border) for v in tried]))
        low, high = tried[max(0, best - 1)], tried[min(_GRID - 1, best + 1)]
    return float(tried[best])


def _energy(
    squares: np.ndarray, variance: float, short: int, long: int, ratio: float, border: float
) -> float:
    """The free energy of the noise's ``variance``, but for what does not depend on it."""
    x = np.maximum(squares / (long * variance), 1e-300)
    above = x[x > border]
    middle = above - (1 + ratio)
    tau = (middle + np.sqrt(middle**2 - 4 * ratio)) / 2
    kept = np.log(tau + 1) + ratio * np.log(tau / ratio + 1) - tau
    # Each value costs x - log x, of which a kept one gets some back.
    return float((x - np.log(x)).sum() + kept.sum() + (short - len(squares)) * math.log(variance))
