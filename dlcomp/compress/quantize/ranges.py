"""From what a value was on real inputs to the range that its integers cover.

Methods: the extremes; their moving average over batches; percentiles; the range of least relative entropy
(Migacz, "8-bit inference with TensorRT", 2017); and the range of least squared error, clipping included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dlcomp.compress.observe import Histogram

Range = tuple[float, float]
# Candidate ranges of a search: shares of the extremes.
_SHARES = np.concatenate([np.linspace(0.02, 0.3, 29), np.linspace(0.31, 1.0, 70)])
_PERCENT = 99.99


def _extremes(histogram: Histogram, levels: int, symmetric: bool) -> Range:
    return histogram.low, histogram.high


def _average(histogram: Histogram, levels: int, symmetric: bool) -> Range:
    assert histogram.average is not None
    return float(histogram.average[0]), float(histogram.average[1])


def _percentile(histogram: Histogram, levels: int, symmetric: bool) -> Range:
    """What is left when a share of 0.01 % is cut off in all, half of it at each end."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    cut = (1 - _PERCENT / 100) / 2
    width = 2 * histogram.limit / len(histogram.counts)
    low = float(np.searchsorted(share, cut) * width - histogram.limit)
    high = float((np.searchsorted(share, 1 - cut) + 1) * width - histogram.limit)
    return max(low, histogram.low), min(high, histogram.high)


def _squared_error(histogram: Histogram, levels: int, symmetric: bool) -> Range:
    """The range with the least mean squared error of rounding and clipping."""
    used = histogram.counts > 0
    values, counts = histogram.centres[used], histogram.counts[used].astype(np.float64)

    def error(low: float, high: float) -> float:
        step = (high - low) / (levels - 1)
        rounded = np.clip(np.rint((values - low) / step), 0, levels - 1) * step + low
        return float(((values - rounded) ** 2 * counts).sum())

    if symmetric:
        most = max(abs(histogram.low), abs(histogram.high))
        best = min(_SHARES, key=lambda share: error(-most * share, most * share))
        return -most * float(best), most * float(best)
    low, high = histogram.low, histogram.high
    # Both ends together first, to the same magnitude, then one after the other.
    most = max(-low, high)
    share = min(_SHARES, key=lambda s: error(max(low, -most * s), max(min(high, most * s), low + 1e-12)))
    ends = np.array([min(1.0, most * share / abs(end)) if end else 1.0 for end in (low, high)])
    for _ in range(2):
        for side, end in enumerate((low, high)):
            if end == 0.0:
                continue
            tries = [(_ends(low, high, ends, side, share), share) for share in _SHARES]
            ends[side] = min(tries, key=lambda t: error(*t[0]))[1]
    return low * float(ends[0]), high * float(ends[1])


def _ends(low: float, high: float, ends: np.ndarray, side: int, share: float) -> Range:
    """The range with one end at a share of its extreme; never empty."""
    shares = [ends[0], ends[1]]
    shares[side] = share
    a, b = low * shares[0], high * shares[1]
    return a, max(b, a + 1e-12)


def _entropy(histogram: Histogram, levels: int, symmetric: bool) -> Range:
    """The range whose integers, read back, have the least relative entropy to what was seen."""
    counts = histogram.counts.astype(np.float64)
    size = len(counts)
    one_sided = histogram.low >= 0
    magnitudes = counts[size // 2 :] + (0 if one_sided else counts[: size // 2][::-1])
    # Zeros are exact on every grid; after a ReLU they would outvote everything else.
    magnitudes[0] = min(magnitudes[0], magnitudes[1])
    if not magnitudes.any():
        return histogram.low, histogram.high
    codes = levels if one_sided and not symmetric else levels // 2
    used = int(np.flatnonzero(magnitudes)[-1]) + 1
    best, least = used, np.inf
    for stop in range(min(codes, used), used + 1, max(1, used // 256)):
        seen = magnitudes[:stop].copy()
        seen[-1] += magnitudes[stop:].sum()
        # Each code stands for the bins that it covers, with their mean where something was seen.
        code = np.arange(stop) * codes // stop
        filled = magnitudes[:stop] > 0
        sums = np.bincount(code, magnitudes[:stop], minlength=codes)
        bins = np.bincount(code, filled, minlength=codes)
        read = np.where(filled, (sums / np.maximum(bins, 1))[code], 0.0)
        divergence = _divergence(seen, read)
        if divergence < least:
            best, least = stop, divergence
    most = best * 2 * histogram.limit / size
    return max(-most, histogram.low), min(most, histogram.high)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Relative entropy of two histograms; what only ``p`` has counts as if ``q`` had next to nothing."""
    if not q.sum():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))).sum())


METHODS: Mapping[str, Callable[[Histogram, int, bool], Range]] = {
    "minmax": _extremes,
    "average": _average,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _squared_error,
}


def range_of(histogram: Histogram, method: str, levels: int, symmetric: bool) -> Range:
    """The range of real values, with zero in it, that ``levels`` integers are to cover.

    A value that was always zero, or never finite, gets ``(0, 1)``.
    """
    if not histogram.counts.any() or histogram.low == histogram.high == 0:
        return 0.0, 1.0
    low, high = METHODS[method](histogram, levels, symmetric)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        most = max(-low, high)
        low, high = -most, most
    return (low, high) if high > low else (0.0, 1.0)
