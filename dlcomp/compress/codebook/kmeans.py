"""The best k values for many numbers, by weighted squared error: k-means in one dimension, solved exactly.

Dynamic programming over the sorted numbers: a cluster is an interval, and the best begin of the last one
never moves left as its end moves right, so each step is a divide and conquer of O(n log n) (Wu, "Optimal
quantization by matrix searching", J. Algorithms 1991; Groenlund et al., "Fast exact k-means in 1D", 2017).
"""

from __future__ import annotations

import numpy as np

# More different numbers are put into as many bins first: 255 clusters then take a second.
MOST_EXACT = 8192
_TURNS = 100


def centroids_of(values: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """At most ``count`` ascending values, (k,) float64, to which ``values`` (N,) are nearest in all.

    Exact for up to 8192 different values. Of more, those of one of 8192 equal intervals count as their mean
    first, and Lloyd's iteration on all of them follows, which never makes it worse.

    Parameters
    ----------
    weights : (N,), optional
        How much a squared error at each value counts; where all are zero, they count as equal.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    points, place = np.unique(np.asarray(values, np.float64), return_inverse=True)
    mass = np.bincount(place, weights, minlength=len(points))
    # What does not count still wants a value near it.
    mass = np.maximum(mass, (mass.max(initial=0.0) or 1.0) * 1e-9)
    if len(points) <= MOST_EXACT:
        return _exact(points, mass, count)
    edges = np.linspace(points[0], points[-1], MOST_EXACT + 1)[1:-1]
    bins = np.searchsorted(edges, points)
    held = np.bincount(bins, mass, minlength=MOST_EXACT)
    centres = np.bincount(bins, mass * points, minlength=MOST_EXACT)[held > 0] / held[held > 0]
    return _lloyd(points, mass, _exact(centres, held[held > 0], count))


def nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The number of the nearest of ``centroids`` (k,), ascending, for each of ``values``."""
    return np.asarray(np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values))


def _exact(points: np.ndarray, mass: np.ndarray, count: int) -> np.ndarray:
    if len(points) <= count:
        return points
    interval = _Intervals(points, mass)
    ends = np.arange(len(points))
    best = interval.cost(np.zeros_like(ends), ends)
    begins = []
    for used in range(1, count):
        best, begin = _with_one_more(best, interval, used)
        begins.append(begin)
    found = []
    end = len(points) - 1
    for begin in [*reversed(begins), np.zeros(len(points), np.int64)]:
        first = int(begin[end])
        found.append(interval.mean(first, end))
        end = first - 1
    return np.array(found[::-1])


def _with_one_more(best: np.ndarray, interval: _Intervals, used: int) -> tuple[np.ndarray, np.ndarray]:
    """The least cost of the points up to each with one cluster more, and where its last cluster begins.

    ``best`` is that of ``used`` clusters. All ends of one depth of the recursion are done in one step.
    """
    size = len(best)
    made, begin = np.full(size, np.inf), np.full(size, used, np.int64)
    step = 1 << (size - used).bit_length()
    while step := step // 2:
        ends = np.arange(used + step - 1, size, 2 * step)
        lows = np.where(ends - step >= used, begin[ends - step], used)
        highs = np.minimum(np.where(ends + step < size, begin[np.minimum(ends + step, size - 1)], ends), ends)
        # Of ends beyond the last of the previous depth nothing is known yet.
        highs = np.where(np.isfinite(made[np.minimum(ends + step, size - 1)]), highs, ends)
        lengths = highs - lows + 1
        starts = np.cumsum(lengths) - lengths
        tried = np.arange(int(lengths.sum())) - np.repeat(starts - lows, lengths)
        costs = best[tried - 1] + interval.cost(tried, np.repeat(ends, lengths))
        least = np.minimum.reduceat(costs, starts)
        first = np.where(costs == np.repeat(least, lengths), tried, size)
        made[ends], begin[ends] = least, np.minimum.reduceat(first, starts)
    return made, begin


class _Intervals:
    """Means and squared errors of intervals of points, from sums up to each."""

    def __init__(self, points: np.ndarray, mass: np.ndarray) -> None:
        # About their middle, so that the differences of sums keep their digits.
        self._middle = float(np.average(points, weights=mass))
        moved = points - self._middle
        self._sums = [
            np.concatenate([[0.0], np.cumsum(part)]) for part in (mass, mass * moved, mass * moved**2)
        ]

    def cost(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        mass, total, squares = (sums[last + 1] - sums[first] for sums in self._sums)
        return np.asarray(np.maximum(squares - total**2 / mass, 0.0))

    def mean(self, first: int, last: int) -> float:
        mass, total, _ = (sums[last + 1] - sums[first] for sums in self._sums)
        return float(total / mass) + self._middle


def _lloyd(points: np.ndarray, mass: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    for _ in range(_TURNS):
        which = nearest(points, centroids)
        held = np.bincount(which, mass, minlength=len(centroids))
        total = np.bincount(which, mass * points, minlength=len(centroids))
        moved = np.where(held > 0, total / np.maximum(held, 1e-300), centroids)
        if np.allclose(moved, centroids, rtol=1e-12, atol=0):
            break
        centroids = moved
    return centroids
