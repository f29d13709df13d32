"""How the benchmark of exact arithmetic counts steps, and that of text counts edits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.errors import ModelError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import exact
import text_models


def quantized(last: str) -> dlcomp.Model:
    """Relu between two pairs of Q and DQ, of the scales 0.5 and 0.25, then ``last`` if it is one."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "half", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "half", "zero"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "quarter", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "quarter", "zero"], ["c"]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["c"], ["d"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3))],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array(value, kind), name)
            for name, value, kind in (("half", 0.5, "f4"), ("quarter", 0.25, "f4"), ("zero", 128, "u1"))
        ],
    )
    opset = helper.make_opsetid("", 17)
    return dlcomp.load(helper.make_model(graph, opset_imports=[opset], ir_version=8))


@pytest.mark.parametrize(("last", "scale"), [("", 0.25), ("Flatten", 0.25), ("Softmax", None)])
def test_the_last_quantized_value_is_an_output(last: str, scale: float | None) -> None:
    shown, name, scales = exact.with_last(quantized(last))
    assert name == "r"
    assert list(scales.values()) == [scale]
    found = dlcomp.load(shown).compile("host").run({"x": np.full((2, 3), 1.0, "float32")})
    assert found["r"].tolist() == [[132] * 3] * 2


def test_steps_of_a_scale_and_of_the_range() -> None:
    right = [np.array([0.0, 51.0]), np.array([255.0])]
    found = [np.array([1.0, 51.0]), np.array([253.0])]
    assert exact.distances(found, right, 0.5).tolist() == [2.0, 0.0, 4.0]
    assert exact.distances(found, right, None).tolist() == [1.0, 0.0, 2.0]


def test_integers_do_not_wrap() -> None:
    ends = np.array([0, 255], "uint8")
    assert exact.distances([ends], [ends[::-1]], 1.0).tolist() == [255.0, 255.0]


@pytest.mark.parametrize(
    ("found", "right", "count"), [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)]
)
def test_edits(found: str, right: str, count: int) -> None:
    assert text_models.edits(found, right) == text_models.edits(right, found) == count


def test_strings_are_judged_without_spaces() -> None:
    found = text_models.correctness(["to be", "orn0t", "tobe"], ["to be", "or not", "to be"])
    assert found == {"right": 2 / 3, "wrong": 1 / 13}


def test_a_network_without_integers_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))],
    )
    network: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    with pytest.raises(ModelError, match="quantizes nothing"):
        exact.with_last(dlcomp.load(network))
