"""A convolution as instructions: tiles that accumulate, shift, clip and leave, while the next ones arrive.

For each tile of outputs: zero the accumulators and add the bias, for each part of the input channels load
data and weights and multiply, then the epilogue and the store. Taps that fall on padding are left
out: padding is neither stored nor multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta import nest
from dlcomp.codegen.vta.blocks import (
    Extent,
    Rectangle,
    bias_tiles,
    bias_vector,
    blocks,
    is_diagonal,
    rectangles,
)
from dlcomp.codegen.vta.dependences import Access
from dlcomp.codegen.vta.epilogue import add_residual, clip, shift
from dlcomp.codegen.vta.matrix import as_matrix
from dlcomp.codegen.vta.operators import Conv
from dlcomp.codegen.vta.stream import Box, Stream
from dlcomp.codegen.vta.tiles import Slots, Tiling, axes, box, cuts, room
from dlcomp.errors import UsageError
from dlcomp.vta import isa


def lower_convolution(stream: Stream, conv: Conv, tiling: Tiling) -> None:
    """Append the code of ``conv``; its tensors are buffers of their names.

    Raises
    ------
    UsageError
        The tiling does not fit the scratchpads.
    """
    _Lowering(stream, as_matrix(conv, stream.config), tiling).run()


@dataclass(frozen=True)
class _Tile:
    """A tile of one rectangle: (first, count) of output blocks, rows and columns of one image."""

    image: int
    channels: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def pixels(self) -> int:
        return self.rows[1] * self.columns[1]


class _Lowering:
    def __init__(self, stream: Stream, conv: Conv, tiling: Tiling) -> None:
        self.stream = stream
        self.conv = conv
        self.tiling = tiling
        self.config = stream.config
        self.height, self.width = axes(conv)
        self.data, self.result = (
            Extent.of(tensor, self.config, conv.images_are_pixels) for tensor in (conv.data, conv.result)
        )
        self.rectangles = rectangles(conv, self.config.block)
        self.bias_tiles = bias_tiles(conv.start, self.config.block)
        self.tiles_done = 0
        # Tiles of one place in the picture and the scratchpads have the same code.
        self.kernels: dict[tuple[Any, ...], list[nest.Call]] = {}

    def run(self) -> None:
        conv, tiling, config = self.conv, self.tiling, self.config
        most = max(self.rectangles, key=lambda r: r.tiles.shape[0] * r.tiles.shape[1]).tiles.shape
        needed = room(conv, tiling, most[0], most[1], config)
        if needed is None:
            hint = "choose smaller tiles, or a target with larger scratchpads"
            raise UsageError(f"{tiling} does not fit the scratchpads", where=conv.name, hint=hint)
        self.acc_size = needed.acc
        self.junk = config.depth("acc") - nest.junk_size(config.hazard_distance)
        first = tiling.contexts * needed.acc
        self.shifts = Slots(first, tiling.oc, tiling.contexts if conv.extra is not None else 0)
        self.addends = Slots(self.shifts.end, tiling.oc, tiling.contexts)
        self.vector = 0
        self.residuals = Slots(1, needed.acc, tiling.contexts if conv.residual else 0)
        self.datas = Slots(self.residuals.end, needed.data, needed.data_slots)
        self.identity = 0
        self.biases = Slots(1 if conv.residual else 0, tiling.oc, tiling.contexts)
        self.weights = Slots(self.biases.end, needed.weights, needed.weight_slots)
        self._constants()
        for number, rectangle in enumerate(self.rectangles):
            self._rectangle(number, rectangle)

    def _constants(self) -> None:
        """What stays in the scratchpads for the whole layer, and the bias in DRAM."""
        stream, conv, config = self.stream, self.conv, self.config
        if config.hazard_distance:
            stream.reset(self.junk, nest.junk_size(config.hazard_distance))
        if self.bias_tiles is not None:
            stream.buffer(f"{conv.name}.bias", "constant", self.bias_tiles)
            name = stream.buffer("bias vector", "constant", bias_vector(config))
            stream.load(isa.Memory.INP, self.vector, name, Box(0, 1, 1, 1))
        else:
            stream.buffer(f"{conv.name}.bias", "constant", self._lanes(conv.start))
        if conv.extra is not None:
            stream.buffer(f"{conv.name}.shift", "constant", self._lanes(conv.extra))
        if conv.residual is not None:
            name = stream.identity(1 << conv.residual.shift)
            stream.load(isa.Memory.WGT, self.identity, name, Box(0, 1, 1, 1))

    def _lanes(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Numbers by channel ``(O,)`` as elements of acc ``(oc, n, c)``."""
        lanes = np.zeros(self.result.channels * self.config.block, np.int32)
        lanes[: len(values)] = values.astype(np.int32)
        rows: npt.NDArray[np.int32] = np.repeat(
            lanes.reshape(-1, 1, self.config.block), self.config.batch, axis=1
        )
        return rows

    def _rectangle(self, number: int, rectangle: Rectangle) -> None:
        oc, ic = rectangle.tiles.shape[:2]
        packed, offsets = _chunks(rectangle.tiles, self.tiling)
        name = self.stream.buffer(f"{self.conv.name}.weight.{number}", "constant", packed)
        for tile in self._tiles(oc):
            self._tile(tile, rectangle, ic, name, offsets)

    def _tiles(self, oc: int) -> Iterator[_Tile]:
        channels = list(cuts(oc, self.tiling.oc))
        pixels = [
            (rows, columns)
            for rows in cuts(self.height.outputs, self.tiling.rows)
            for columns in cuts(self.width.outputs, self.tiling.columns)
        ]
        if self.tiling.channels_first:
            for part in channels:
                for image in range(self.result.images):
                    yield from (_Tile(image, part, rows, columns) for rows, columns in pixels)
            return
        for image in range(self.result.images):
            for rows, columns in pixels:
                yield from (_Tile(image, part, rows, columns) for part in channels)

    def _tile(
        self, tile: _Tile, rectangle: Rectangle, ic: int, weights: str, offsets: dict[tuple[int, int], int]
    ) -> None:
        acc = self.tiles_done % self.tiling.contexts * self.acc_size
        self.tiles_done += 1
        count = tile.channels[1] * tile.pixels
        first_output = rectangle.first_output + tile.channels[0]
        self._begin(acc, tile, first_output)
        vertical, horizontal = self.height.window(*tile.rows), self.width.window(*tile.columns)
        if vertical.pairs and horizontal.pairs:
            for blocks_in in cuts(ic, self.tiling.ic):
                channels = (rectangle.first_input + blocks_in[0], blocks_in[1])
                if rectangle.diagonal:
                    channels = (first_output, tile.channels[1])
                data = self._load_data(tile, channels)
                at = self._load_weights(rectangle, tile.channels, blocks_in, weights, offsets)
                self._multiply(acc, data, at, tile, blocks_in[1], rectangle.diagonal)
        place = box(self.result, tile.image, (first_output, tile.channels[1]), (*tile.rows, 1), tile.columns)
        if self.conv.wide:
            self._store_wide(acc, count, place)
            return
        shift(self.stream, self.conv.requantize.shift, acc, count)
        if self.conv.extra is not None:
            name = f"{self.conv.name}.shift"
            self._by_channel(isa.AluOp.SHR, self.shifts, name, acc, first_output, tile)
        clip(self.stream, self.conv.requantize, acc, count)
        if self.conv.residual is not None:
            other, hit = self.residuals.place((tile, first_output))
            assert not hit
            for part, at in place:
                self.stream.load(isa.Memory.INP, other + at, self.conv.residual.other.name, part)
            add_residual(self.stream, self.conv.residual, acc, other, self.identity, count)
        for part, at in place:
            self.stream.store(acc + at, self.conv.result.name, part)

    def _by_channel(
        self, op: isa.AluOp, slots: Slots, operands: str, acc: int, first_output: int, tile: _Tile
    ) -> None:
        """An operation with a number for each channel, in registers: two cycles an element."""
        channels = tile.channels[1]
        at, hit = slots.place((first_output, channels))
        if not hit:
            self.stream.load(isa.Memory.ACC, at, operands, Box(first_output, 1, channels, channels))
        outer, inner = nest.Loop(channels, tile.pixels, 1), nest.Loop(tile.pixels, 1)
        call = nest.Call(np.array([[acc, at, 0]]), outer, inner)
        reads = Access("acc", at, at + channels)
        written = Access("acc", acc, acc + channels * tile.pixels, write=True)
        self.stream.alu_register(op, call, [reads, written])

    def _store_wide(self, acc: int, count: int, place: list[tuple[Box, int]]) -> None:
        """Four planes of bytes, the lowest first; what is shifted out has been stored."""
        for plane in range(4):
            # An operation that changes nothing brings the sums of a whole tile into the mirror.
            self.stream.alu(isa.AluOp.SHR, 8 if plane else 0, acc, count)
            for part, at in place:
                moved = Box(part.offset + plane * self.result.elements, part.rows, part.columns, part.stride)
                self.stream.store(acc + at, self.conv.result.name, moved)

    def _begin(self, acc: int, tile: _Tile, first_output: int) -> None:
        """The accumulators hold the bias."""
        stream, (_, channels) = self.stream, tile.channels
        bias, count = f"{self.conv.name}.bias", channels * tile.pixels
        stream.reset(acc, count)
        if self.bias_tiles is None:
            self._by_channel(isa.AluOp.ADD, self.addends, bias, acc, first_output, tile)
            return
        at, hit = self.biases.place((first_output, channels))
        if not hit:
            stream.load(isa.Memory.WGT, at, bias, Box(first_output, 1, channels, channels))
        outer = nest.Loop(channels, tile.pixels, 0, 1)
        call = nest.Call(np.array([[acc, self.vector, at]]), outer, nest.Loop(tile.pixels, 1))
        reads = [Access("inp", self.vector, self.vector + 1), Access("wgt", at, at + channels)]
        stream.gemm(call, [*reads, Access("acc", acc, acc + count, write=True)])

    def _load_data(self, tile: _Tile, channels: tuple[int, int]) -> tuple[int, int, int]:
        """Where the data are, and how many rows and columns of them there are."""
        top, rows = self.height.span(*tile.rows)
        left, columns = self.width.span(*tile.columns)
        at, hit = self.datas.place((tile.image, channels, top, rows, left, columns))
        if not hit:
            found = box(self.data, tile.image, channels, (top, rows, self.height.step), (left, columns))
            for one, place in found:
                self.stream.load(isa.Memory.INP, at + place, self.conv.data.name, one)
        return at, rows, columns

    def _load_weights(
        self,
        rectangle: Rectangle,
        channels: tuple[int, int],
        part: tuple[int, int],
        name: str,
        offsets: dict[tuple[int, int], int],
    ) -> int:
        at, hit = self.weights.place((rectangle.first_output, channels[0], part[0]))
        if not hit:
            size = channels[1] * part[1] * self.height.kernel * self.width.kernel
            offset = offsets[(channels[0], part[0])]
            self.stream.load(isa.Memory.WGT, at, name, Box(offset, 1, size, size))
        return at

    def _multiply(
        self, acc: int, data: tuple[int, int, int], weight: int, tile: _Tile, ic: int, diagonal: bool
    ) -> None:
        at, rows, columns = data
        oc, plane = tile.channels[1], rows * columns
        kernel = self.height.kernel * self.width.kernel
        steps = nest.Steps(
            tile.pixels, tile.columns[1], plane, columns, ic * kernel, kernel, self.width.kernel,
            plane if diagonal else 0,
        )  # fmt: skip
        key = (tile.rows, tile.columns, oc, ic, acc, at, weight)
        if key not in self.kernels:
            self.kernels[key] = nest.convolution(
                self.height.window(*tile.rows), self.width.window(*tile.columns), oc, ic, steps,
                (acc, at, weight), self.junk, self.config,
            )  # fmt: skip
        accesses = [
            Access("inp", at, at + (oc if diagonal else ic) * plane),
            Access("wgt", weight, weight + oc * ic * kernel),
            Access("acc", acc, acc + oc * tile.pixels, write=True),
        ]
        for call in self.kernels[key]:
            self.stream.gemm(call, accesses)


def _chunks(
    tiles: npt.NDArray[np.int8], tiling: Tiling
) -> tuple[npt.NDArray[np.int8], dict[tuple[int, int], int]]:
    """Weights in the order in which they are loaded, and the first element of each part."""
    oc, ic = tiles.shape[:2]
    parts, offsets, at = [], {}, 0
    for first_out, outs in cuts(oc, tiling.oc):
        for first_in, ins in cuts(ic, tiling.ic):
            part = tiles[first_out : first_out + outs, first_in : first_in + ins]
            parts.append(part.reshape(-1, *tiles.shape[4:]))
            offsets[(first_out, first_in)] = at
            at += len(parts[-1])
    return np.concatenate(parts), offsets


def rectangle_blocks(conv: Conv, block: int) -> tuple[int, int]:
    """Blocks of outputs and inputs of the largest rectangle, for the choice of a tiling."""
    if conv.groups == 1:
        return blocks(conv.weight.shape[0], block), blocks(conv.weight.shape[1], block)
    if is_diagonal(conv, block):
        return blocks(conv.weight.shape[0], block), 1
    largest = max(rectangles(conv, block), key=lambda r: r.tiles.shape[0] * r.tiles.shape[1])
    return largest.tiles.shape[0], largest.tiles.shape[1]
