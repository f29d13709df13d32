"""Quantized networks as onnxruntime's quantizer writes them, and each of its operators, against onnxruntime.

The reference runs with its optimizations off: its fused int8 kernels saturate on CPUs without VNNI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

import dlcomp
from dlcomp.errors import ModelError

MS = "com.microsoft"
U8, I8, I32, FLOAT = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.FLOAT
value = networks.value


def reference(network: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(network.SerializeToString(), options)
    found: list[np.ndarray] = session.run(None, feed)
    return found


def steps_apart(network: onnx.ModelProto, feed: dict[str, np.ndarray]) -> int:
    """The largest difference of integer results, in steps."""
    (right,) = reference(network, feed)
    left = next(iter(dlcomp.load(network).compile().run(feed).values()))
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    return int(np.abs(left.astype(int) - right.astype(int)).max(initial=0))


class Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seeds = iter(range(8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        seed = next(self.seeds, None)
        return None if seed is None else {"x": picture(seed)}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 20, 20)).astype("float32")


FORMS: dict[str, dict[str, Any]] = {
    "QDQ per tensor": {"quant_format": quantization.QuantFormat.QDQ},
    "QDQ per channel": {"quant_format": quantization.QuantFormat.QDQ, "per_channel": True},
    "QDQ int8": {
        "quant_format": quantization.QuantFormat.QDQ,
        "activation_type": quantization.QuantType.QInt8,
    },
    "QDQ int16": {
        "quant_format": quantization.QuantFormat.QDQ,
        "activation_type": quantization.QuantType.QUInt16,
    },
    "QOperator": {"quant_format": quantization.QuantFormat.QOperator},
    "QOperator per channel": {"quant_format": quantization.QuantFormat.QOperator, "per_channel": True},
    "QOperator int8": {
        "quant_format": quantization.QuantFormat.QOperator,
        "activation_type": quantization.QuantType.QInt8,
    },
    "dynamic": {},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "plain.onnx"
    onnx.save(cnn(), path)
    return path


def cnn() -> onnx.ModelProto:
    """Convolutions, a depthwise one, a residual, pooling, a join, and a classifier."""
    node, weight = helper.make_node, networks.weight
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2", "b2"], ["c"], group=16, pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w3", "b3"], ["e"]),
        node("Add", ["e", "b"], ["f"]),
        node("Conv", ["f", "w4", "b4"], ["g"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("LeakyRelu", ["g"], ["h"], alpha=0.1),
        node("MaxPool", ["f"], ["i"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["h", "i"], ["j"], axis=1),
        node("AveragePool", ["j"], ["k"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["k"], ["l"]),
        node("Flatten", ["l"], ["m"]),
        node("Gemm", ["m", "w5", "b5"], ["y"], transB=1),
    ]
    weights = [
        weight("w1", 16, 3, 3, 3), weight("b1", 16), weight("w2", 16, 1, 3, 3), weight("b2", 16),
        weight("w3", 16, 16, 1, 1), weight("b3", 16), weight("w4", 24, 16, 3, 3), weight("b4", 24),
        weight("w5", 10, 40), weight("b5", 10),
    ]  # fmt: skip
    return networks.model(nodes, [value("x", [1, 3, 20, 20])], [value("y", [1, 10])], weights, opset=17)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_quantizer(form: str, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    if form == "dynamic":
        quantization.quantize_dynamic(plain, path)
    else:
        quantization.quantize_static(plain, path, Pictures(), **FORMS[form])
    network = onnx.load(path)
    artifact = dlcomp.load(network).compile()
    worst = 0.0
    for seed in (100, 101, 102):
        feed = {"x": picture(seed)}
        (right,) = reference(network, feed)
        worst = max(worst, float(np.abs(artifact.run(feed)["y"] - right).max() / np.ptp(right)))
    # Products of integers are exact; QDQ computes in float32, where a rounding may fall the other way.
    least = {"QOperator": 0.0, "QOperator per channel": 0.0, "QOperator int8": 0.0}.get(form, 1 / 128)
    assert worst <= least


def test_integer_convolutions_get_the_kernels_of_float(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    quantization.quantize_static(plain, path, Pictures(), **FORMS["QOperator"])
    schedules = [kernel.schedule for kernel in dlcomp.load(path).compile().kernels]
    assert sum("conv2d.direct" in s or "window2d.direct" in s or "gemm" in s for s in schedules) >= 5
    assert not any("winograd" in s for s in schedules)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_exactness_at_the_border_of_float(data: st.DataObject) -> None:
    """Weights whose sums stay below or go beyond the 24 bits of float32: exact in both cases."""
    kind = data.draw(st.sampled_from([U8, I8]))
    depth = data.draw(st.sampled_from([1, 7, 257, 513, 514, 1030]))
    extreme = data.draw(st.booleans())
    rng = np.random.default_rng(depth)
    low, high = (0, 255) if kind == U8 else (-128, 127)
    x = np.full((2, depth), high) if extreme else rng.integers(low, high + 1, (2, depth))
    w = np.full((depth, 5), -128) if extreme else rng.integers(-128, 128, (depth, 5))
    zero = data.draw(st.sampled_from([low, high, 3]))
    stored = [
        numpy_helper.from_array(w.astype(np.int8), "w"),
        numpy_helper.from_array(np.array(zero, np.uint8 if kind == U8 else np.int8), "z"),
    ]
    network = networks.model(
        [helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"])],
        [value("x", [2, depth], kind)],
        [value("y", [2, 5], I32)],
        stored,
    )
    right = (x.astype(np.int64) - zero) @ w
    feed = {"x": x.astype(np.uint8 if kind == U8 else np.int8)}
    np.testing.assert_array_equal(dlcomp.load(network).compile().run(feed)["y"], right)


def quantized_node(operator: str, kind: int, rng: np.random.Generator) -> onnx.ModelProto:
    """One operator of the quantizer on x (2, 6, 4, 4) of ``kind``, with scales and zeros in range."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    stored: list[onnx.TensorProto] = []

    def number(name: str, scale: float) -> list[str]:
        zero = rng.integers(100, 150) if kind == U8 else rng.integers(-20, 20)
        stored.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}s"))
        stored.append(numpy_helper.from_array(np.array(zero, dtype), f"{name}z"))
        return [f"{name}s", f"{name}z"]

    def tensor(name: str, *shape: int) -> str:
        info = np.iinfo(dtype)
        array = rng.integers(info.min, info.max + 1, shape).astype(dtype)
        stored.append(numpy_helper.from_array(array, name))
        return name

    x, y = ["x", *number("x", 0.02)], number("y", 0.03)
    attributes: dict[str, Any] = {}
    if operator in ("QLinearAdd", "QLinearMul"):
        names = [*x, tensor("b", 2, 6, 1, 4), *number("b", 0.015), *y]
    elif operator == "QLinearConcat":
        names, attributes = [*y, *x, tensor("b", 2, 3, 4, 4), *number("b", 0.04)], {"axis": 1}
    elif operator == "QLinearWhere":
        stored.append(numpy_helper.from_array(rng.random((2, 6, 4, 4)) > 0.5, "c"))
        names = ["c", *x, tensor("b", 2, 6, 4, 4), *number("b", 0.04), *y]
    else:
        names = [*x, *y]
        attributes = {
            "QLinearLeakyRelu": {"alpha": 0.2},
            "QLinearAveragePool": {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "strides": [2, 1]},
            "QLinearReduceMean": {"axes": [2, 3], "keepdims": 0},
            "QLinearSoftmax": {"axis": -1, "opset": 13},
        }.get(operator, {})
    made = helper.make_node(operator, names, ["r"], domain=MS, **attributes)
    network = networks.model([made], [value("x", [2, 6, 4, 4], kind)], [value("r", None, kind)], stored)
    network.opset_import.append(helper.make_opsetid(MS, 1))
    return network


@pytest.mark.parametrize("kind", [U8, I8])
@pytest.mark.parametrize(
    "operator",
    """
    QLinearAdd QLinearMul QLinearConcat QLinearWhere QLinearSigmoid QLinearLeakyRelu QLinearAveragePool
    QLinearGlobalAveragePool QLinearSoftmax
    """.split(),
)
def test_operators_of_the_quantizer(operator: str, kind: int) -> None:
    rng = np.random.default_rng(len(operator) + kind)
    network = quantized_node(operator, kind, rng)
    info = np.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    x = rng.integers(info.min, info.max + 1, (2, 6, 4, 4)).astype(info.dtype)
    assert steps_apart(network, {"x": x}) <= 1


@pytest.mark.parametrize("kind", [U8, I8])
def test_mean_of_the_quantizer(kind: int) -> None:
    """onnxruntime declares QLinearReduceMean, but has no kernel of it: against NumPy."""
    rng = np.random.default_rng(kind)
    network = quantized_node("QLinearReduceMean", kind, rng)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    info = np.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    x = rng.integers(info.min, info.max + 1, (2, 6, 4, 4)).astype(info.dtype)
    mean = ((x.astype(np.int64) - int(stored["xz"])) * float(stored["xs"])).mean(axis=(2, 3))
    right = np.clip(np.rint(mean / float(stored["ys"])) + int(stored["yz"]), info.min, info.max)
    found = dlcomp.load(network).compile().run({"x": x})["r"]
    assert found.dtype == info.dtype
    assert np.abs(found.astype(int) - right).max() <= 1


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("real", [False, True])
def test_gemm_of_integers(turned: int, columns: bool, real: bool) -> None:
    rng = np.random.default_rng(turned)
    shape = (7, 12) if turned else (12, 7)
    scale = rng.uniform(0.01, 0.02, 7 if columns else ()).astype("float32")
    stored = [
        numpy_helper.from_array(rng.integers(-128, 128, shape).astype(np.int8), "b"),
        numpy_helper.from_array(scale, "bs"),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), "bz"),
        numpy_helper.from_array(rng.integers(-500, 500, 7).astype(np.int32), "c"),
        numpy_helper.from_array(np.array(0.02, np.float32), "as"),
        numpy_helper.from_array(np.array(120, np.uint8), "az"),
        numpy_helper.from_array(np.array(0.05, np.float32), "ys"),
        numpy_helper.from_array(np.array(110, np.uint8), "yz"),
    ]
    names = ["a", "as", "az", "b", "bs", "bz", "c", *([] if real else ["ys", "yz"])]
    made = helper.make_node("QGemm", names, ["y"], domain=MS, transB=turned)
    network = networks.model(
        [made], [value("a", [5, 12], U8)], [value("y", [5, 7], FLOAT if real else U8)], stored
    )
    network.opset_import.append(helper.make_opsetid(MS, 1))
    feed = {"a": rng.integers(0, 256, (5, 12)).astype(np.uint8)}
    if real:
        (right,) = reference(network, feed)
        np.testing.assert_allclose(dlcomp.load(network).compile().run(feed)["y"], right, rtol=1e-6)
    else:
        assert steps_apart(network, feed) <= 1


@pytest.mark.parametrize(("bits", "block", "rows"), [(4, 32, 64), (4, 16, 50), (8, 32, 64)])
@pytest.mark.parametrize("zeros", [False, True])
def test_products_by_a_few_bits(bits: int, block: int, rows: int, zeros: bool) -> None:
    rng, columns = np.random.default_rng(bits), 6
    blocks = -(-rows // block)
    stored = [
        numpy_helper.from_array(
            rng.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8), "b"
        ),
        numpy_helper.from_array(rng.uniform(0.1, 1, columns * blocks).astype("float32"), "s"),
    ]
    if zeros:
        size = columns * -(-blocks * bits // 8)
        stored.append(numpy_helper.from_array(rng.integers(0, 256, size).astype(np.uint8), "z"))
    made = helper.make_node(
        "MatMulNBits", ["a", "b", "s", *(["z"] if zeros else [])], ["y"], domain=MS,
        K=rows, N=columns, bits=bits, block_size=block,
    )  # fmt: skip
    network = networks.model([made], [value("a", [3, rows])], [value("y", [3, columns])], stored)
    network.opset_import.append(helper.make_opsetid(MS, 1))
    feed = {"a": rng.standard_normal((3, rows)).astype("float32")}
    (right,) = reference(network, feed)
    left = dlcomp.load(network).compile().run(feed)["y"]
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5 * np.ptp(right))


def test_a_weight_that_is_no_constant_is_refused_by_name() -> None:
    made = helper.make_node(
        "MatMulNBits", ["a", "b", "s"], ["y"], domain=MS, name="packed", K=32, N=2, bits=4, block_size=32
    )
    inputs = [value("a", [3, 32]), value("b", [2, 1, 16], U8), value("s", [2])]
    network = networks.model([made], inputs, [value("y", [3, 2])])
    network.opset_import.append(helper.make_opsetid(MS, 1))
    with pytest.raises(ModelError, match="'packed'"):
        dlcomp.load(network)


@pytest.mark.parametrize("batch", [False, True])
def test_deep_products_with_quantized_results(batch: bool) -> None:
    """Sums over so many terms that they are computed in parts, of which the result cannot hold any."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((32, 2048)), rng.standard_normal((2, 2048, 64) if batch else (2048, 64))
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    held = [
        numpy_helper.from_array(np.float32(1.5), "s"),
        numpy_helper.from_array(np.int8(3), "z"),
    ]
    inputs = [value("a", [32, 2048])]
    feed = {"a": a.astype("float32")}
    if batch:
        inputs.append(value("b", [2, 2048, 64]))
        feed["b"] = b.astype("float32")
    else:
        held.append(numpy_helper.from_array(b.astype("float32"), "b"))
    shape = [2, 32, 64] if batch else [32, 64]
    network = networks.model(nodes, inputs, [value("y", shape, TensorProto.INT8)], held)
    assert steps_apart(network, feed) <= 1


@pytest.mark.parametrize("kind", [U8, I8])
@pytest.mark.parametrize("other", [[2, 6, 64], [6, 1], [1], []])
@pytest.mark.parametrize(
    "scales", [(0.05, 0.05, 0.1), (0.07853707, 0.02362205, 0.02352941), (0.5, 0.25, 1.0)]
)
def test_sums_of_the_quantizer_to_the_bit(kind: int, other: list[int], scales: tuple[float, ...]) -> None:
    """Sums halfway between two integers are common here: the order of the arithmetic shows."""
    rng = np.random.default_rng(len(other))
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    info = np.iinfo(dtype)
    stored = [numpy_helper.from_array(np.float32(s), f"s{i}") for i, s in enumerate(scales)]
    zeros = rng.integers(info.min // 2, info.max // 2, 3)
    stored += [numpy_helper.from_array(np.array(z, dtype), f"z{i}") for i, z in enumerate(zeros)]
    b = rng.integers(info.min, info.max + 1, other).astype(dtype)
    stored.append(numpy_helper.from_array(np.array(b, dtype), "b"))
    operands = ["a", "s0", "z0", "b", "s1", "z1", "s2", "z2"]
    made = helper.make_node("QLinearAdd", operands, ["y"], domain=MS)
    shape = [2, 6, 64]
    network = networks.model([made], [value("a", shape, kind)], [value("y", shape, kind)], stored)
    network.opset_import.append(helper.make_opsetid(MS, 1))
    a = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    assert steps_apart(network, {"a": a}) == 0
