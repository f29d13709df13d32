"""Sums of two tensors and means over pixels: multiplications by identity matrices that accumulate."""

from __future__ import annotations

import numpy as np

from dlcomp.codegen.vta import nest
from dlcomp.codegen.vta.blocks import Extent
from dlcomp.codegen.vta.dependences import Access
from dlcomp.codegen.vta.epilogue import accumulate, round_shift_clip, shift
from dlcomp.codegen.vta.operators import Mean, Sum
from dlcomp.codegen.vta.stream import Box, Stream
from dlcomp.codegen.vta.tiles import Slots, cuts
from dlcomp.vta import isa

# A multiplier is two digits of 7 bits, each a weight.
DIGIT = 7


def digits(multiplier: int) -> tuple[int, int]:
    """The high and the low digit; the low one is from -64 to 63, so that both fit int8."""
    low = (multiplier + (1 << DIGIT - 1)) % (1 << DIGIT) - (1 << DIGIT - 1)
    return (multiplier - low) >> DIGIT, low


def lower_sum(stream: Stream, one: Sum) -> None:
    """Append the code of ``one``, over all elements of its tensors as one row."""
    config = stream.config
    elements = Extent.of(one.result, config).elements
    size = min(config.depth("acc") // 2, (config.depth("inp") - 1) // 4, elements)
    for place, amount in enumerate((one.left_shift, one.right_shift)):
        stream.load(isa.Memory.WGT, place, stream.identity(1 << amount), Box(0, 1, 1, 1))
    sources = Slots(0, size, 4)
    for number, (first, count) in enumerate(cuts(elements, size)):
        acc = number % 2 * size
        stream.reset(acc, count)
        for place, tensor in enumerate((one.left, one.right)):
            at, _ = sources.place((number, place))
            stream.load(isa.Memory.INP, at, tensor.name, Box(first, 1, count, count))
            accumulate(stream, acc, at, place, count)
        round_shift_clip(stream, one.requantize, acc, count)
        stream.store(acc, one.result.name, Box(first, 1, count, count))


def lower_mean(stream: Stream, one: Mean) -> None:
    """Append the code of ``one``: every pixel times the multiplier's high digit, then the low one."""
    config = stream.config
    data = Extent.of(one.data, config)
    pixels = data.height * data.width
    for place, digit in enumerate(digits(one.multiplier)):
        stream.load(isa.Memory.WGT, place, stream.identity(digit), Box(0, 1, 1, 1))
    slots = Slots(0, config.depth("inp") // 2, 2)
    junk = config.depth("acc") - nest.junk_size(config.hazard_distance)
    if config.hazard_distance:
        stream.reset(junk, config.depth("acc") - junk)
    # As many channel blocks at a time as there is room for, else a part of the pixels of one.
    together = max(1, min(slots.size // pixels, junk // 2, data.channels))
    for number, (first, count) in enumerate(cuts(data.images * data.channels, together)):
        acc = number % 2 * together
        stream.reset(acc, count)
        for place in (0, 1):
            if place:
                shift(stream, -DIGIT, acc, count)
            for begin, size in cuts(pixels, max(1, slots.size // together)):
                at, hit = slots.place((first, begin))
                if not hit:
                    stream.load(
                        isa.Memory.INP, at, one.data.name, Box(first * pixels + begin, count, size, pixels)
                    )
                _add_pixels(stream, (acc, at, place), count, size, junk)
        round_shift_clip(stream, one.requantize, acc, count)
        stream.store(acc, one.result.name, Box(first, 1, count, count))


def _add_pixels(stream: Stream, bases: tuple[int, int, int], channels: int, pixels: int, junk: int) -> None:
    acc, at, weight = bases
    uops = np.array([[acc + c, at + c * pixels, weight] for c in range(channels)])
    if channels <= stream.config.hazard_distance:
        uops = nest.spaced(uops, junk, stream.config.hazard_distance)
    reads = [Access("inp", at, at + channels * pixels), Access("wgt", weight, weight + 1)]
    call = nest.Call(uops, nest.Loop(pixels, 0, 1))
    stream.gemm(call, [*reads, Access("acc", acc, acc + channels, write=True)])
