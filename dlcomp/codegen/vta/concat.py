"""Joining tensors along their channels: multiplications by matrices that put each lane where it belongs.

Where the channels of a source do not fill its last block, the next source begins inside a block, and every
block of it is spread over two of the result's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta.blocks import Extent
from dlcomp.codegen.vta.epilogue import accumulate, round_shift_clip
from dlcomp.codegen.vta.operators import Concat, Tensor
from dlcomp.codegen.vta.stream import Box, Stream
from dlcomp.codegen.vta.tiles import Slots, cuts
from dlcomp.vta import isa

Matrix = npt.NDArray[np.int8]


def lower_concat(stream: Stream, one: Concat) -> None:
    """Append the code of ``one``, block after block of the result."""
    config = stream.config
    result = Extent.of(one.result, config)
    pixels = result.height * result.width
    size = max(1, min(config.depth("acc") // 2, config.depth("inp") // 4, pixels))
    data, weights = Slots(0, size, 4), Slots(0, 1, config.depth("wgt"))
    number = 0
    for image in range(result.images):
        for block in range(result.channels):
            parts = list(_parts(one, block, config.block))
            for first, count in cuts(pixels, size):
                acc = number % 2 * size
                number += 1
                stream.reset(acc, count)
                for tensor, source, matrix in parts:
                    at, hit = data.place((image, tensor.name, source, first))
                    if not hit:
                        begin = Extent.of(tensor, config).offset(image, source) + first
                        stream.load(isa.Memory.INP, at, tensor.name, Box(begin, 1, count, count))
                    accumulate(stream, acc, at, _weight(stream, weights, matrix), count)
                round_shift_clip(stream, one.requantize, acc, count)
                stream.store(acc, one.result.name, Box(result.offset(image, block) + first, 1, count, count))


def _parts(one: Concat, block: int, size: int) -> Iterator[tuple[Tensor, int, Matrix]]:
    """(tensor, its block, matrix) for each block that has channels in ``block`` of the result."""
    begin = 0
    for tensor, shift in zip(one.sources, one.shifts, strict=True):
        channels = tensor.shape[1]
        low, high = max(begin, block * size), min(begin + channels, (block + 1) * size)
        for source in range((low - begin) // size, -(-(high - begin) // size) if high > low else 0):
            matrix = np.zeros((size, size), np.int64)
            for channel in range(max(low, begin + source * size), min(high, begin + (source + 1) * size)):
                matrix[channel - block * size, channel - begin - source * size] = 1 << shift
            yield tensor, source, matrix.astype(np.int8)
        begin += channels


def _weight(stream: Stream, weights: Slots, matrix: Matrix) -> int:
    """Where the matrix lies in its scratchpad; loads it if it does not."""
    key = matrix.tobytes()
    at, hit = weights.place(key)
    if not hit:
        rows, columns = np.nonzero(matrix)
        name = f"lanes {columns[0]}.. to {rows[0]}.., {len(rows)} times {matrix[rows[0], columns[0]]}"
        stream.load(isa.Memory.WGT, at, stream.buffer(name, "constant", matrix), Box(0, 1, 1, 1))
    return at
