"""Floats that are 8-bit integers times a scale for each channel: the integers and the scales in their place.

Such weights come from networks whose weights alone are quantized, where no kernel reads the integers. The
scales are found from the floats, and taken only where they give back every bit.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

# A scale is found from the largest integer of a channel: mostly that of 8 or 4 bits, seldom another.
_USUAL = (127, 7, 128, 8)
_LARGEST = (*_USUAL, *(q for q in range(126, 0, -1) if q not in _USUAL))
# The largest float has been rounded, and so has the quotient.
_STEPS = (0, 1, -1, 2, -2)
_MOST_DIMENSIONS = 7
# A channel of fewer weights says too little, and saves too little.
_LEAST_CHANNEL = 8
# What is looked at before the whole array is.
_TRIED_CHANNELS, _TRIED_WEIGHTS = 4, 64


@dataclass(frozen=True)
class Scaled:
    """``integers * scales``: int8 of an array's shape, float32 that is 1 long along all but ``axes``."""

    integers: np.ndarray
    scales: np.ndarray
    axes: tuple[int, ...]

    def reals(self) -> np.ndarray:
        made: np.ndarray = self.integers.astype(np.float32) * self.scales
        return made


def scaled(array: np.ndarray) -> Scaled | None:
    """``array`` as integers with the fewest scales that give back its bits; None if there are none."""
    if array.dtype != np.float32 or array.ndim > _MOST_DIMENSIONS or not np.isfinite(array).all():
        return None
    subsets = (s for size in range(array.ndim) for s in itertools.combinations(range(array.ndim), size))
    for axes in sorted(subsets, key=lambda axes: math.prod(array.shape[axis] for axis in axes)):
        channels = math.prod(array.shape[axis] for axis in axes)
        if array.size < channels * _LEAST_CHANNEL or any(array.shape[axis] == 1 for axis in axes):
            continue
        found = _along(array, axes)
        if found is not None:
            return found
    return None


def shape_of_scales(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent if axis in axes else 1 for axis, extent in enumerate(shape))


def _along(array: np.ndarray, axes: tuple[int, ...]) -> Scaled | None:
    rest = tuple(axis for axis in range(array.ndim) if axis not in axes)
    count = math.prod(array.shape[axis] for axis in axes)
    rows = np.ascontiguousarray(np.transpose(array, (*axes, *rest))).reshape(count, -1)
    filled = np.flatnonzero(rows.any(axis=1))
    if not len(filled):
        return None
    some = rows[filled[:_TRIED_CHANNELS]]
    places = np.abs(some).argmax(axis=1)[:, None]
    some = np.hstack([np.take_along_axis(some, places, axis=1), some[:, :_TRIED_WEIGHTS]])
    found = None if _scales(some) is None else _scales(rows[filled])
    if found is None:
        return None
    scales = np.zeros(count, np.float32)
    scales[filled] = found
    # Scales in the order of the array's own dimensions, which ``axes`` keep.
    wide = scales.reshape(shape_of_scales(array.shape, axes))
    safe = np.where(wide > 0, wide, np.float32(1))
    made = Scaled(np.rint(array / safe).astype(np.int8), wide, axes)
    return made if made.reals().tobytes() == array.tobytes() else None


def _scales(rows: np.ndarray) -> np.ndarray | None:
    """One for each row, none of which is all zeros."""
    found = np.zeros(len(rows), np.float32)
    open_rows = np.arange(len(rows))
    largest = np.abs(rows).max(axis=1)
    for most in _LARGEST:
        for step in _STEPS:
            scale = _moved(largest[open_rows] / np.float32(most), step)
            good = _gives_back(rows[open_rows], scale)
            found[open_rows[good]] = scale[good]
            open_rows = open_rows[~good]
            if not len(open_rows):
                return found
    return None


def _gives_back(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """For each row, whether integers of 8 bits times its scale are its bits."""
    safe = np.where(scale > 0, scale, np.float32(1))[:, None]
    whole = np.rint(rows / safe)
    fits = (whole >= -128) & (whole <= 127) & (whole * safe == rows)
    result: np.ndarray = fits.all(axis=1) & (scale > 0)
    return result


def _moved(values: np.ndarray, steps: int) -> np.ndarray:
    """``values`` (positive float32) by so many of the numbers that float32 has."""
    moved: np.ndarray = (values.view(np.int32) + steps).view(np.float32)
    return moved
