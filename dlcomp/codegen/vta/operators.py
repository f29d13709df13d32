"""Integer networks: operators on int8 tensors whose scales are powers of two, so that rescaling is a shift.

Every operator ends in :class:`Requantize`: a rounding shift and a clip, which is what the ALU of VTA can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Requantize:
    """``clip((x + 2**(shift - 1)) >> shift, low, high)``; a negative ``shift`` multiplies by ``2**-shift``.

    Halves are rounded up, as an addition before an arithmetic shift does.
    """

    shift: int
    low: int = -128
    high: int = 127

    @property
    def half(self) -> int:
        """What is added before the shift."""
        return 1 << (self.shift - 1) if self.shift > 0 else 0


@dataclass(frozen=True)
class Tensor:
    """An int8 activation ``(N, C, H, W)``; a matrix ``(N, C)`` has H = W = 1."""

    name: str
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Residual:
    """What is added to a layer's clipped result ``y``: ``requantize((y << own) + (other << shift))``."""

    other: Tensor
    own: int
    shift: int
    requantize: Requantize


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution or, with a kernel as large as the data, a dense layer.

    Attributes
    ----------
    weight : numpy.ndarray of int8, (O, I / groups, KH, KW)
    bias : numpy.ndarray of int32, (O,)
        In units of the sums.
    pads : (top, left, bottom, right)
    extra : numpy.ndarray of int64, (O,), or None
        From 0 to 15: how much further each channel is shifted than ``requantize`` says, where weights have a
        scale for each channel.
    wide : bool
        The result is the int32 sums themselves, stored as four planes of bytes; ``requantize`` is not used.
    transposed : bool
        Data are ``strides`` apart in the result: ``result[y * stride + tap * dilation - pad]`` takes
        ``data[y] * weight[tap]``.
    images_are_pixels : bool
        Rows are images, whose vectors are neighbours in DRAM (:mod:`dlcomp.codegen.vta.matrix`).
    """

    name: str
    data: Tensor
    result: Tensor
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    requantize: Requantize
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    extra: npt.NDArray[np.int64] | None = None
    residual: Residual | None = None
    wide: bool = False
    transposed: bool = False
    images_are_pixels: bool = False

    @cached_property
    def halves(self) -> npt.NDArray[np.int64]:
        """What rounds the sums of each channel when it is added before the shift, (O,)."""
        shifts = np.full(len(self.bias), self.requantize.shift, np.int64)
        if self.extra is not None:
            shifts = shifts + self.extra
        halves: npt.NDArray[np.int64] = np.where(shifts > 0, 1 << np.maximum(shifts - 1, 0), 0)
        return halves

    @cached_property
    def start(self) -> npt.NDArray[np.int64]:
        """What sums begin with, (O,): the bias, and what rounds them."""
        bias: npt.NDArray[np.int64] = self.bias.astype(np.int64)
        return bias if self.wide else bias + self.halves

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included."""
        batch, _, height, width = self.data.shape if self.transposed else self.result.shape
        return int(batch * height * width * self.weight.size)


@dataclass(frozen=True)
class Sum:
    """``requantize((left << left_shift) + (right << right_shift))``."""

    name: str
    left: Tensor
    right: Tensor
    result: Tensor
    left_shift: int
    right_shift: int
    requantize: Requantize


@dataclass(frozen=True)
class MaxPool:
    """The largest of every window; padding never wins. ``pads`` are top, left, bottom, right."""

    name: str
    data: Tensor
    result: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Mean:
    """The mean over all pixels as ``requantize(sum * multiplier)``, ``multiplier`` below 2^14."""

    name: str
    data: Tensor
    result: Tensor
    multiplier: int
    requantize: Requantize


@dataclass(frozen=True)
class AveragePool:
    """The mean of every window as ``requantize(sum * multiplier)``.

    ``multipliers`` are pairs of how many elements count, and what their sum is multiplied by; windows that
    reach over the border count only those inside unless ``padding_counts``.
    """

    name: str
    data: Tensor
    result: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    multipliers: tuple[tuple[int, int], ...]
    requantize: Requantize
    padding_counts: bool = False

    def inside(self, axis: int) -> npt.NDArray[np.int64]:
        """How many rows (0) or columns (1) of each window lie inside the data, (outputs,)."""
        first = np.arange(self.result.shape[2 + axis]) * self.strides[axis] - self.pads[axis]
        last = np.minimum(first + self.kernel[axis], self.data.shape[2 + axis])
        found: npt.NDArray[np.int64] = last - np.maximum(first, 0)
        return found

    def counts(self) -> npt.NDArray[np.int64]:
        """How many elements count in each window, (height, width)."""
        if self.padding_counts:
            return np.full(self.result.shape[2:], self.kernel[0] * self.kernel[1], np.int64)
        found: npt.NDArray[np.int64] = self.inside(0)[:, None] * self.inside(1)[None, :]
        return found


@dataclass(frozen=True)
class Concat:
    """Channels of one tensor after those of another: ``requantize(source << shift)`` for each source."""

    name: str
    sources: tuple[Tensor, ...]
    result: Tensor
    shifts: tuple[int, ...]
    requantize: Requantize


Operator = Conv | Sum | MaxPool | Mean | AveragePool | Concat


def operands(one: Operator) -> list[Tensor]:
    """The tensors that an operator reads."""
    if isinstance(one, Sum):
        return [one.left, one.right]
    if isinstance(one, Concat):
        return list(one.sources)
    if isinstance(one, Conv) and one.residual is not None:
        return [one.data, one.residual.other]
    return [one.data]


def output_size(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int = 1, ceil: bool = False
) -> int:
    """Outputs along one axis; ``ceil`` counts a last window that is not whole, as pooling may."""
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    # A window must begin inside the data or its leading padding.
    return count - ((count - 1) * stride >= size + pads[0])
