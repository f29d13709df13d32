"""Small ONNX networks for the tests of the front end, written with onnx.helper."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, shape: list[Any] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    array = np.random.default_rng(seed + len(name)).standard_normal(shape).astype("float32")
    return numpy_helper.from_array(array, name)


def constant(name: str, array: Any, dtype: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(array, dtype), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    **extra_opsets: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights or [])
    opsets = [helper.make_opsetid("", opset)]
    opsets += [
        helper.make_opsetid(domain.replace("_", "."), version) for domain, version in extra_opsets.items()
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def relu(shape: list[Any] | None = None, **changes: Any) -> onnx.ModelProto:
    """One Relu from x to y."""
    dims = [1, 4] if shape is None else shape
    return model(
        [helper.make_node("Relu", ["x"], ["y"], name="act")],
        [value("x", dims)],
        [value("y", dims)],
        **changes,
    )


def cnn(batch: int | str = 1) -> onnx.ModelProto:
    """Convolutions of three kinds, batch normalisation, pooling, ReLU6, a residual, Gemm, Softmax."""
    node = helper.make_node
    nodes = [
        node(
            "Conv",
            ["x", "w1", "b1"],
            ["c1"],
            name="conv1",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        ),
        node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"], name="norm1"),
        node("Relu", ["n1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2"], ["c2"], name="depthwise", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8),
        node("Clip", ["c2", "zero", "six"], ["r2"], name="relu6"),
        node("Add", ["r2", "r1"], ["a2"], name="residual"),
        node("MaxPool", ["a2"], ["p2"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p2", "w3"], ["c3"], name="pointwise", kernel_shape=[1, 1]),
        node("GlobalAveragePool", ["c3"], ["g"], name="gap"),
        node("Flatten", ["g"], ["f"], name="flatten", axis=1),
        node("Gemm", ["f", "w4", "b4"], ["d"], name="dense", transB=1),
        node("Softmax", ["d"], ["y"], name="softmax", axis=-1),
    ]
    weights = [
        weight("w1", 8, 3, 3, 3),
        weight("b1", 8),
        weight("w2", 8, 1, 3, 3),
        weight("w3", 12, 8, 1, 1),
        weight("w4", 5, 12),
        weight("b4", 5),
        *(constant(name, np.linspace(0.5, 2, 8), "float32") for name in ("scale", "shift", "mean", "var")),
        constant("zero", 0, "float32"),
        constant("six", 6, "float32"),
    ]
    return model(nodes, [value("x", [batch, 3, 16, 16])], [value("y", [batch, 5])], weights)


def mlp(batch: int | str = 2) -> onnx.ModelProto:
    """A reshape by computed shapes, a matrix product, layer normalisation, a gather and a concatenation."""
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["s"], name="shape"),
        node("Gather", ["s", "first"], ["n"], name="batch", axis=0),
        node("Unsqueeze", ["n", "axis0"], ["n1"], name="unsqueeze"),
        node("Concat", ["n1", "rest"], ["to"], name="shape2", axis=0),
        node("Reshape", ["x", "to"], ["flat"], name="reshape"),
        node("MatMul", ["flat", "w1"], ["h"], name="matmul"),
        node("LayerNormalization", ["h", "gain", "offset"], ["l"], name="norm", axis=-1),
        node("Sigmoid", ["l"], ["q"], name="sigmoid"),
        node("Mul", ["l", "q"], ["silu"], name="silu"),
        node("Gather", ["table", "ids"], ["e"], name="embed", axis=0),
        node("Concat", ["silu", "e"], ["cat"], name="cat", axis=1),
        node("ReduceMean", ["cat"], ["y"], name="mean", axes=[1], keepdims=0),
    ]
    weights = [
        weight("w1", 12, 6),
        weight("table", 10, 6),
        constant("gain", np.ones(6), "float32"),
        constant("offset", np.zeros(6), "float32"),
        constant("first", 0, "int64"),
        constant("axis0", [0], "int64"),
        constant("rest", [12], "int64"),
    ]
    inputs = [value("x", [batch, 3, 4]), value("ids", [batch], INT64)]
    return model(nodes, inputs, [value("y", [batch])], weights)


def quantized() -> onnx.ModelProto:
    """A matrix product of a quantized weight, and its activation quantized and back."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="quantize"),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="dequantize_x"),
        node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], name="dequantize_w", axis=1),
        node("MatMul", ["xd", "wd"], ["y"], name="matmul"),
    ]
    weights = [
        constant("sx", 0.05, "float32"),
        constant("zx", 3, "uint8"),
        constant("wq", np.arange(32).reshape(8, 4) - 16, "int8"),
        constant("sw", [0.1, 0.2, 0.3, 0.4], "float32"),
        constant("zw", [0, 0, 0, 0], "int8"),
    ]
    return model(nodes, [value("x", [2, 8])], [value("y", [2, 4])], weights)
