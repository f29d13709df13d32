"""A dense layer of several images as a convolution of one: every image a pixel, so that weights serve all.

In DRAM the vectors of an image are neighbours, so that "pixels" lie a whole image apart; only the places of
loads and stores know that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dlcomp.codegen.vta.blocks import blocks
from dlcomp.codegen.vta.operators import Conv, Tensor
from dlcomp.vta.config import VtaConfig


def as_matrix(conv: Conv, config: VtaConfig) -> Conv:
    """``conv`` itself, or the other if it is a dense layer of more images than are taken at once."""
    batch, channels, height, width = conv.data.shape
    images = blocks(batch, config.batch)
    whole = conv.weight.shape[2:] == (height, width) and conv.result.shape[2:] == (1, 1)
    if conv.images_are_pixels or not whole or images == 1 or conv.groups > 1 or any(conv.pads):
        return conv
    outputs, block = conv.weight.shape[0], config.block
    # The elements of an image in their order: blocks of channels, rows, columns, and the lanes of a block.
    padded = np.pad(conv.weight, ((0, 0), (0, -channels % block), (0, 0), (0, 0)))
    lanes = padded.reshape(outputs, -1, block, height, width).transpose(0, 1, 3, 4, 2)
    weight = np.ascontiguousarray(lanes.reshape(outputs, -1, 1, 1))

    def seen(tensor: Tensor, count: int) -> Tensor:
        return Tensor(tensor.name, (config.batch, count, images, 1))

    more = conv.residual
    residual = None if more is None else replace(more, other=seen(more.other, outputs))
    return replace(
        conv, data=seen(conv.data, weight.shape[1]), result=seen(conv.result, outputs), weight=weight,
        strides=(1, 1), dilations=(1, 1), residual=residual, images_are_pixels=True,
    )  # fmt: skip
