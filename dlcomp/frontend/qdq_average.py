"""Means of 8-bit integers as exact sums and a number to divide by.

A window's sum is a depthwise convolution by ones, which adds nothing where it pads with the zero point; the
sum over whole axes is one of numbers of 32 bits, less what the zero point adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from dlcomp.frontend.writer import Writer

# Sums of more numbers of 8 bits may need more than 32.
_MOST = (1 << 31) // 256
# Windows beyond are left to the float operator: the kernel is written out column by column.
_WIDEST = 16


@dataclass(frozen=True)
class Average:
    """How a mean is written.

    Attributes
    ----------
    counts : numpy.ndarray
        What sums are divided by: (), or (1, 1, rows, columns) where windows reach into the padding.
    axes : sequence of int
        What is summed; empty for windows.
    keepdims : bool
        Whether summed axes stay, of size one.
    window : mapping
        The attributes of the convolution; ``channels`` of the data.
    """

    counts: np.ndarray
    axes: Sequence[int] = ()
    keepdims: bool = True
    window: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 0

    def write(self, writer: Writer, data: str, zero: np.ndarray) -> str:
        """The name of the sums, int32, of ``data`` less its zero point."""
        if self.window:
            ones = np.ones((self.channels, 1, *self.window["kernel_shape"]), np.int8)
            operands = [data, writer.constant(ones, "ones"), writer.constant(zero.reshape(()), "zero")]
            return writer.op("ConvInteger", operands, group=self.channels, **self.window)
        wide = writer.op("Cast", [data], to=onnx.TensorProto.INT32)
        keep = int(self.keepdims)
        if writer.version < 13:
            total = writer.op("ReduceSum", [wide], axes=list(self.axes), keepdims=keep)
        else:
            axes = writer.constant(np.array(self.axes, np.int64), "axes")
            total = writer.op("ReduceSum", [wide, axes], keepdims=keep)
        if not zero.any():
            return total
        added = np.array(-int(self.counts) * int(zero.item()), np.int32)
        return writer.op("Add", [total, writer.constant(added, "zeros")])


def planned(
    node: onnx.NodeProto,
    shape: tuple[int, ...],
    attributes: Mapping[str, Any],
    constant: Callable[[str], np.ndarray | None],
) -> Average | None:
    """How the mean ``node`` of data of ``shape`` is taken of integers; None for what stays in float."""
    if node.op_type == "AveragePool":
        return _windows(shape, attributes)
    axes: Any = range(2, len(shape))
    if node.op_type == "ReduceMean":
        axes = attributes.get("axes")
        if len(node.input) > 1 and node.input[1]:
            given = constant(node.input[1])
            if given is None:
                return None
            axes = given.reshape(-1).tolist()
        if not axes:
            return None
    return _whole(shape, axes, bool(attributes.get("keepdims", 1)))


def _whole(shape: tuple[int, ...], axes: Sequence[int], keepdims: bool) -> Average | None:
    places = sorted({int(axis) % len(shape) for axis in axes})
    count = math.prod(shape[axis] for axis in places)
    return Average(np.array(float(count)), places, keepdims) if places and count <= _MOST else None


def _windows(shape: tuple[int, ...], attributes: Mapping[str, Any]) -> Average | None:
    kernel = [int(k) for k in attributes["kernel_shape"]]
    rank = len(kernel)
    strides, dilations = ([int(v) for v in attributes.get(n, [1] * rank)] for n in ("strides", "dilations"))
    pads = [int(v) for v in attributes.get("pads", [0] * (2 * rank))]
    if attributes.get("ceil_mode", 0) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    if kernel == list(shape[2:]) and not any(pads):
        return _whole(shape, range(2, len(shape)), True)
    if rank not in (1, 2) or max(kernel) > _WIDEST:
        return None
    counts = np.ones([1, 1] + [1] * rank)
    for d, size in enumerate(shape[2:]):
        out = (size + pads[d] + pads[d + rank] - (kernel[d] - 1) * dilations[d] - 1) // strides[d] + 1
        at = np.arange(max(out, 0))[:, None] * strides[d] + np.arange(kernel[d]) * dilations[d] - pads[d]
        inside = (at >= 0) & (at < size) | bool(attributes.get("count_include_pad", 0))
        counts = counts * inside.sum(axis=1).reshape([-1 if axis == d + 2 else 1 for axis in range(rank + 2)])
    if counts.size == 0 or not counts.all():
        return None
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    same = counts.reshape(-1)[:1].reshape(()) if (counts == counts.reshape(-1)[0]).all() else counts
    return Average(same, window=window, channels=shape[1])
