"""Vectors of neighbouring channels woven into each other, in an order that processors have instructions for.

``punpckl*`` and ``punpckh*`` take elements in turn from two registers, within every 16 bytes of them. Two
such steps make words of four bytes out of four registers; the words come in an order that is the natural one
if groups of four channels were exchanged before, as :func:`exchanged` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

Expr = Any
# The bytes within which shuffles need no other register's lanes.
_SEGMENT = 16


def shuffled(vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """The elements at ``indices`` of the vectors behind each other."""
    return tirx.Shuffle(list(vectors), [tirx.const(index, "int32") for index in indices])


def exchanged(vector: Expr, channels: int, size: int) -> Expr:
    """``channels`` elements, so that :func:`woven` gives them in natural order; ``size`` is bytes of one."""
    order = _exchange(channels, size)
    return vector if order == list(range(channels)) else shuffled([vector], order)


def _exchange(channels: int, size: int) -> list[int]:
    segments = max(1, channels * size // _SEGMENT)
    groups = channels // 4 // segments
    taken = [k * segments + segment for segment in range(segments) for k in range(groups)]
    return [4 * group + place for group in taken for place in range(4)]


def word_lanes(channels: int, size: int) -> int:
    """The words of one of the vectors that :func:`woven` gives."""
    return channels if channels * size < _SEGMENT else channels * size // 4


def woven(rows: Sequence[Expr], channels: int, size: int) -> list[Expr]:
    """``4 // size`` vectors of ``channels`` elements as words of 32 bits, one a channel, in several vectors.

    A word holds one element of each row, the first in its lowest bits. The vectors are as long as the rows.
    """
    if len(rows) == 1:
        return list(rows)
    if channels * size < _SEGMENT:
        # Less than a register: one vector of all words.
        count = len(rows)
        return [shuffled(rows, [channels * r + c for c in range(channels) for r in range(count)])]
    parts = [[row] for row in rows]
    width = size
    while len(parts) > 1:
        pairs = [zip(*two, strict=True) for two in zip(parts[::2], parts[1::2], strict=True)]
        parts = [[half for two in pair for half in _unpacked(*two, channels, size, width)] for pair in pairs]
        width *= 2
    return parts[0]


def _unpacked(a: Expr, b: Expr, channels: int, size: int, width: int) -> list[Expr]:
    """The lower and the upper half of every segment of ``a`` and ``b``, ``width`` bytes of each in turn."""
    unit, segment = width // size, _SEGMENT // size
    halves = []
    for half in range(2):
        order = []
        for start in range(half * segment // 2, channels, segment):
            for place in range(start, start + segment // 2, unit):
                for source in range(2):
                    order += range(source * channels + place, source * channels + place + unit)
        halves.append(shuffled([a, b], order))
    return halves
