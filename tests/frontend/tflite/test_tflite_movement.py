"""TFLite's operators that move elements against its own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_file import File, agree

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def moved(kind: str, x: np.ndarray, *constants: Any, shape: Any, options: str = "", **fields: Any) -> None:
    """An operator of one input and 32-bit constants."""
    f = File()
    y = f.tensor(shape, str(x.dtype))
    f.op(kind, [f.input(x), *(f.constant(c, "int32") for c in constants)], y, options=options, **fields)
    agree(f, y, tolerance=0)


def test_shapes() -> None:
    x = floats(2, 1, 6)
    moved("RESHAPE", x, [3, -1], shape=(3, 4))
    moved("RESHAPE", x, shape=(4, 3), options="ReshapeOptions", NewShape=[-1, 3])
    moved("SQUEEZE", x, shape=(2, 6), options="SqueezeOptions", SqueezeDims=[-2])
    moved("SQUEEZE", x, shape=(2, 6), options="SqueezeOptions")
    moved("EXPAND_DIMS", x, -1, shape=(2, 1, 6, 1))
    moved("TRANSPOSE", x, [2, 0, 1], shape=(6, 2, 1))
    moved("TILE", x, [1, 3, 2], shape=(2, 3, 12))
    moved("BROADCAST_TO", x, [2, 3, 6], shape=(2, 3, 6), version=2)
    moved("REVERSE_V2", x, [2], shape=(2, 1, 6))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenation_and_pack(axis: int) -> None:
    f = File()
    parts = [f.input(floats(2, 3)) for _ in range(3)]
    joined = f.tensor((6, 3) if axis == 0 else (2, 9))
    stacked = f.tensor({0: (3, 2, 3), 1: (2, 3, 3), -1: (2, 3, 3)}[axis])
    f.op("CONCATENATION", parts, joined, options="ConcatenationOptions", Axis=axis)
    f.op("PACK", parts, stacked, options="PackOptions", ValuesCount=3, Axis=axis)
    agree(f, joined, stacked, tolerance=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split_and_unpack(axis: int) -> None:
    f = File()
    x = f.input(floats(4, 4))
    halves = [f.tensor((2, 4) if axis == 0 else (4, 2)) for _ in range(2)]
    parts = [f.tensor((n, 4) if axis == 0 else (4, n)) for n in (1, 3)]
    rows = [f.tensor((4,)) for _ in range(4)]
    f.op("SPLIT", [f.constant(axis, "int32"), x], *halves, options="SplitOptions", NumSplits=2)
    sizes = [f.constant([1, -1], "int32"), f.constant(axis, "int32")]
    f.op("SPLIT_V", [x, *sizes], *parts, options="SplitVOptions", NumSplits=2)
    f.op("UNPACK", [x], *rows, options="UnpackOptions", Num=4, Axis=axis)
    agree(f, *halves, *parts, *rows, tolerance=0)


def test_padding() -> None:
    x = floats(1, 3, 4, 2)
    widths = [[0, 0], [1, 2], [0, 3], [2, 0]]
    moved("PAD", x, widths, shape=(1, 6, 7, 4))
    moved("MIRROR_PAD", x, [[0, 0], [2, 1], [0, 3], [1, 0]], shape=(1, 6, 7, 3), options="MirrorPadOptions")
    moved(
        "MIRROR_PAD",
        x,
        [[0, 0], [3, 1], [0, 4], [1, 2]],
        shape=(1, 7, 8, 5),
        options="MirrorPadOptions",
        Mode=1,
    )
    f = File()
    y = f.tensor((1, 6, 7, 4))
    f.op("PADV2", [f.input(x), f.constant(widths, "int32"), f.constant(1.5, "float32")], y)
    agree(f, y, tolerance=0)


def test_blocks() -> None:
    x = floats(1, 4, 6, 8)
    moved("SPACE_TO_DEPTH", x, shape=(1, 2, 3, 32), options="SpaceToDepthOptions", BlockSize=2)
    moved("DEPTH_TO_SPACE", x, shape=(1, 8, 12, 2), options="DepthToSpaceOptions", BlockSize=2)
    moved("SPACE_TO_BATCH_ND", x, [2, 3], [[0, 0], [2, 1]], shape=(6, 2, 3, 8))
    moved("BATCH_TO_SPACE_ND", floats(12, 2, 3, 5), [2, 3], [[1, 0], [0, 2]], shape=(2, 3, 7, 5))


def test_slice() -> None:
    moved("SLICE", floats(4, 5, 6), [1, 0, 3], [2, -1, 3], shape=(2, 5, 3), options="SliceOptions")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_strided_slice(data: st.DataObject) -> None:
    """Any masks over any begins, ends and strides that leave something."""
    rank = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, 5)) for _ in range(rank))
    entries = data.draw(st.integers(1, rank))
    begin, end, steps = [], [], []
    index: list[Any] = []
    masks = dict.fromkeys(("Begin", "End", "Ellipsis", "NewAxis", "ShrinkAxis"), 0)
    kinds = [data.draw(st.sampled_from(["range", "shrink", "new"])) for _ in range(entries)]
    dots = data.draw(st.integers(-2, entries - 1))
    axis = 0
    named = sum(kind != "new" for place, kind in enumerate(kinds) if place != dots)
    for place, kind in enumerate(kinds):
        low, high, step = 0, 0, 1
        if place == dots:
            masks["Ellipsis"] |= 1 << place
            index.append(Ellipsis)
            axis += rank - named
        elif kind == "new":
            masks["NewAxis"] |= 1 << place
            index.append(np.newaxis)
        elif kind == "shrink":
            masks["ShrinkAxis"] |= 1 << place
            low = data.draw(st.integers(-shape[axis], shape[axis] - 1))
            high = low + 1
            index.append(low)
            axis += 1
        else:
            low = data.draw(st.integers(-shape[axis] - 1, shape[axis] + 1))
            high = data.draw(st.integers(-shape[axis] - 1, shape[axis] + 1))
            step = data.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
            free = [data.draw(st.booleans()), data.draw(st.booleans())]
            masks["Begin"] |= free[0] << place
            masks["End"] |= free[1] << place
            index.append(slice(None if free[0] else low, None if free[1] else high, step))
            axis += 1
        for values, value in zip((begin, end, steps), (low, high, step), strict=True):
            values.append(value)
    x = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    expected = x[tuple(index)]
    if not expected.size or expected.ndim > 5:
        return
    moved(
        "STRIDED_SLICE",
        x,
        begin,
        end,
        steps,
        shape=expected.shape,
        options="StridedSliceOptions",
        **{f"{name}Mask": bits for name, bits in masks.items()},
    )


def test_computed_shapes() -> None:
    """A shape that the network computes of a shape is known at load."""
    f = File()
    x = f.input(floats(2, 3, 4))
    shape, first = f.tensor((3,), "int32"), f.tensor((), "int32")
    wanted, filled, y = f.tensor((2,), "int32"), f.tensor((2, 12)), f.tensor((2, 12))
    f.op("SHAPE", [x], shape, options="ShapeOptions", OutType=2)
    lists = [f.constant([v], "int32") for v in (0, 1, 1)]
    f.op("STRIDED_SLICE", [shape, *lists], first, options="StridedSliceOptions", ShrinkAxisMask=1)
    twelve = f.constant(12, "int32")
    f.op("PACK", [first, twelve], wanted, options="PackOptions", ValuesCount=2)
    f.op("RESHAPE", [x, wanted], y)
    f.op("FILL", [wanted, f.constant(1.5, "float32")], filled)
    steps = f.tensor((4,), "int32")
    f.op("RANGE", [f.constant(v, "int32") for v in (1, 9, 2)], steps)
    rank = f.tensor((), "int32")
    f.op("RANK", [x], rank)
    agree(f, y, filled, steps, rank, tolerance=0)
