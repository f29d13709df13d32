"""The integer reference: what every operator computes, in NumPy, exact, with sums that wrap at 32 bits.

It knows nothing of blocks, tiles or scratchpads. Tensors are ``(N, C, H, W)`` int8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta.operators import (
    AveragePool,
    Concat,
    Conv,
    MaxPool,
    Mean,
    Operator,
    Requantize,
    Sum,
)

Int8 = npt.NDArray[np.int8]
Wide = npt.NDArray[np.int64]


def run_operators(operators: Iterable[Operator], inputs: Mapping[str, Int8]) -> dict[str, npt.NDArray[Any]]:
    """All tensors of a network by name, ``inputs`` included."""
    values: dict[str, npt.NDArray[Any]] = dict(inputs)
    for one in operators:
        values[one.result.name] = run_operator(one, values)
    return values


def run_operator(one: Operator, values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The result ``(N, C, H, W)`` of one operator: int8, or int32 of a wide convolution."""
    if isinstance(one, Conv):
        return _conv(one, values)
    if isinstance(one, Sum):
        left, right = (values[t.name].astype(np.int64) for t in (one.left, one.right))
        return requantize((left << one.left_shift) + (right << one.right_shift), one.requantize)
    if isinstance(one, Concat):
        parts = [values[t.name].astype(np.int64) << s for t, s in zip(one.sources, one.shifts, strict=True)]
        return requantize(np.concatenate(parts, axis=1), one.requantize)
    data = values[one.data.name].astype(np.int64)
    if isinstance(one, AveragePool):
        return _average_pool(one, data)
    if isinstance(one, Mean):
        return requantize(data.sum(axis=(2, 3), keepdims=True) * one.multiplier, one.requantize)
    return _max_pool(one, data)


def requantize(sums: Wide, how: Requantize) -> Int8:
    """Wrap to 32 bits, round, shift and clip."""
    wrapped = (sums + how.half).astype(np.int32)
    if how.shift >= 0:
        shifted = wrapped >> min(how.shift, 31)
    else:
        shifted = (wrapped.astype(np.int64) << -how.shift).astype(np.int32)
    result: Int8 = np.clip(shifted, how.low, how.high).astype(np.int8)
    return result


def _conv(one: Conv, values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    sums = convolve(values[one.data.name].astype(np.int64), one) + one.bias.reshape(1, -1, 1, 1)
    if one.wide:
        return sums.astype(np.int32)
    result = _rescaled(sums, one)
    if one.residual is None:
        return result
    more = one.residual
    other = values[more.other.name].astype(np.int64)
    return requantize((result.astype(np.int64) << more.own) + (other << more.shift), more.requantize)


def _rescaled(sums: Wide, one: Conv) -> Int8:
    if one.extra is None:
        return requantize(sums, one.requantize)
    how = one.requantize
    wrapped = (sums + one.halves.reshape(1, -1, 1, 1)).astype(np.int32)
    shifted = wrapped >> (how.shift + one.extra).astype(np.int32).reshape(1, -1, 1, 1)
    result: Int8 = np.clip(shifted, how.low, how.high).astype(np.int8)
    return result


def convolve(data: Wide, one: Conv) -> Wide:
    """The sums of products, tap by tap."""
    batch, _, height, width = one.result.shape
    outputs, per_group, rows, columns = one.weight.shape
    top, left, bottom, right = one.pads
    if one.transposed:
        return _scattered(data, one)
    padded = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
    grouped = padded.reshape(batch, one.groups, per_group, *padded.shape[2:])
    weight = one.weight.astype(np.int64).reshape(one.groups, -1, per_group, rows, columns)
    sums = np.zeros((batch, one.groups, outputs // one.groups, height, width), np.int64)
    for y in range(rows):
        for x in range(columns):
            window = _window(grouped, (y, x), one.strides, one.dilations, (height, width))
            # Products of int8 summed over up to 2^37 channels are exact in float64, and BLAS is fast.
            taps = weight[..., y, x].astype(np.float64)
            flat = window.reshape(batch, one.groups, per_group, -1).astype(np.float64)
            sums += np.matmul(taps[None], flat).astype(np.int64).reshape(sums.shape)
    return sums.reshape(batch, outputs, height, width)


def _scattered(data: Wide, one: Conv) -> Wide:
    """Every datum times every tap, added where it belongs; what falls outside is dropped."""
    batch, _, height, width = data.shape
    outputs, per_group, rows, columns = one.weight.shape
    grouped = data.reshape(batch, one.groups, per_group, -1).astype(np.float64)
    weight = one.weight.astype(np.float64).reshape(one.groups, -1, per_group, rows, columns)
    reach = [(size - 1) * s + (k - 1) * d + 1 for size, s, k, d in
             zip((height, width), one.strides, (rows, columns), one.dilations, strict=True)]  # fmt: skip
    ends = [max(reach[a], one.result.shape[2 + a] + one.pads[a]) for a in (0, 1)]
    sums = np.zeros((batch, outputs, *ends), np.int64)
    for y in range(rows):
        for x in range(columns):
            part = np.matmul(weight[..., y, x][None], grouped).reshape(batch, outputs, height, width)
            below, after = y * one.dilations[0], x * one.dilations[1]
            into = sums[:, :, below :: one.strides[0], after :: one.strides[1]][:, :, :height, :width]
            into += part.astype(np.int64)
    (top, left), (high, wide) = one.pads[:2], one.result.shape[2:]
    return sums[:, :, top : top + high, left : left + wide]


def _average_pool(one: AveragePool, data: Wide) -> Int8:
    height, width = one.result.shape[2:]
    (top, left), sizes = one.pads[:2], data.shape[2:]
    below = max(0, (height - 1) * one.strides[0] + one.kernel[0] - top - sizes[0])
    after = max(0, (width - 1) * one.strides[1] + one.kernel[1] - left - sizes[1])
    padded = np.pad(data, ((0, 0), (0, 0), (top, below), (left, after)))
    sums = sum(
        _window(padded, (y, x), one.strides, (1, 1), (height, width))
        for y in range(one.kernel[0])
        for x in range(one.kernel[1])
    )
    factors = np.vectorize(dict(one.multipliers).__getitem__, otypes=[np.int64])(one.counts())
    return requantize(sums * factors, one.requantize)


def _window(
    data: Wide,
    tap: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    size: tuple[int, int],
) -> Wide:
    y, x = tap[0] * dilations[0], tap[1] * dilations[1]
    return data[..., y :: strides[0], x :: strides[1]][..., : size[0], : size[1]]


def _max_pool(one: MaxPool, data: Wide) -> Int8:
    top, left = one.pads[:2]
    height, width = one.result.shape[2:]
    # As far as the last window reaches, which may be further than the padding says.
    below = max(0, (height - 1) * one.strides[0] + one.kernel[0] - top - data.shape[2])
    after = max(0, (width - 1) * one.strides[1] + one.kernel[1] - left - data.shape[3])
    padded = np.pad(data, ((0, 0), (0, 0), (top, below), (left, after)), constant_values=-128)
    windows = [
        _window(padded, (y, x), one.strides, (1, 1), (height, width))
        for y in range(one.kernel[0])
        for x in range(one.kernel[1])
    ]
    result: Int8 = np.max(windows, axis=0).astype(np.int8)
    return result
