"""Small quantized networks for the tests of the accelerator's compiler."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import dlcomp


def network(
    nodes: list[tuple[Any, ...]], weights: dict[str, np.ndarray], shape: list[int]
) -> onnx.ModelProto:
    """Nodes as (operator, inputs, output, attributes), from ``x`` of ``shape`` to the last output."""
    made = [helper.make_node(kind, inputs, [out], name=out, **more) for kind, inputs, out, more in nodes]
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return onnx.shape_inference.infer_shapes(proto)


def residual(batch: int = 2, middle: str | None = None) -> onnx.ModelProto:
    """Two convolutions with a residual, pooling, a depthwise one with ReLU6, a dense layer, softmax."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (20, 3, 3, 3)), "b1": rng.normal(0, 0.3, 20),
        "w2": rng.normal(0, 0.1, (20, 20, 3, 3)), "b2": rng.normal(0, 0.3, 20),
        # Channels of very different sizes, as depthwise convolutions have them.
        "w3": rng.normal(0, 0.3, (20, 1, 3, 3)) * 2.0 ** rng.integers(-5, 1, (20, 1, 1, 1)),
        "w4": rng.normal(0, 0.3, (10, 20)), "b4": rng.normal(0, 0.3, 10),
        "low": np.array(0.0), "high": np.array(6.0),
    }  # fmt: skip
    pads: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w1", "b1"], "c1", pads),
        ("Relu", ["c1"], "r1", {}),
        ("Conv", ["r1", "w2", "b2"], "c2", pads),
        ("Add", ["c2", "r1"], "sum", {}),
        ("Relu", ["sum"], "r2", {}),
        (middle or "Identity", ["r2"], "middle", {}),
        ("MaxPool", ["middle"], "p", {"kernel_shape": [3, 3], "strides": [2, 2], **pads}),
        ("Conv", ["p", "w3"], "c3", {**pads, "group": 20, "strides": [2, 1]}),
        ("Clip", ["c3", "low", "high"], "r3", {}),
        ("GlobalAveragePool", ["r3"], "g", {}),
        ("Flatten", ["g"], "f", {}),
        ("Gemm", ["f", "w4", "b4"], "d", {"transB": 1}),
        ("Softmax", ["d"], "y", {"axis": 1}),
    ]
    return network(nodes, weights, [batch, 3, 12, 10])


def samples(count: int, shape: tuple[int, ...] = (3, 12, 10), seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, *shape)).astype(np.float32)


@functools.cache
def small(middle: str | None = None) -> dlcomp.Model:
    """:func:`residual`, quantized once for all tests."""
    return quantized(residual(middle=middle))


def quantized(proto: onnx.ModelProto, shape: tuple[int, ...] = (3, 12, 10)) -> dlcomp.Model:
    passes = dlcomp.Quantize(scales="power_of_two")
    return dlcomp.load(proto).compress(passes, calibration=samples(16, shape))


@functools.cache
def small_artifact() -> dlcomp.Artifact:
    return small().compile("vta:pynq")
