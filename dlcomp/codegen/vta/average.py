"""Average pooling over windows: every tap times the multiplier's high digit, then times the low one.

The multiplier depends on how many elements of a window lie inside, so that each such number has two weight
tiles of its own, multiples of the identity; a micro-op names the tile of its output.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta import nest
from dlcomp.codegen.vta.blocks import Extent
from dlcomp.codegen.vta.dependences import Access
from dlcomp.codegen.vta.epilogue import round_shift_clip, shift
from dlcomp.codegen.vta.operators import AveragePool
from dlcomp.codegen.vta.pointwise import DIGIT, digits
from dlcomp.codegen.vta.stream import Box, Stream
from dlcomp.codegen.vta.tiles import Axis, Slots, box, cuts
from dlcomp.errors import UsageError
from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig


def lower_average_pool(stream: Stream, one: AveragePool) -> None:
    """Append the code of ``one``.

    Raises
    ------
    UsageError
        The data of a single output do not fit the scratchpads.
    """
    _Pooling(stream, one).run()


class _Pooling:
    def __init__(self, stream: Stream, one: AveragePool) -> None:
        self.stream, self.one, self.config = stream, one, stream.config
        self.data, self.result = Extent.of(one.data, self.config), Extent.of(one.result, self.config)
        self.height, self.width = (
            Axis(size, outputs, one.kernel[a], one.strides[a], one.pads[a], 1, rows=False)
            for a, (size, outputs) in enumerate(
                ((self.data.height, self.result.height), (self.data.width, self.result.width))
            )
        )
        self.places = {count: 2 * number for number, (count, _) in enumerate(one.multipliers)}
        self.junk = self.config.depth("acc") - nest.junk_size(self.config.hazard_distance)
        self.rows, self.columns = _tile_size(one, self.height, self.width, self.config)

    def run(self) -> None:
        self._weights()
        size = max(self._loaded(r, c) for r in self._cuts(0) for c in self._cuts(1))
        slots = Slots(0, size, 2 if 2 * size <= self.config.depth("inp") else 1)
        number = 0
        # Tiles of one place have the same micro-ops: all channels, then the next place.
        for rows in self._cuts(0):
            for columns in self._cuts(1):
                for plane in range(self.data.images * self.data.channels):
                    at, _ = slots.place(number)
                    self._tile(divmod(plane, self.data.channels), rows, columns, at, number % 2)
                    number += 1

    def _weights(self) -> None:
        for count, multiplier in self.one.multipliers:
            for digit, factor in enumerate(digits(multiplier)):
                place = self.places[count] + digit
                self.stream.load(isa.Memory.WGT, place, self.stream.identity(factor), Box(0, 1, 1, 1))
        if self.config.hazard_distance:
            self.stream.reset(self.junk, self.config.depth("acc") - self.junk)

    def _cuts(self, axis: int) -> list[tuple[int, int]]:
        whole, size = (self.result.height, self.rows) if axis == 0 else (self.result.width, self.columns)
        return list(cuts(whole, size))

    def _loaded(self, rows: tuple[int, int], columns: tuple[int, int]) -> int:
        return max(1, self.height.span(*rows)[1] * self.width.span(*columns)[1])

    def _tile(
        self, plane: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], at: int, half: int
    ) -> None:
        stream, (image, channel) = self.stream, plane
        acc, count = half * self.rows * self.columns, rows[1] * columns[1]
        top, high = self.height.span(*rows)
        left, wide = self.width.span(*columns)
        for piece, place in box(self.data, image, (channel, 1), (top, high, 1), (left, wide)):
            stream.load(isa.Memory.INP, at + place, self.one.data.name, piece)
        stream.reset(acc, count)
        for digit in (0, 1):
            if digit:
                shift(stream, -DIGIT, acc, count)
            reads = [Access("inp", at, at + high * wide), Access("wgt", 0, 2 * len(self.places))]
            for uops in self._uops(rows, columns, (acc, at), digit):
                stream.gemm(nest.Call(uops), [*reads, Access("acc", acc, acc + count, write=True)])
        round_shift_clip(stream, self.one.requantize, acc, count)
        for piece, place in box(self.result, image, (channel, 1), (*rows, 1), columns):
            stream.store(acc + place, self.one.result.name, piece)

    def _uops(
        self, rows: tuple[int, int], columns: tuple[int, int], bases: tuple[int, int], digit: int
    ) -> list[npt.NDArray[np.int64]]:
        """One a tap of an output, tap by tap, so that an accumulator rests between; in pieces that fit."""
        vertical, horizontal = self.height.window(*rows), self.width.window(*columns)
        pitch, counts = self.width.span(*columns)[1], self.one.counts()
        pairs = sorted(
            (tap_row, tap_column, row, column, at_row * pitch + at_column)
            for (tap_row, row), at_row in zip(vertical.pairs, vertical.source, strict=True)
            for (tap_column, column), at_column in zip(horizontal.pairs, horizontal.source, strict=True)
        )
        acc, at = bases
        uops = np.array(
            [
                (
                    acc + row * columns[1] + column,
                    at + place,
                    self.places[int(counts[rows[0] + row, columns[0] + column])] + digit,
                )
                for _, _, row, column, place in pairs
            ],
            np.int64,
        ).reshape(-1, 3)
        distance = self.config.hazard_distance
        # Fillers at most multiply them, and a few.
        limit = max(1, self.config.depth("uop") // (2 * distance + 4))
        pieces = [uops[first : first + limit] for first in range(0, len(uops), limit)]
        return [
            piece if nest.apart(nest.Call(piece), distance) else nest.spaced(piece, self.junk, distance)
            for piece in pieces
        ]


def _tile_size(one: AveragePool, height: Axis, width: Axis, config: VtaConfig) -> tuple[int, int]:
    """The most rows of outputs that fit whole, else the most columns of one row."""
    room = (config.depth("acc") - nest.junk_size(config.hazard_distance)) // 2

    def fits(rows: int, columns: int) -> bool:
        high = max(height.span(*part)[1] for part in cuts(height.outputs, rows))
        wide = max(width.span(*part)[1] for part in cuts(width.outputs, columns))
        return rows * columns <= room and high * wide <= config.depth("inp")

    taps = one.kernel[0] * one.kernel[1]
    # Micro-ops are written out: not more of them than stay in their scratchpad for both halves.
    most = max(1, config.depth("uop") // (4 * taps * width.outputs))
    for rows in range(min(most, height.outputs), 0, -1):
        if fits(rows, width.outputs):
            return rows, width.outputs
    for columns in range(width.outputs, 0, -1):
        if fits(1, columns):
            return 1, columns
    raise UsageError(
        f"a window of {one.kernel[0]}x{one.kernel[1]} needs more than {config.depth('inp')} elements of inp",
        where=one.name,
        hint="keep this layer on the host, or take a target with a larger inp scratchpad",
    )
