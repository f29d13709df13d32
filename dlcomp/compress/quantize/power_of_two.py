"""Scales that are powers of two, for processors that rescale by shifts: int8 without zero points.

Rounding a scale up loses up to a bit, rounding it down clips; of the two the one with the least squared error
is taken (``relay.quantize`` only rounded up, from one global scale).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlcomp.compress.observe import Histogram
from dlcomp.compress.quantize.grid import Grid

# Between the scales of two channels of a weight.
_LARGEST_EXTRA = 15


def rounded_up(scale: np.ndarray) -> np.ndarray:
    """The least power of two that is not below ``scale``, as float32."""
    mantissa, exponent = np.frexp(scale)
    result: np.ndarray = np.ldexp(np.float32(1.0), exponent - (mantissa == 0.5)).astype(np.float32)
    return result


def grid_of_activation(histograms: Sequence[Histogram], most: float) -> Grid:
    """One grid for values of magnitude ``most``; ``histograms`` are those of all values that share it."""

    def error(scale: np.ndarray) -> float:
        return sum(_error(h.centres, h.counts, float(scale), -128, 127) for h in histograms)

    return Grid(_better(most / 127, error), np.array(0, np.int8))


def grid_of_weight(weight: np.ndarray, bits: int, axis: int | None) -> Grid:
    """The grid of a weight of ``bits``: one, or one for each index of ``axis``."""
    limit = 2 ** (bits - 1) - 1
    if axis is None:
        return Grid(_of_values(weight, limit), np.array(0, np.int8))
    parts = np.moveaxis(weight, axis, 0)
    scales = np.array([_of_values(part, limit) for part in parts])
    alive = np.array([bool(part.any()) for part in parts])
    # A channel that is all zero takes any scale, and so none that others would be far from.
    scales[~alive] = scales[alive].max(initial=0) if alive.any() else 1.0
    # Shifts by register end at 15: channels of smaller weights than that get what they can.
    scales = np.maximum(scales, scales.max(initial=0) * np.float32(2.0**-_LARGEST_EXTRA))
    return Grid(scales.astype(np.float32), np.zeros(len(scales), np.int8), axis)


def _of_values(weight: np.ndarray, limit: int) -> np.ndarray:
    values = weight.astype(np.float64).reshape(-1)

    def error(scale: np.ndarray) -> float:
        return _error(values, np.ones(1), float(scale), -limit, limit)

    return _better(float(np.abs(values).max(initial=0)) / limit, error)


def _better(scale: float, error: Callable[[np.ndarray], float]) -> np.ndarray:
    """The next power of two above or below ``scale``; 1 of a tensor that is all zero."""
    if not scale > float(np.finfo(np.float32).tiny):
        return np.array(1.0, np.float32)
    above = rounded_up(np.asarray(scale, np.float32))
    return min(above, (above / 2).astype(np.float32), key=error)


def _error(values: np.ndarray, counts: np.ndarray, scale: float, low: int, high: int) -> float:
    rounded = np.clip(np.rint(values / scale), low, high) * scale
    return float(((values - rounded) ** 2 * counts).sum())
