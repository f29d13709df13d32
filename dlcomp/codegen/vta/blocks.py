"""Blocked layouts: activations ``(N/n, C/c, H, W, n, c)``, weights in tiles of ``(c, c)``, biases as weights.

``n`` and ``c`` are the batch and block of the accelerator; what is missing is filled up with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta.operators import Conv, Tensor
from dlcomp.vta.config import VtaConfig

Int8 = npt.NDArray[np.int8]
# Lanes of the constant vector that biases are multiplied by, after a first lane of 1.
_STEP = 127


def blocks(count: int, size: int) -> int:
    """How many blocks of ``size`` hold ``count``."""
    return -(-count // size)


@dataclass(frozen=True)
class Extent:
    """The shape of a tensor in blocks: ``(images, channels, height, width)`` elements.

    If ``channels_last`` the channels of a pixel are neighbours.
    """

    images: int
    channels: int
    height: int
    width: int
    channels_last: bool = False

    @staticmethod
    def of(tensor: Tensor, config: VtaConfig, channels_last: bool = False) -> Extent:
        batch, channels, height, width = tensor.shape
        images, deep = blocks(batch, config.batch), blocks(channels, config.block)
        return Extent(images, deep, height, width, channels_last)

    @property
    def elements(self) -> int:
        """Vectors of ``batch * block`` numbers."""
        return self.images * self.channels * self.height * self.width

    def offset(self, image: int, channel: int, row: int = 0, column: int = 0) -> int:
        """The element of a pixel of a block."""
        if self.channels_last:
            return ((image * self.height + row) * self.width + column) * self.channels + channel
        return ((image * self.channels + channel) * self.height + row) * self.width + column


def pack(array: npt.NDArray[np.int8], config: VtaConfig) -> Int8:
    """``(N, C, H, W)`` as ``(N/n, C/c, H, W, n, c)``."""
    batch, channels, height, width = array.shape
    n, c = config.batch, config.block
    padded = np.pad(array, ((0, -batch % n), (0, -channels % c), (0, 0), (0, 0)))
    split = padded.reshape(-1, n, blocks(channels, c), c, height, width)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 1, 3))


def unpack(packed: Int8, tensor: Tensor, config: VtaConfig) -> Int8:
    """The inverse of :func:`pack`, from an array of any shape."""
    extent = Extent.of(tensor, config)
    batch, channels, height, width = tensor.shape
    shape = (extent.images, extent.channels, height, width, config.batch, config.block)
    whole = packed.reshape(shape).transpose(0, 4, 1, 5, 2, 3)
    return np.ascontiguousarray(
        whole.reshape(extent.images * config.batch, -1, height, width)[:batch, :channels]
    )


@dataclass(frozen=True, eq=False)
class Rectangle:
    """Blocks of outputs that all read the same blocks of inputs; ``tiles (oc, ic, KH, KW, c, c)``.

    Of a ``diagonal`` one each block of outputs reads the one block of inputs of its own number, and ic is 1.
    """

    first_output: int
    first_input: int
    tiles: Int8
    diagonal: bool = False


def is_diagonal(conv: Conv, block: int) -> bool:
    """Whether groups are as wide as they are deep and lie within blocks, as depthwise ones do."""
    width = conv.weight.shape[1]
    return conv.groups > 1 and conv.weight.shape[0] == conv.groups * width and block % width == 0


def rectangles(conv: Conv, block: int) -> list[Rectangle]:
    """The weights of a convolution in dense tiles; groups smaller than a block share one, with zeros."""
    outputs, per_group = conv.weight.shape[:2]
    group_outputs = outputs // conv.groups
    if is_diagonal(conv, block):
        every = range(blocks(outputs, block))
        tiles = [_rectangle(conv, block, n, n + 1, (n, n + 1)).tiles for n in every]
        return [Rectangle(0, 0, np.concatenate(tiles), diagonal=True)]
    spans = []
    for first in range(0, outputs, block):
        last = min(first + block, outputs) - 1
        low, high = first // group_outputs * per_group, (last // group_outputs + 1) * per_group
        spans.append((low // block, blocks(high, block)))
    found: list[Rectangle] = []
    begin = 0
    for at in range(1, len(spans) + 1):
        if at == len(spans) or spans[at] != spans[begin]:
            found.append(_rectangle(conv, block, begin, at, spans[begin]))
            begin = at
    return found


def _rectangle(conv: Conv, block: int, begin: int, end: int, span: tuple[int, int]) -> Rectangle:
    outputs, per_group, rows, columns = conv.weight.shape
    dense = np.zeros(((end - begin) * block, (span[1] - span[0]) * block, rows, columns), np.int8)
    for output in range(begin * block, min(end * block, outputs)):
        first = output // (outputs // conv.groups) * per_group - span[0] * block
        dense[output - begin * block, first : first + per_group] = conv.weight[output]
    split = dense.reshape(end - begin, block, span[1] - span[0], block, rows, columns)
    return Rectangle(begin, span[0], np.ascontiguousarray(split.transpose(0, 2, 4, 5, 1, 3)))


def bias_vector(config: VtaConfig) -> Int8:
    """The input element ``(n, c)`` that bias tiles are multiplied by."""
    vector = np.full((config.batch, config.block), _STEP, np.int8)
    vector[:, 0] = 1
    return vector


def fits_tiles(bias: npt.NDArray[np.int64], block: int) -> bool:
    """Whether :func:`bias_tiles` can hold ``bias``."""
    return bool(np.abs(np.rint(bias / _STEP)).max(initial=0) <= _STEP * (block - 1))


def bias_tiles(bias: npt.NDArray[np.int64], block: int) -> Int8 | None:
    """Weights ``(oc, c, c)`` that times :func:`bias_vector` are ``bias`` (O,); None if it is too large.

    So a bias costs the GEMM one step an element, where the ALU would need two and a load of int32 eight.
    """
    if not fits_tiles(bias, block):
        return None
    high = np.rint(bias / _STEP).astype(np.int64)
    digits = np.zeros((blocks(len(bias), block) * block, block), np.int64)
    digits[: len(bias), 0] = bias - high * _STEP
    for lane in range(1, block):
        digit = np.clip(high, -_STEP, _STEP)
        digits[: len(bias), lane] = digit
        high = high - digit
    return digits.astype(np.int8).reshape(-1, block, block)
