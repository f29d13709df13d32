"""Depthwise convolutions and pooling of quantized networks, on the integers themselves."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import model, value
from test_qdq import INT8, UINT8, Net, assert_steps, written

import dlcomp


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_depthwise_convolutions_are_exact(data: st.DataObject) -> None:
    """Sums of ConvInteger against ONNX's reference: padding by the zero point, more outputs than inputs."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info = np.iinfo(dtype)
    channels = draw(st.sampled_from([1, 3, 8, 17, 32, 40, 64]))
    multiplier = draw(st.sampled_from([1, 1, 1, 2]))
    attributes = {
        "group": channels,
        "strides": [draw(st.integers(1, 2)) for _ in range(2)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(2)],
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
    }
    taps = [draw(st.integers(1, 5)) for _ in range(2)]
    net = Net()
    w = rng.integers(-128, 128, (channels * multiplier, 1, *taps)).astype("int8")
    w_zero = draw(st.sampled_from([0, 0, 5]))
    zero = draw(st.sampled_from([info.min, info.max, 3]))
    net.op(
        "ConvInteger",
        ["x", net.number(w, "int8"), net.number(zero, dtype), net.number(w_zero, "int8")],
        "y",
        **attributes,
    )
    shape = [2, channels, 11, 13]
    kinds = {"uint8": UINT8, "int8": INT8}
    network = model(
        net.nodes,
        [value("x", shape, kinds[dtype])],
        [value("y", None, onnx.TensorProto.INT32)],
        net.stored,
        ir_version=10,
    )
    artifact = dlcomp.load(network).compile()
    assert sum("depthwise.integer" in kernel.schedule for kernel in artifact.kernels) == 1
    x = rng.choice([info.min, info.max, 1, zero], shape).astype(dtype)
    padded = np.pad(
        x.astype(np.int64) - zero,
        ((0, 0), (0, 0), attributes["pads"][::2], attributes["pads"][1::2]),
    )
    (sh, sw), (dh, dw) = attributes["strides"], attributes["dilations"]
    found = artifact.run({"x": x})["y"]
    centred = np.repeat(padded, multiplier, 1)
    wanted = np.zeros(found.shape, np.int64)
    high, wide = found.shape[2], found.shape[3]
    for ky in range(taps[0]):
        for kx in range(taps[1]):
            under = centred[:, :, ky * dh :, kx * dw :]
            under = under[:, :, : (high - 1) * sh + 1 : sh, : (wide - 1) * sw + 1 : sw]
            wanted += under * (w[:, 0, ky, kx].astype(np.int64) - w_zero)[:, None, None]
    np.testing.assert_array_equal(found, wanted)


def test_a_chain_of_depthwise_layers_stays_on_bytes() -> None:
    """No kernel between the layers takes or gives anything wider than 8 bits."""
    rng = np.random.default_rng(5)
    net = Net()
    x = net.pair("QuantizeLinear", "x", 0.03, 7, "uint8")
    for _ in range(3):
        x = net.pair("DequantizeLinear", x, 0.03, 7, "uint8")
        w = net.number(rng.integers(-99, 100, (24, 1, 3, 3)), "int8")
        w = net.pair("DequantizeLinear", w, 0.01, 0, "int8")
        x = net.op("Conv", [x, w], group=24, pads=[1, 1, 1, 1])
        x = net.op("Relu", [x])
        x = net.pair("QuantizeLinear", x, 0.03, 7, "uint8")
    net.op("Identity", [x], "u")
    network = net.model([1, 24, 12, 12], "u")
    artifact = dlcomp.load(network).compile()
    layers = [kernel for kernel in artifact.kernels if "depthwise.integer" in kernel.schedule]
    assert layers
    assert all(kernel.bytes < 2 * 24 * 144 + 24 * 9 * 8 for kernel in layers)
    feed = {"x": rng.standard_normal((1, 24, 12, 12)).astype("float32") * 4}
    assert_steps(artifact.run(feed)["u"], written(network, feed)[0])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_max_pooling_of_bytes(data: st.DataObject) -> None:
    """The largest of the integers themselves, on whole vectors of them, to the bit."""
    draw = data.draw
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info = np.iinfo(dtype)
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    attributes = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "pads": [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)],
    }
    net = Net()
    net.op("MaxPool", ["x"], "y", **attributes)
    kind = {"uint8": UINT8, "int8": INT8}[dtype]
    shape = [draw(st.integers(1, 2)), draw(st.sampled_from([1, 5, 16, 40, 72, 130])), 9, 11]
    network = model(net.nodes, [value("x", shape, kind)], [value("y", None, kind)], [], ir_version=8)
    artifact = dlcomp.load(network).compile()
    assert sum("window2d.direct" in kernel.schedule for kernel in artifact.kernels) == 1
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.choice([*range(info.min, info.max + 1), info.min, info.max], shape).astype(dtype)
    found = artifact.run({"x": x})["y"]
    np.testing.assert_array_equal(found, written(network, {"x": x})[0])
