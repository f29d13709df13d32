"""Operators that TVM writes as loops or external calls have no blocks; they run as they are."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import dlcomp

NODES = {
    "TopK": helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=-1),
    "CumSum": helper.make_node("CumSum", ["x", "axis"], ["y"]),
    "ScatterElements": helper.make_node("ScatterElements", ["x", "where", "new"], ["y"], axis=1),
}
CONSTANTS = {
    "TopK": {"k": np.array([3], "int64")},
    "CumSum": {"axis": np.array(1, "int64")},
    "ScatterElements": {"where": np.array([[1], [4]], "int64"), "new": np.array([[7], [9]], "float32")},
}


@pytest.mark.parametrize("op", NODES)
def test_it_equals_onnxruntime(op: str) -> None:
    node = NODES[op]
    types = {"y": TensorProto.FLOAT, "i": TensorProto.INT64}
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])],
        [helper.make_tensor_value_info(name, types[name], None) for name in node.output],
        [onnx.numpy_helper.from_array(value, name) for name, value in CONSTANTS[op].items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.random.default_rng(0).standard_normal((2, 5), dtype=np.float32)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    found = dlcomp.load(proto).compile("host").run({"x": x})
    for name, right in zip(node.output, expected, strict=True):
        np.testing.assert_allclose(found[name], right, rtol=1e-6)
