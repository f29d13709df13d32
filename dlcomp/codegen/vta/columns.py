"""A first layer of few channels: the host puts the columns of its kernel side by side as channels.

A picture of 3 channels fills 3 of 16 lanes, and a kernel of 7 x 7 takes 49 steps. With the 7 columns of the
kernel as channels, 21 of 32 lanes are filled and 7 x 2 steps do, for the same bytes at a stride of 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta.blocks import blocks
from dlcomp.codegen.vta.operators import Conv, Operator, Tensor, operands


@dataclass(frozen=True)
class Columns:
    """``result[n, tap * C + c, y, x] = data[n, c, y, x * stride + tap * dilation - pad]``, 0 outside."""

    data: Tensor
    result: Tensor
    taps: int
    stride: int
    pad: int
    dilation: int

    def gather(self, array: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """``(N, C, H, W)`` as ``(N, taps * C, H, outputs)``."""
        outputs = self.result.shape[3]
        places = np.arange(outputs)[None, :] * self.stride - self.pad
        places = places + np.arange(self.taps)[:, None] * self.dilation
        inside = (places >= 0) & (places < array.shape[3])
        taken = array[..., np.clip(places, 0, array.shape[3] - 1)] * inside.astype(np.int8)
        result: npt.NDArray[np.int8] = taken.transpose(0, 3, 1, 2, 4).reshape(self.result.shape)
        return result


def with_columns(
    operators: Sequence[Operator], inputs: Sequence[str], block: int
) -> tuple[tuple[Operator, ...], tuple[Columns, ...]]:
    """Layers that read what the host wrote, rewritten where that takes fewer steps of the GEMM."""
    made: list[Operator] = []
    folds: list[Columns] = []
    read = [tensor.name for one in operators for tensor in operands(one)]
    for one in operators:
        # Who else reads the picture needs it as it is.
        first = isinstance(one, Conv) and one.data.name in inputs and read.count(one.data.name) == 1
        if first and isinstance(one, Conv) and _is_shorter(one, block):
            fold, one = _folded(one)
            folds.append(fold)
        made.append(one)
    return tuple(made), tuple(folds)


def _is_shorter(conv: Conv, block: int) -> bool:
    channels, _, columns = conv.weight.shape[1:]
    plain = conv.groups == 1 and not conv.transposed
    return plain and blocks(channels * columns, block) < blocks(channels, block) * columns


def _folded(conv: Conv) -> tuple[Columns, Conv]:
    batch, channels, height, _ = conv.data.shape
    outputs, _, rows, taps = conv.weight.shape
    shape = (batch, taps * channels, height, conv.result.shape[3])
    result = Tensor(f"{conv.data.name} by columns", shape)
    fold = Columns(conv.data, result, taps, conv.strides[1], conv.pads[1], conv.dilations[1])
    weight = conv.weight.transpose(0, 3, 1, 2).reshape(outputs, taps * channels, rows, 1)
    return fold, replace(
        conv,
        data=result,
        weight=np.ascontiguousarray(weight),
        strides=(conv.strides[0], 1),
        pads=(conv.pads[0], 0, conv.pads[2], 0),
        dilations=(conv.dilations[0], 1),
    )
