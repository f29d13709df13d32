"""Integers that stand for real numbers: scale and zero point, and rounding to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Search for the scale of weights: shares of the largest magnitude.
_SHARES = np.linspace(0.5, 1.0, 51)


@dataclass(frozen=True)
class Grid:
    """``real = (integer - zero) * scale``, the integers in the type of ``zero``.

    ``scale`` is a float32, or an array of one for each index of ``axis``; with a ``group`` of the tensor's
    rank, with one for so many neighbours along ``axis`` (of which the last may be fewer).
    """

    scale: np.ndarray
    zero: np.ndarray
    axis: int | None = None
    group: int = 0

    def aligned(self, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """``array`` (scale or zero) so that it broadcasts over a tensor of ``shape``."""
        if self.axis is None:
            return array
        if self.group:
            return np.repeat(array, self.group, self.axis).take(range(shape[self.axis]), self.axis)
        wide: np.ndarray = array.reshape([-1 if d == self.axis else 1 for d in range(len(shape))])
        return wide

    def integers(self, real: np.ndarray, low: int, high: int) -> np.ndarray:
        """``real`` rounded to the nearest, ties to even, as ONNX's QuantizeLinear does."""
        scale = self.aligned(self.scale, real.shape)
        zero = self.aligned(self.zero, real.shape).astype(np.float32)
        rounded = np.rint(real.astype(np.float32) / scale) + zero
        integers: np.ndarray = np.clip(rounded, low, high).astype(self.zero.dtype)
        return integers

    def reals(self, integers: np.ndarray) -> np.ndarray:
        scale, zero = (self.aligned(a, integers.shape) for a in (self.scale, self.zero))
        result: np.ndarray = (integers.astype(np.float32) - zero.astype(np.float32)) * scale
        return result


def span_of(data: Grid) -> int:
    """The most that an integer of ``data`` is away from its zero point; 0 of 16 bits, summed in float32."""
    info = np.iinfo(data.zero.dtype)
    zero = int(data.zero)
    return max(int(info.max) - zero, zero - int(info.min)) if info.bits == 8 else 0


def grid_of_range(low: float, high: float, dtype: str, symmetric: bool) -> Grid:
    """The grid of an activation. Zero is one of its numbers: padding must not change it."""
    info = np.iinfo(dtype)
    if symmetric:
        most = max(-low, high)
        middle = 0 if info.min < 0 else (int(info.max) + 1) // 2
        return Grid(_scale(most / (info.max - middle)), np.array(middle, dtype))
    scale = _scale((high - low) / (int(info.max) - int(info.min)))
    zero = np.clip(np.rint(info.min - low / float(scale)), info.min, info.max)
    return Grid(scale, np.array(zero, dtype))


def grid_of_weight(weight: np.ndarray, bits: int, axis: int | None, search: bool) -> Grid:
    """The symmetric grid of a weight: per index of ``axis``, or one for all.

    With ``search`` the scale with the least squared error, and not the one of the largest magnitude.
    """
    rows = (
        weight.reshape(1, -1)
        if axis is None
        else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    )
    scale = _scale_of_rows(rows, bits, search)
    zero = np.zeros(scale.shape, "int8")
    return Grid(scale[0], zero[0], None) if axis is None else Grid(scale, zero, axis)


def grid_of_groups(weight: np.ndarray, bits: int, axis: int, group: int, search: bool) -> Grid:
    """The symmetric grid of a matrix with a scale for every ``group`` neighbours along ``axis``."""
    rows = np.moveaxis(weight, axis, 1)
    count = -(-rows.shape[1] // group)
    padded = np.pad(rows, ((0, 0), (0, count * group - rows.shape[1]))).reshape(-1, group)
    scale = np.moveaxis(_scale_of_rows(padded, bits, search).reshape(-1, count), 1, axis)
    return Grid(np.ascontiguousarray(scale), np.zeros(scale.shape, "int8"), axis, group)


def _scale_of_rows(rows: np.ndarray, bits: int, search: bool) -> np.ndarray:
    most = 2 ** (bits - 1) - 1
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    share = np.ones(len(rows))
    if search:
        errors = [_row_errors(rows, largest * s / most, most) for s in _SHARES]
        share = _SHARES[np.argmin(errors, axis=0)]
    return _scale(largest * share / most)


def _row_errors(rows: np.ndarray, scale: np.ndarray, most: int) -> np.ndarray:
    step = np.maximum(scale, 1e-30)[:, None]
    rounded = np.clip(np.rint(rows / step), -most, most) * step
    error: np.ndarray = ((rows - rounded) ** 2).sum(axis=1)
    return error


def _scale(value: np.ndarray | float) -> np.ndarray:
    """As float32, and of a dead channel 1: nothing is divided by zero, and zero stays zero."""
    scale = np.asarray(value, np.float32)
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1.0)).astype(np.float32)
