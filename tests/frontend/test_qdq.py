"""Networks of quantize and dequantize nodes, on integers, against the float nodes they are written with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import constant, model, value
from onnx.helper import make_node as node

import dlcomp
from dlcomp.frontend.qdq import on_integers
from dlcomp.frontend.simplify import simplify

UINT8, INT8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8


@dataclass
class Net:
    """Nodes and constants of a network that is being written."""

    nodes: list[Any] = field(default_factory=list)
    stored: list[Any] = field(default_factory=list)

    def number(self, array: Any, dtype: str) -> str:
        name = f"c{len(self.stored)}"
        self.stored.append(constant(name, array, dtype))
        return name

    def op(self, kind: str, operands: list[str], output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(node(kind, operands, [name], **attributes))
        return name

    def pair(self, kind: str, x: str, scale: Any, zero: Any, dtype: str, **attributes: Any) -> str:
        return self.op(kind, [x, self.number(scale, "float32"), self.number(zero, dtype)], **attributes)

    def round_trip(self, x: str, scale: float, zero: int, dtype: str) -> str:
        return self.pair(
            "DequantizeLinear", self.pair("QuantizeLinear", x, scale, zero, dtype), scale, zero, dtype
        )

    def model(self, shape: list[Any], *outputs: str) -> onnx.ModelProto:
        kinds = [UINT8 if name.startswith("u") else INT8 if name.startswith("i") else 1 for name in outputs]
        results = [value(name, None, kind) for name, kind in zip(outputs, kinds, strict=True)]
        return model(self.nodes, [value("x", shape)], results, self.stored, ir_version=10)


def written(network: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes of the network as it is written, node by node, in float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(network.SerializeToString(), options)
    return session.run(None, feed)  # type: ignore[no-any-return]


def operators(network: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in on_integers(simplify(network)).graph.node]


def assert_steps(found: np.ndarray, right: np.ndarray) -> None:
    """Integers equal but for sums so near to the middle of two that the last digits of float32 decide."""
    steps = np.abs(found.astype(np.int32) - right.astype(np.int32))
    assert steps.max(initial=0) <= 1
    assert np.count_nonzero(steps) <= max(1, steps.size // 200)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_layers_of_all_kinds(data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(["Conv", "Conv", "Conv1d", "MatMul", "Gemm"]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info = np.iinfo(dtype)
    zero = draw(st.sampled_from([0, int(info.min), int(info.max), 3]))
    groups = draw(st.sampled_from([1, 1, 2, 4])) if kind.startswith("Conv") else 1
    ci, co = groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 20))
    spatial = {"Conv": [7, 9], "Conv1d": [11]}.get(kind, [])
    attributes: dict[str, Any] = {}
    if spatial:
        taps = [draw(st.integers(1, 3)) for _ in spatial]
        attributes = {
            "strides": [draw(st.integers(1, 2)) for _ in spatial],
            "dilations": [draw(st.integers(1, 2)) for _ in spatial],
            "pads": [draw(st.integers(0, 2)) for _ in spatial * 2],
            "group": groups,
        }
        shape, weight_shape, columns = [2, ci, *spatial], [co, ci // groups, *taps], 0
    else:
        shape, weight_shape, columns = [5, ci], [ci, co], 1
        if kind == "Gemm" and draw(st.booleans()):
            weight_shape, columns, attributes = [co, ci], 0, {"transB": 1}
        if kind == "MatMul" and draw(st.booleans()):
            shape = [2, 3, ci]
    net = Net()
    scale = np.float32(0.031)
    x = net.round_trip("x", float(scale), zero, dtype)
    per_channel = draw(st.booleans())
    w_scale = rng.uniform(0.001, 0.02, co if per_channel else ()).astype("float32")
    w_dtype = draw(st.sampled_from(["int8", "int8", "uint8"]))
    w_zero = np.full(w_scale.shape, 0 if w_dtype == "int8" else draw(st.sampled_from([128, 7])))
    low, high = np.iinfo(w_dtype).min, np.iinfo(w_dtype).max
    integers = net.number(rng.integers(low, high + 1, weight_shape), w_dtype)
    axis = {"axis": columns} if per_channel else {}
    w = net.pair("DequantizeLinear", integers, w_scale, w_zero, w_dtype, **axis)
    operands = [x, w]
    bias = draw(st.sampled_from(["none", "float", "integer"]))
    if kind != "MatMul" and bias == "float":
        operands.append(net.number(rng.standard_normal(co), "float32"))
    elif kind != "MatMul" and bias == "integer":
        steps = net.number(rng.integers(-3000, 3000, co), "int32")
        b_scale = (scale * w_scale).astype("float32")
        operands.append(
            net.pair("DequantizeLinear", steps, b_scale, np.zeros(b_scale.shape), "int32", axis=0)
        )
    y = net.op("Conv" if spatial else kind, operands, **attributes)
    behind = draw(st.sampled_from(["", "Relu", "Clip", "Sigmoid"]))
    if behind == "Clip":
        y = net.op("Clip", [y, net.number(-0.5, "float32"), net.number(1.5, "float32")])
    elif behind:
        y = net.op(behind, [y])
    out = draw(st.sampled_from(["uint8", "int8"]))
    y_zero = draw(st.sampled_from([np.iinfo(out).min, 0, 5, np.iinfo(out).max]))
    name = "u" if out == "uint8" else "i"
    net.op("QuantizeLinear", [y, net.number(0.013, "float32"), net.number(y_zero, out)], name)
    network = net.model(shape, name)
    assert {"ConvInteger", "MatMulInteger"} & set(operators(network))
    artifact = dlcomp.load(network).compile()
    feed = {"x": rng.standard_normal(shape).astype("float32") * 4}
    assert_steps(artifact.run(feed)[name], written(network, feed)[0])


def residual_network() -> onnx.ModelProto:
    """Convolutions, a residual sum, a pooling, channels joined, and a value that is a result as well.

    Scales are no round numbers: sums that are halfway between two steps are rare.
    """
    rng = np.random.default_rng(3)
    net = Net()

    def layer(x: str, ci: int, co: int, k: int) -> str:
        # Small enough that a step of one value moves no other by more than a fraction of one.
        w = net.number(rng.integers(-16, 17, (co, ci, k, k)), "int8")
        w = net.pair("DequantizeLinear", w, np.full(co, 0.010477), np.zeros(co), "int8", axis=0)
        return net.op("Conv", [x, w], pads=[k // 2] * 4)

    x = net.round_trip("x", 0.020713, 120, "uint8")
    a = net.round_trip(net.op("Relu", [layer(x, 3, 8, 3)]), 0.031127, 0, "uint8")
    b = net.round_trip(layer(a, 8, 8, 1), 0.052389, 128, "uint8")
    total = net.round_trip(net.op("Relu", [net.op("Add", [a, b])]), 0.041871, 0, "uint8")
    pooled = net.op("MaxPool", [total], kernel_shape=[2, 2], strides=[2, 2])
    pooled = net.round_trip(pooled, 0.041871, 0, "uint8")
    joined = net.round_trip(net.op("Concat", [pooled, pooled], axis=1), 0.041871, 0, "uint8")
    c = layer(joined, 16, 4, 3)
    net.op("Identity", [total], "f_total")
    net.op("QuantizeLinear", [c, net.number(0.061339, "float32"), net.number(3, "uint8")], "u")
    net.op("Mul", [c, c], "f_squared")
    return net.model([1, 3, 8, 8], "u", "f_total", "f_squared")


@pytest.mark.parametrize("target", ["host", "x86_64-linux-gnu:haswell", "x86_64-linux-gnu:x86-64"])
def test_values_that_several_read(target: str) -> None:
    network = residual_network()
    feed = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype("float32")}
    artifact = dlcomp.load(network).compile(target)
    found, right = artifact.run(feed), written(network, feed)
    assert_steps(found["u"], right[0])
    for name, expected in zip(("f_total", "f_squared"), right[1:], strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5 * np.ptp(expected))


def test_movements_with_one_scale_are_of_integers() -> None:
    kinds = operators(residual_network())
    dequantized = [n for n in kinds if n == "DequantizeLinear"]
    # Of the two summands, of the sum that is a result; pooling and joining read integers.
    assert len(dequantized) == 3
    assert kinds.count("ConvInteger") == 3


def test_all_targets_compute_the_same_integers() -> None:
    network = residual_network()
    loaded = dlcomp.load(network)
    targets = ("host", "x86_64-linux-gnu:haswell", "x86_64-linux-gnu:x86-64")
    artifacts = [loaded.compile(target) for target in targets]
    for seed in range(3):
        feed = {"x": np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype("float32")}
        first, *others = (artifact.run(feed) for artifact in artifacts)
        for other in others:
            np.testing.assert_array_equal(first["u"], other["u"])


def test_open_sizes_stay_possible() -> None:
    net = Net()
    x = net.round_trip("x", 0.02, 7, "uint8")
    w = net.number(np.arange(-24, 24).reshape(8, 6), "int8")
    w = net.pair("DequantizeLinear", w, 0.01, 0, "int8")
    net.op("Gemm", [x, w], "y", transB=1)
    network = net.model(["n", 6], "y")
    artifact = dlcomp.load(network).compile()
    for rows in (1, 5, 33):
        feed = {"x": np.random.default_rng(rows).standard_normal((rows, 6)).astype("float32")}
        right = written(network, feed)[0]
        np.testing.assert_allclose(artifact.run(feed)["y"], right, rtol=0, atol=1e-5 * np.ptp(right))


@pytest.mark.parametrize("spoiled", ["scale", "zero", "axis", "int16", "shared"])
def test_what_is_no_integer_product_stays_in_float(spoiled: str) -> None:
    net = Net()
    per_row = spoiled == "axis"
    kind = "int16" if spoiled == "int16" else "uint8"
    x = net.round_trip("x", 0.02, 7, kind)
    w = net.number(np.arange(-18, 18).reshape(6, 6), "int8")
    scale = np.full(6, 0.01) if per_row else np.float32(0.01)
    # Along the axis that is summed over, there is no common factor.
    w = net.pair("DequantizeLinear", w, scale, np.zeros(np.shape(scale)), "int8", axis=0)
    if spoiled == "scale":
        w = net.op("Mul", [w, w])
    if spoiled == "zero":
        x = net.op("Add", [x, x])
    y = net.op("MatMul", [x, w], "y")
    if spoiled == "shared":
        net.op("Relu", [w], "f")
    network = net.model([5, 6], *(["y", "f"] if spoiled == "shared" else ["y"]))
    network.opset_import[0].version = 21
    assert ("MatMulInteger" in operators(network)) == (spoiled == "shared")
    feed = {"x": np.random.default_rng(0).standard_normal((5, 6)).astype("float32")}
    right = written(network, feed)[0]
    np.testing.assert_allclose(
        dlcomp.load(network).compile().run(feed)[y], right, rtol=0, atol=1e-5 * np.ptp(right)
    )


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1), (1, 1), (5, 5)])
def test_biases_of_every_shape(shape: tuple[int, ...]) -> None:
    """As many elements as columns are not always one for each column."""
    rng = np.random.default_rng(0)
    net = Net()
    x = net.round_trip("x", 0.020713, 7, "uint8")
    w = net.number(rng.integers(-127, 128, (6, 5)), "int8")
    w = net.pair("DequantizeLinear", w, 0.010477, 0, "int8")
    net.op("Gemm", [x, w, net.number(rng.standard_normal(shape), "float32")], "y")
    network = net.model([5, 6], "y")
    feed = {"x": rng.standard_normal((5, 6)).astype("float32")}
    right = written(network, feed)[0]
    found = dlcomp.load(network).compile().run(feed)["y"]
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 * np.ptp(right))


@pytest.mark.parametrize(
    "target",
    [
        "x86_64-linux-gnu:sandybridge",
        "x86_64-linux-gnu:knl",
        "aarch64-linux-gnu:cortex-a72",
        "riscv64-linux-gnu",
    ],
)
def test_code_for_processors_of_other_kinds(target: str) -> None:
    """No instruction that they lack: LLVM would stop the process."""
    assert dlcomp.load(residual_network()).compile(target).kernels


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
