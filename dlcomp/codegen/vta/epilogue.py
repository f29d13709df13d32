"""What follows the multiplications: shifts, clips and additions on whole tiles of accumulators."""

from __future__ import annotations

from dlcomp.codegen.vta.dependences import Access
from dlcomp.codegen.vta.nest import vector
from dlcomp.codegen.vta.operators import Requantize, Residual
from dlcomp.codegen.vta.stream import Stream
from dlcomp.vta import isa

# The largest amount of one SHR on which all implementations agree.
_LARGEST_SHIFT = 15


def shift(stream: Stream, amount: int, acc: int, count: int) -> None:
    """Right, or left where ``amount`` is negative; in several steps where it is large."""
    sign = 1 if amount >= 0 else -1
    left = abs(amount)
    while left:
        step = min(left, _LARGEST_SHIFT)
        stream.alu(isa.AluOp.SHR, sign * step, acc, count)
        left -= step


def clip(stream: Stream, how: Requantize, acc: int, count: int) -> None:
    """Into the range of the result."""
    stream.alu(isa.AluOp.MAX, how.low, acc, count)
    stream.alu(isa.AluOp.MIN, how.high, acc, count)


def round_shift_clip(stream: Stream, how: Requantize, acc: int, count: int) -> None:
    """A whole :class:`Requantize`; in two shifts where the half does not fit the 16 bits of an immediate."""
    if how.half >= 1 << _LARGEST_SHIFT:
        # Bits below the half do not change the result: shift some of them out first.
        before = how.shift - _LARGEST_SHIFT
        shift(stream, before, acc, count)
        how = Requantize(_LARGEST_SHIFT, how.low, how.high)
    if how.half:
        stream.alu(isa.AluOp.ADD, how.half, acc, count)
    shift(stream, how.shift, acc, count)
    clip(stream, how, acc, count)


def add_residual(stream: Stream, more: Residual, acc: int, other: int, weight: int, count: int) -> None:
    """Scale the clipped result, add ``count`` elements of ``inp`` from ``other``, and requantize again.

    The GEMM multiplies by a power of two and adds in one step; it widens int8 to int32 besides.
    """
    shift(stream, -more.own, acc, count)
    accumulate(stream, acc, other, weight, count)
    round_shift_clip(stream, more.requantize, acc, count)


def accumulate(stream: Stream, acc: int, source: int, weight: int, count: int) -> None:
    """Add ``count`` elements of ``inp`` times one weight tile."""
    reads = [Access("inp", source, source + count), Access("wgt", weight, weight + 1)]
    call = vector(acc, count, source, weight)
    stream.gemm(call, [*reads, Access("acc", acc, acc + count, write=True)])
