"""Finds pooling, means and joins in a quantized network: dequantize, operate, quantize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from dlcomp.codegen.vta.operators import AveragePool, Concat, MaxPool, Mean, Requantize, Tensor
from dlcomp.frontend.writer import attributes_of

if TYPE_CHECKING:
    from dlcomp.codegen.vta.match import Matcher

# The matrices that scale what is joined are int8: 2^6 is their largest power of two.
LARGEST_FACTOR = 6
# Two digits of 7 bits, the low one from -64 to 63, the high one at most 127.
_LARGEST_MULTIPLIER = 127 * 128 + 63


def max_pool(
    matcher: Matcher, node: onnx.NodeProto, result: Tensor, exponent: int, low: int, high: int
) -> MaxPool | None:
    """A MaxPool between integers of one scale, or None."""
    operand, attributes = matcher.operand(str(node.input[0])), attributes_of(node)
    if operand is None or operand[1].exponent != exponent or (low, high) != (-128, 127):
        return None
    kernel = tuple(attributes["kernel_shape"])
    plain = len(kernel) == 2 and set(attributes.get("dilations", (1, 1))) == {1} and len(node.output) == 1
    if not plain or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    return MaxPool(
        str(node.output[0]), operand[0], result, (kernel[0], kernel[1]),
        tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("pads", (0, 0, 0, 0))),
    )  # fmt: skip


def average_pool(
    matcher: Matcher, node: onnx.NodeProto, result: Tensor, exponent: int, low: int, high: int
) -> AveragePool | None:
    """An AveragePool whose multipliers fit two digits, or None."""
    operand, attributes = matcher.operand(str(node.input[0])), attributes_of(node)
    if operand is None or matcher.is_flattened(operand[1], operand[0]):
        return None
    kernel, padding_counts = (
        tuple(attributes["kernel_shape"]),
        bool(attributes.get("count_include_pad", 0)),
    )
    plain = len(kernel) == 2 and set(attributes.get("dilations", (1, 1))) == {1}
    # What counts in a window that the rounding up has added, versions of ONNX disagree on.
    plain = plain and not (padding_counts and attributes.get("ceil_mode", 0))
    if not plain or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    pool = AveragePool(
        str(node.output[0]), operand[0], result, (kernel[0], kernel[1]),
        tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("pads", (0, 0, 0, 0))),
        (), Requantize(0, low, high), padding_counts,
    )  # fmt: skip
    counts = sorted({int(count) for count in pool.counts().ravel()})
    if counts[0] < 1:
        return None
    ratios = [2.0 ** (operand[1].exponent - exponent) / count for count in counts]
    found = _multipliers(ratios, kernel[0] * kernel[1])
    if found is None:
        return None
    multipliers, shift = found
    pairs = tuple(zip(counts, multipliers, strict=True))
    return replace(pool, multipliers=pairs, requantize=Requantize(shift, low, high))


def concat(
    matcher: Matcher, node: onnx.NodeProto, result: Tensor, exponent: int, low: int, high: int
) -> Concat | None:
    """A Concat along the channels of integers whose scales are near each other, or None."""
    rank = len(matcher.graph.shape(str(node.output[0])))
    found = [matcher.operand(str(name)) for name in node.input]
    operands = [one for one in found if one is not None and not matcher.is_flattened(one[1], one[0])]
    if attributes_of(node)["axis"] not in (1, 1 - rank) or len(operands) != len(node.input):
        return None
    finest = min(data.exponent for _, data in operands)
    shifts = tuple(data.exponent - finest for _, data in operands)
    if max(shifts) > LARGEST_FACTOR:
        return None
    how = Requantize(exponent - finest, low, high)
    return Concat(str(node.output[0]), tuple(tensor for tensor, _ in operands), result, shifts, how)


def mean(
    matcher: Matcher, node: onnx.NodeProto, result: Tensor, exponent: int, low: int, high: int
) -> Mean | None:
    """A GlobalAveragePool, or None."""
    operand = matcher.operand(str(node.input[0]))
    if operand is None:
        return None
    tensor, data = operand
    pixels = tensor.shape[2] * tensor.shape[3]
    found = _multipliers([2.0 ** (data.exponent - exponent) / pixels], pixels)
    if found is None:
        return None
    (multiplier,), shift = found
    return Mean(str(node.output[0]), tensor, result, multiplier, Requantize(shift, low, high))


def _multipliers(ratios: Sequence[float], terms: int) -> tuple[list[int], int] | None:
    """Integers and one shift that are ``ratios`` of sums of up to ``terms`` int8; None if there are none."""
    # Sums of 31 bits leave room for the half that rounds.
    most = min(_LARGEST_MULTIPLIER, 2**30 // (128 * terms))
    if not most:
        return None
    shift = int(np.floor(np.log2(most / max(ratios))))
    found = [int(np.rint(ratio * 2.0**shift)) for ratio in ratios]
    return (found, shift) if 0 < shift < 31 and all(0 < m <= most for m in found) else None
