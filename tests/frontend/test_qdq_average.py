"""Means of 8-bit integers: exact sums, one factor, one rounding; against NumPy and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import model, value
from test_qdq import INT8, UINT8, Net, assert_steps, operators, written

import dlcomp

KINDS = {"uint8": UINT8, "int8": INT8}
IN, OUT = np.float32(0.0213), np.float32(0.0087)


def averaged(
    node: str,
    shape: list[int],
    dtype: str,
    zeros: tuple[int, int],
    extra: tuple[str, ...] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    net = Net()
    x = net.pair("DequantizeLinear", "x", IN, zeros[0], dtype)
    axes = [net.number(np.array(list(map(int, extra))), "int64")] if extra else []
    y = net.op(node, [x, *axes], **attributes)
    name = "u" if dtype == "uint8" else "i"
    net.op("QuantizeLinear", [y, net.number(OUT, "float32"), net.number(zeros[1], dtype)], name)
    result = value(name, None, KINDS[dtype])
    return model(net.nodes, [value("x", shape, KINDS[dtype])], [result], net.stored, ir_version=10)


def reference(total: np.ndarray, count: Any, zero: int, dtype: str) -> np.ndarray:
    """One factor in float32, one multiplication, one rounding to even."""
    info = np.iinfo(dtype)
    factor = (IN / np.asarray(count, np.float64)).astype(np.float32) / OUT
    return np.clip(np.rint(total.astype(np.float32) * factor) + zero, info.min, info.max).astype(dtype)


def data_of(draw: Any, dtype: str, shape: list[int], zero: int) -> np.ndarray:
    info, rng = np.iinfo(dtype), np.random.default_rng(draw(st.integers(0, 1000)))
    values = draw(
        st.sampled_from([range(info.min, info.max + 1), [info.min], [info.max], [info.min, info.max]])
    )
    return rng.choice([*values, zero], shape).astype(dtype)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_means_of_whole_axes(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info = np.iinfo(dtype)
    zeros = tuple(draw(st.sampled_from([int(info.min), 3, int(info.max)])) for _ in range(2))
    shape = [
        draw(st.integers(1, 2)),
        draw(st.integers(1, 70)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
    ]
    kind = draw(st.sampled_from(["GlobalAveragePool", "ReduceMean"]))
    axes, keepdims = (2, 3), 1
    if kind == "ReduceMean":
        axes = draw(st.sampled_from([(2, 3), (1,), (3,), (0, 2), (1, 2, 3)]))
        keepdims = draw(st.integers(0, 1))
    given = {"axes": list(axes), "keepdims": keepdims} if kind == "ReduceMean" else {}
    network = averaged(kind, shape, dtype, (zeros[0], zeros[1]), **given)
    assert {"ReduceSum"} <= set(operators(network))
    x = data_of(draw, dtype, shape, zeros[0])
    total = (x.astype(np.int64) - zeros[0]).sum(axis=axes, keepdims=bool(keepdims))
    wanted = reference(total, np.prod([shape[a] for a in axes]), zeros[1], dtype)
    (found,) = dlcomp.load(network).compile().run({"x": x}).values()
    np.testing.assert_array_equal(found, wanted)
    assert np.abs(found.astype(int) - written(network, {"x": x})[0]).max() <= 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_means_of_windows(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info = np.iinfo(dtype)
    zeros = tuple(draw(st.sampled_from([int(info.min), 3, int(info.max)])) for _ in range(2))
    kernel = [draw(st.integers(1, 5)) for _ in range(2)]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    padded = draw(st.integers(0, 1))
    shape = [draw(st.integers(1, 2)), draw(st.sampled_from([1, 5, 16, 40])), 7, 9]
    network = averaged(
        "AveragePool", shape, dtype, (zeros[0], zeros[1]),
        kernel_shape=kernel, pads=pads, strides=strides, count_include_pad=padded,
    )  # fmt: skip
    assert {"ConvInteger"} <= set(operators(network))
    x = data_of(draw, dtype, shape, zeros[0])
    around = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
    image = np.pad(x.astype(np.int64) - zeros[0], around)
    inside = np.pad(np.ones_like(x, np.int64), around, constant_values=padded)
    places = (2, 3)
    total, count = (
        np.lib.stride_tricks.sliding_window_view(a, kernel, places)[:, :, :: strides[0], :: strides[1]].sum(
            (-2, -1)
        )
        for a in (image, inside)
    )
    (found,) = dlcomp.load(network).compile().run({"x": x}).values()
    np.testing.assert_array_equal(found, reference(total, count, zeros[1], dtype))
    assert np.abs(found.astype(int) - written(network, {"x": x})[0]).max() <= 1


@pytest.mark.parametrize(
    "attributes",
    [{"kernel_shape": [20, 2]}, {"kernel_shape": [2, 2], "ceil_mode": 1, "count_include_pad": 1}],
)
def test_other_windows_stay_in_float(attributes: dict[str, Any]) -> None:
    network = averaged("AveragePool", [1, 4, 21, 9], "uint8", (7, 3), **attributes)
    assert "AveragePool" in operators(network)
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 21, 9)).astype("uint8")
    (found,) = dlcomp.load(network).compile().run({"x": x}).values()
    assert_steps(found, written(network, {"x": x})[0])


def test_a_mean_reads_bytes_behind_a_layer() -> None:
    """The layer before writes 8 bits, and one kernel sums, scales and rounds."""
    network = averaged("GlobalAveragePool", [1, 64, 12, 12], "uint8", (7, 3))
    kernels = dlcomp.load(network).compile().kernels
    assert len(kernels) == 1
    assert kernels[0].bytes <= 64 * 144 + 64 + 8  # the data, the result, and numbers for all channels
