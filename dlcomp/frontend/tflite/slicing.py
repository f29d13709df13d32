"""TFLite's operators that take parts: slices with all their masks, splits, reversal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlcomp.frontend.builder import Tensor, axis_of
from dlcomp.frontend.tflite.builder import Builder
from dlcomp.frontend.tflite.call import Call

_ENDLESS = 2**31 - 1


def _cut(
    b: Builder,
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int],
) -> Tensor:
    whole = [
        low == 0 and high >= _ENDLESS and step == 1 for low, high, step in zip(begin, end, steps, strict=True)
    ]
    kept = [place for place, all_of_it in enumerate(whole) if not all_of_it]
    if not kept:
        return x
    lists = [[values[place] for place in kept] for values in (begin, end, axes, steps)]
    return b.op("Slice", [x, *(b.constant(values, "int64") for values in lists)])


def _slice(call: Call) -> Tensor:
    """Begins and sizes, of which -1 is all the rest."""
    x, begin, size = call.arg(0), call.wholes(1, "the begin"), call.wholes(2, "the size")
    if not len(begin) == len(size) == x.rank or min(begin, default=0) < 0:
        raise ValueError(f"begins {begin} and sizes {size} of {x.rank} dimensions")
    end = [_ENDLESS if n == -1 else low + n for low, n in zip(begin, size, strict=True)]
    return _cut(call.b, x, begin, end, range(x.rank), [1] * x.rank)


def _strided_slice(call: Call) -> Tensor:
    """One entry for each of some dimensions; bits of the masks make an entry begin or end at the edge, stand
    for all dimensions that are not named, make a new dimension, or take a single place."""
    b, x = call.b, call.arg(0)
    begin, end, steps = (
        call.wholes(place, what) for place, what in enumerate(("begin", "end", "strides"), 1)
    )
    if not len(begin) == len(end) == len(steps) or 0 in steps:
        raise ValueError(f"begin {begin}, end {end} and strides {steps}")
    masks = {
        name: call.options.whole(f"{name}Mask")
        for name in ("Begin", "End", "Ellipsis", "NewAxis", "ShrinkAxis")
    }
    offsets = call.options.flag("Offset")

    def marked(name: str, entry: int) -> bool:
        return bool(masks[name] >> entry & 1)

    count = len(begin)
    named = sum(not marked("Ellipsis", i) and not marked("NewAxis", i) for i in range(count))
    if named > x.rank or sum(marked("Ellipsis", i) for i in range(count)) > 1:
        raise ValueError(f"{named} entries for {x.rank} dimensions")
    axis, lists, gone, new, place = 0, ([], [], [], []), [], [], 0  # type: ignore[var-annotated]
    for i in range(count):
        if marked("Ellipsis", i):
            axis, place = axis + x.rank - named, place + x.rank - named
            continue
        if marked("NewAxis", i):
            new.append(place)
            place += 1
            continue
        low, step = begin[i], steps[i]
        high = low + end[i] if offsets else end[i]
        if marked("ShrinkAxis", i):
            # The last place has no number behind it that counts from the end.
            high, step = (low + 1 or _ENDLESS), 1
            gone.append(axis)
        else:
            low = (0 if step > 0 else _ENDLESS) if marked("Begin", i) else low
            high = (_ENDLESS if step > 0 else -_ENDLESS) if marked("End", i) else high
            place += 1
        for values, value in zip(lists, (low, high, axis, step), strict=True):
            values.append(value)
        axis += 1
    return b.unsqueeze(b.squeeze(_cut(b, x, *lists), gone), new)


def _split(call: Call) -> list[Tensor]:
    """Equal parts; the axis is the first operand."""
    b, x, count = call.b, call.arg(1), len(call.results)
    axis = axis_of(call.whole(0, "the axis"), x.rank)
    (size,) = b.known(x, [axis])
    if not count or size % count:
        raise ValueError(f"{size} does not divide into {count} parts")
    return b.ops("Split", [x, b.constant([size // count] * count, "int64")], count, axis=axis)


def _split_v(call: Call) -> list[Tensor]:
    """Parts of given sizes, of which -1 is what is left."""
    b, x, sizes = call.b, call.arg(0), call.wholes(1, "the sizes")
    axis = axis_of(call.whole(2, "the axis"), x.rank)
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1 or len(sizes) != len(call.results):
        raise ValueError(f"sizes {sizes} for {len(call.results)} parts")
    if -1 in sizes:
        (whole,) = b.known(x, [axis])
        sizes = [whole - sum(sizes) - 1 if n == -1 else n for n in sizes]
    return b.ops("Split", [x, b.constant(sizes, "int64")], len(sizes), axis=axis)


def _reverse(call: Call) -> Tensor:
    x = call.arg(0)
    axes = [axis_of(a, x.rank) for a in call.wholes(1, "the axes")]
    n = len(axes)
    return _cut(call.b, x, [_ENDLESS] * n, [-_ENDLESS] * n, axes, [-1] * n)


MOVING: Mapping[str, Any] = {
    "REVERSE_V2": _reverse,
    "SLICE": _slice,
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "STRIDED_SLICE": _strided_slice,
}
