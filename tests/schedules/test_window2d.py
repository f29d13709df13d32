"""Depthwise convolution and pooling against onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check, schedules


def _depthwise(
    net: Net, shape: tuple[int, int, int, int], k: int | tuple[int, int], **attributes: Any
) -> None:
    c = shape[1]
    net.output(net.conv(net.input(*shape), c, c, k, group=c, **attributes))


def _pool(
    net: Net, kind: str, shape: tuple[int, int, int, int], k: tuple[int, int], **attributes: Any
) -> None:
    net.output(net.op(kind, net.input(*shape), kernel_shape=k, **attributes))


def test_depthwise() -> None:
    net = Net()
    _depthwise(net, (1, 16, 9, 9), 3)
    _depthwise(net, (3, 17, 8, 7), 3, strides=[2, 2])
    _depthwise(net, (1, 5, 11, 13), 5)
    _depthwise(net, (1, 33, 14, 14), 5, strides=[2, 2])
    _depthwise(net, (1, 8, 9, 9), 3, dilations=[2, 2], pads=[2, 2, 2, 2])
    _depthwise(net, (1, 24, 1, 1), 3)
    _depthwise(net, (1, 7, 2, 3), 7)
    _depthwise(net, (2, 64, 6, 6), (1, 5))
    _depthwise(net, (2, 9, 6, 6), (5, 1), pads=[0, 0, 3, 1])
    _depthwise(net, (1, 96, 30, 30), 3)
    for artifact in check(net):
        assert set(schedules(artifact, "depthwise")) == {"window2d.direct"}
        assert len(schedules(artifact, "depthwise")) == 10


def test_one_channel_is_depthwise_too() -> None:
    net = Net()
    _depthwise(net, (1, 1, 9, 9), 3)
    _depthwise(net, (3, 1, 5, 1), 1)
    check(net)


def test_max_pool() -> None:
    net = Net()
    _pool(net, "MaxPool", (1, 16, 9, 9), (2, 2), strides=[2, 2])
    _pool(net, "MaxPool", (3, 17, 9, 8), (3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    _pool(net, "MaxPool", (1, 3, 9, 9), (3, 3), strides=[2, 2], ceil_mode=1)
    _pool(net, "MaxPool", (1, 8, 10, 10), (3, 2), strides=[2, 3], pads=[0, 1, 2, 0])
    _pool(net, "MaxPool", (1, 8, 13, 13), (13, 13), pads=[6, 6, 6, 6], strides=[1, 1])
    _pool(net, "MaxPool", (1, 8, 9, 9), (3, 3), dilations=[2, 2], strides=[1, 1])
    _pool(net, "MaxPool", (1, 40, 6, 5), (5, 5), strides=[3, 3], pads=[2, 2, 2, 2], ceil_mode=1)
    _pool(net, "MaxPool", (1, 64, 28, 28), (3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    _pool(net, "MaxPool", (2, 5, 1, 1), (1, 1))
    for artifact in check(net, tolerance=0.0):
        assert set(schedules(artifact, "max")) == {"window2d.direct"}


@pytest.mark.parametrize("padded", [0, 1])
def test_average_pool(padded: int) -> None:
    net = Net(opset=19)
    for n, c, h, w, k, attributes in (
        (1, 16, 9, 9, (2, 2), {"strides": [2, 2]}),
        (3, 17, 9, 8, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (1, 8, 10, 10, (3, 2), {"strides": [2, 3], "pads": [0, 1, 2, 0]}),
        (1, 8, 7, 7, (7, 7), {"pads": [3, 3, 3, 3]}),
        (1, 5, 7, 7, (7, 7), {}),
        (1, 40, 6, 5, (5, 3), {"pads": [2, 0, 0, 2]}),
        (1, 8, 9, 9, (3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        (2, 5, 1, 1, (1, 1), {}),
    ):
        _pool(net, "AveragePool", (n, c, h, w), k, count_include_pad=padded, **attributes)
    for artifact in check(net):
        assert set(schedules(artifact, "avg")) == {"window2d.direct"}


@pytest.mark.parametrize("padded", [0, 1])
def test_average_pool_with_ceil(padded: int) -> None:
    """The last window may reach beyond the padding, whose excess is not counted."""
    net = Net(opset=19)
    for h, w, k, s, p in ((9, 9, 2, 2, 0), (8, 10, 3, 2, 0), (7, 6, 3, 2, 1), (6, 9, 4, 3, 1)):
        _pool(
            net,
            "AveragePool",
            (1, 5, h, w),
            (k, k),
            strides=[s, s],
            pads=[p] * 4,
            ceil_mode=1,
            count_include_pad=padded,
        )
    check(net)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("MaxPool", "AveragePool", "Conv") for mode in ("SAME_UPPER", "VALID")]
    + [("Conv", "SAME_LOWER")],
)
def test_auto_pad(kind: str, mode: str) -> None:
    net = Net()
    x = net.input(1, 6, 7, 10)
    attributes = {"auto_pad": mode, "strides": [2, 2], "kernel_shape": [3, 4]}
    if kind == "Conv":
        net.output(net.op(kind, x, net.weight(6, 1, 3, 4), group=6, **attributes))
    else:
        net.output(net.op(kind, x, **attributes))
    check(net, targets=("host",))


@st.composite
def _windows(draw: st.DrawFn) -> dict[str, Any]:
    """Pads smaller than the kernel, as onnxruntime demands, an output that is not empty, and no dilated
    window that lies in the padding alone: the largest of nothing is -inf here and the least float there.
    """
    sizes = {}
    for axis in "hw":
        k = draw(st.integers(1, 5))
        d = draw(st.integers(1, 2)) if k % 2 else 1
        low, high = (draw(st.integers(0, k - 1)) if d == 1 else k // 2 for _ in range(2))
        size = draw(st.integers(max(1, (k - 1) * d + 1 - low - high), 14))
        sizes[axis] = (size, k, d, low, high, draw(st.integers(1, 3)))
    h, w = sizes["h"], sizes["w"]
    return {
        "shape": (draw(st.integers(1, 3)), draw(st.integers(1, 40)), h[0], w[0]),
        "kernel_shape": (h[1], w[1]),
        "dilations": (h[2], w[2]),
        "pads": (h[3], w[3], h[4], w[4]),
        "strides": (h[5], w[5]),
    }


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(_windows(), min_size=2, max_size=2))
def test_any_window(windows: list[dict[str, Any]]) -> None:
    net = Net(opset=19)
    for window in windows:
        geometry = dict(window)
        shape = geometry.pop("shape")
        c = shape[1]
        x = net.input(*shape)
        net.output(
            net.op("Conv", x, net.weight(c, 1, *geometry["kernel_shape"]), group=c, **geometry),
            net.op("MaxPool", x, **geometry),
            net.op("AveragePool", x, **geometry),
            net.op("AveragePool", x, count_include_pad=1, **geometry),
        )
    check(net)
