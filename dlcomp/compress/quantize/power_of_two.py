"""Scales that are powers of two, for processors that rescale by shifts: one a tensor, int8, no zero point.

Rounding a scale up loses up to a bit, rounding it down clips; of the two the one with the least squared error
is taken (as for VTA by ``relay.quantize``, but per tensor on real inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlcomp.compress.observe import Histogram
from dlcomp.compress.quantize.grid import Grid


def rounded_up(scale: np.ndarray) -> np.ndarray:
    """The least power of two that is not below ``scale``, as float32."""
    mantissa, exponent = np.frexp(scale)
    return np.ldexp(np.float32(1.0), exponent - (mantissa == 0.5)).astype(np.float32)


def grid_of_activation(histograms: Sequence[Histogram], most: float) -> Grid:
    """One grid for values of magnitude ``most``; ``histograms`` are those of all values that share it."""

    def error(scale: np.ndarray) -> float:
        return sum(_error(h.centres, h.counts, float(scale), -128, 127) for h in histograms)

    return Grid(_better(most / 127, error), np.array(0, np.int8))


def grid_of_weight(weight: np.ndarray, bits: int) -> Grid:
    """One grid for a weight of ``bits``."""
    limit = 2 ** (bits - 1) - 1
    values = weight.astype(np.float64).reshape(-1)

    def error(scale: np.ndarray) -> float:
        return _error(values, np.ones(1), float(scale), -limit, limit)

    return Grid(_better(float(np.abs(values).max(initial=0)) / limit, error), np.array(0, np.int8))


def _better(scale: float, error: Callable[[np.ndarray], float]) -> np.ndarray:
    """The next power of two above or below ``scale``; 1 of a tensor that is all zero."""
    if not scale > float(np.finfo(np.float32).tiny):
        return np.array(1.0, np.float32)
    above = rounded_up(np.asarray(scale, np.float32))
    return min(above, (above / 2).astype(np.float32), key=error)


def _error(values: np.ndarray, counts: np.ndarray, scale: float, low: int, high: int) -> float:
    rounded = np.clip(np.rint(values / scale), low, high) * scale
    return float(((values - rounded) ** 2 * counts).sum())
