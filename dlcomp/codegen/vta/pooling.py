"""Max pooling: data widened into accumulators by an identity matrix, then the largest of them, tap by tap.

The first tap of every window is multiplied straight into the result, as the ALU has no operation that copies.
"""

from __future__ import annotations

import numpy as np

from dlcomp.codegen.vta import nest
from dlcomp.codegen.vta.blocks import Extent
from dlcomp.codegen.vta.dependences import Access
from dlcomp.codegen.vta.epilogue import accumulate
from dlcomp.codegen.vta.operators import MaxPool
from dlcomp.codegen.vta.stream import Box, Stream
from dlcomp.codegen.vta.tiles import Axis, Slots, box, cuts
from dlcomp.errors import UsageError
from dlcomp.vta import isa


def lower_max_pool(stream: Stream, one: MaxPool) -> None:
    """Append the code of ``one``.

    Raises
    ------
    UsageError
        The data of one row of outputs do not fit the accumulators.
    """
    config = stream.config
    data, result = Extent.of(one.data, config), Extent.of(one.result, config)
    height, width = (
        Axis(size, outputs, one.kernel[a], one.strides[a], one.pads[a], 1, rows=False)
        for a, (size, outputs) in enumerate(((data.height, result.height), (data.width, result.width)))
    )
    rows = _rows(one, height, width, config.depth("acc") // 2, config.depth("uop") // 4)
    loaded = max(height.span(*part)[1] for part in cuts(result.height, rows)) * data.width
    half = loaded + rows * result.width
    stream.load(isa.Memory.WGT, 0, stream.identity(1), Box(0, 1, 1, 1))
    slots = Slots(0, loaded, 2 if 2 * loaded <= config.depth("inp") else 1)
    number = 0
    for image in range(data.images):
        for channel in range(data.channels):
            for part in cuts(result.height, rows):
                top, count = height.span(*part)
                source, _ = slots.place(number)
                acc = number % 2 * half
                number += 1
                for piece, at in box(data, image, (channel, 1), (top, count, 1), (0, data.width)):
                    stream.load(isa.Memory.INP, source + at, one.data.name, piece)
                _tile(stream, height.window(*part), width.window(0, result.width), data.width,
                      (acc, source), count * data.width)  # fmt: skip
                for piece, at in box(result, image, (channel, 1), (*part, 1), (0, result.width)):
                    stream.store(acc + count * data.width + at, one.result.name, piece)


def _rows(one: MaxPool, height: Axis, width: Axis, room: int, uops: int) -> int:
    """The most rows of outputs whose data and results fit."""
    for rows in range(height.outputs, 0, -1):
        loaded = max(height.span(*part)[1] for part in cuts(height.outputs, rows))
        pairs = rows * height.kernel * width.valid()
        if loaded * width.size + rows * width.outputs <= room and pairs <= uops:
            return rows
    raise UsageError(
        f"one row of outputs needs {height.kernel} rows of {width.size} accumulators, of {room} in reach",
        where=one.name,
        hint="keep this layer on the host, or take a target with a larger acc scratchpad",
    )


def _tile(
    stream: Stream, rows: nest.Window, columns: nest.Window, pitch: int, bases: tuple[int, int], loaded: int
) -> None:
    acc, source = bases
    outputs = 1 + max(out for _, out in columns.pairs)
    # Tap by tap, so that a result is not read again right after it was written.
    pairs = sorted(
        (tap_row, tap_column, row * outputs + column, at_row * pitch + at_column)
        for (tap_row, row), at_row in zip(rows.pairs, rows.source, strict=True)
        for (tap_column, column), at_column in zip(columns.pairs, columns.source, strict=True)
    )
    first: dict[int, int] = {}
    more = []
    for _, _, out, at in pairs:
        if out in first:
            more.append((acc + loaded + out, acc + at, 0))
        else:
            first[out] = at
    count = len(first)
    whole = Access("acc", acc, acc + loaded + count, write=True)
    stream.reset(acc, loaded + count)
    accumulate(stream, acc, source, 0, loaded)
    copies = np.array([(acc + loaded + out, source + at, 0) for out, at in first.items()])
    reads = [Access("inp", source, source + loaded), Access("wgt", 0, 1)]
    stream.gemm(nest.Call(copies), [*reads, whole])
    if more:
        stream.alu_register(isa.AluOp.MAX, nest.Call(np.array(more)), [whole])
