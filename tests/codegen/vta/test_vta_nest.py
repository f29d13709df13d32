"""Loop nests: every form computes the same steps, none twice and none too close to itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dlcomp.codegen.vta import nest
from dlcomp.codegen.vta.columns import with_columns
from dlcomp.codegen.vta.operators import Conv, Requantize, Tensor
from dlcomp.codegen.vta.reference import run_operator
from dlcomp.codegen.vta.tiles import Axis
from dlcomp.vta.config import VtaConfig
from dlcomp.vta_targets import load


def axis(size: int, kernel: int, stride: int, pad: int, dilation: int, rows: bool) -> Axis | None:
    outputs = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    return Axis(size, outputs, kernel, stride, pad, dilation, rows) if outputs > 0 else None


def steps_of(call: nest.Call) -> np.ndarray:
    inner = (call.inner.rows()[:, None, :] + call.uops[None, :, :]).reshape(-1, 3)
    return (call.outer.rows()[:, None, :] + inner[None, :, :]).reshape(-1, 3)


@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    pad=st.integers(0, 2),
    dilation=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    uops=st.sampled_from([6, 8, 15]),
    distance=st.integers(0, 3),
    reuse=st.sampled_from([0.01, 8.0, 1e6]),
)
def test_every_tap_that_meets_data_once(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, pad: int, dilation: int,
    channels: tuple[int, int], uops: int, distance: int, reuse: float,
) -> None:  # fmt: skip
    """Down to 16 micro-ops, where whole kernels do not fit; ``reuse`` makes each form the cheapest."""
    height, width = (axis(size[a], kernel[a], stride, pad, dilation, a == 0) for a in (0, 1))
    if height is None or width is None:
        return
    config = VtaConfig.of({**load("pynq").to_dict(), "LOG_UOP_BUFF_SIZE": uops, "HAZARD_DISTANCE": distance})
    oc, ic = channels
    rows, columns = height.window(0, height.outputs), width.window(0, width.outputs)
    if not rows.pairs or not columns.pairs:
        return
    loaded = [one.span(0, one.outputs)[1] for one in (height, width)]
    pixels, taps = height.outputs * width.outputs, kernel[0] * kernel[1]
    steps = nest.Steps(pixels, width.outputs, loaded[0] * loaded[1], loaded[1], ic * taps, taps, kernel[1])
    junk = 1000
    calls = nest.convolution(rows, columns, oc, ic, steps, (3, 5, 7), junk, config, reuse)
    found = np.concatenate([steps_of(call) for call in calls])
    found = found[found[:, 0] < junk]
    wanted = [
        (3 + o * pixels + y * width.outputs + x, 5 + i * loaded[0] * loaded[1] + row * loaded[1] + column,
         7 + (o * ic + i) * taps + ky * kernel[1] + kx)
        for o in range(oc) for i in range(ic)
        for (ky, y), row in zip(rows.pairs, rows.source, strict=True)
        for (kx, x), column in zip(columns.pairs, columns.source, strict=True)
    ]  # fmt: skip
    assert Counter(map(tuple, found.tolist())) == Counter(wanted)
    for call in calls:
        assert len(call.uops) <= config.depth("uop")
        order = call.destinations()
        for gap in range(1, min(distance, len(order) - 1) + 1):
            assert not (order[gap:] == order[:-gap]).any()
        assert order.max() < junk + nest.junk_size(distance)


@given(
    channels=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 3), st.integers(2, 4)),
    stride=st.integers(1, 3),
    left=st.integers(0, 2),
    right=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_columns_as_channels_compute_the_same(
    channels: int, kernel: tuple[int, int], stride: int, left: int, right: int, dilation: int
) -> None:
    width = (9 + left + right - dilation * (kernel[1] - 1) - 1) // stride + 1
    rng = np.random.default_rng(channels)
    weight = rng.integers(-128, 128, (6, channels, *kernel)).astype(np.int8)
    conv = Conv(
        "c", Tensor("x", (2, channels, 6, 9)), Tensor("y", (2, 6, 6 - kernel[0] + 2, width)), weight,
        np.arange(6, dtype=np.int32), Requantize(8), (1, stride), (0, left, 1, right), (1, dilation),
    )  # fmt: skip
    (made,), (fold,) = with_columns([conv], ["x"], 16)
    assert isinstance(made, Conv)
    assert made.weight.shape == (6, kernel[1] * channels, kernel[0], 1)
    data = rng.integers(-128, 128, conv.data.shape).astype(np.int8)
    found = run_operator(made, {fold.result.name: fold.gather(data)})
    np.testing.assert_array_equal(found, run_operator(conv, {"x": data}))


def test_columns_stay_where_channels_fill_the_block_or_others_read_them() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (6, 16, 3, 3)).astype(np.int8)
    full = Conv(
        "c",
        Tensor("x", (1, 16, 6, 6)),
        Tensor("y", (1, 6, 4, 4)),
        weight,
        np.zeros(6, np.int32),
        Requantize(8),
    )
    assert with_columns([full], ["x"], 16) == ((full,), ())
    few = Conv(
        "d", Tensor("z", (1, 2, 6, 6)), Tensor("v", (1, 6, 4, 4)), weight[:, :2], full.bias, Requantize(8)
    )
    assert len(with_columns([few], ["z"], 16)[1]) == 1
    assert with_columns([few], [], 16) == ((few,), ())
    assert with_columns([few, few], ["z"], 16) == ((few, few), ())
