"""Inputs that are fixed at load, empty tensors, loops that are written out, and 8-bit floats."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import networks
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.errors import ModelError, UsageError

value, model = networks.value, networks.model


def topk() -> Any:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"])
    inputs = [value("x", [2, 5]), value("k", [1], TensorProto.INT64)]
    return model([node], inputs, [value("y", [2, "k"]), value("i", [2, "k"], TensorProto.INT64)])


def test_a_fixed_input_is_a_constant() -> None:
    loaded = dlcomp.load(topk(), values={"k": np.array([3], "int64")})
    assert [spec.name for spec in loaded.signature.inputs] == ["x"]
    x = np.random.default_rng(0).standard_normal((2, 5), dtype=np.float32)
    found = loaded.compile().run({"x": x})["y"]
    np.testing.assert_array_equal(found, -np.sort(-x, axis=1)[:, :3])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"q": np.array([3], "int64")}, "no input 'q'"),
        ({"k": np.array([3], "int32")}, "it is int32, the model has int64"),
        ({"k": np.array([3, 4], "int64")}, r"it has the shape \[2\], the model has \[1\]"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        dlcomp.load(topk(), values=values)


def test_without_the_value_the_run_decides() -> None:
    artifact = dlcomp.load(topk()).compile()
    x = np.random.default_rng(0).standard_normal(artifact.signature.inputs[0].shape).astype("float32")
    for k in (1, 3):
        found = artifact.run({"x": x, "k": np.array([k])})["y"]
        np.testing.assert_array_equal(found, -np.sort(-x, axis=1)[:, :k])


def test_a_rank_that_the_run_decides_says_what_to_do() -> None:
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    network = model([node], [value("x", [6]), value("to", ["rank"], TensorProto.INT64)], [value("y", None)])
    with pytest.raises(ModelError, match="values="):
        dlcomp.load(network)


def test_empty_tensors_pass_through() -> None:
    node = helper.make_node("ReduceSum", ["x", "a"], ["y"])
    axes = numpy_helper.from_array(np.array([1], "int64"), "a")
    network = model([node], [value("x", [2, "n", 3])], [value("y", [2, 1, 3])], weights=[axes])
    artifact = dlcomp.load(network, {"x": (2, 0, 3)}).compile()
    found = artifact.run({"x": np.zeros((2, 0, 3), "float32")})["y"]
    np.testing.assert_array_equal(found, np.zeros((2, 1, 3), "float32"))


@pytest.mark.parametrize("turns", [1, 5])
def test_a_loop_with_a_known_count_is_written_out(turns: int) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "x"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [value("turn", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [3])],
        [value("on", [], TensorProto.BOOL), value("next", [3]), value("seen", [3])],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["last", "all"], body=body)
    count = numpy_helper.from_array(np.array(turns, "int64"), "n")
    network = model(
        [node], [value("x", [3])], [value("last", [3]), value("all", [turns, 3])], weights=[count]
    )
    x = np.array([1, -2, 0.5], "float32")
    expected = onnxruntime.InferenceSession(network.SerializeToString()).run(None, {"x": x})
    found = dlcomp.load(network).compile().run({"x": x})
    for name, right in zip(("last", "all"), expected, strict=True):
        np.testing.assert_allclose(found[name], right, rtol=1e-6)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
def test_8_bit_floats_round_as_ml_dtypes_does(name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name))
    to = helper.np_dtype_to_tensor_dtype(kind)
    every = np.arange(256, dtype="uint8").view(kind).astype("float32")
    largest = np.nanmax(np.where(np.isfinite(every), every, np.nan))
    x = np.random.default_rng(0).uniform(-largest, largest, 500).astype("float32")
    x = np.concatenate([x, x / 1024, every[np.isfinite(every)], [0.0, -0.0]]).astype("float32")
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=to),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    border = [value("x", [len(x)])], [value("y", [len(x)])]
    found = dlcomp.load(model(nodes, *border, opset=19, ir_version=9)).compile().run({"x": x})
    np.testing.assert_array_equal(found["y"], x.astype(kind).astype("float32"))


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8"])
def test_integer_division_cannot_stop_the_process(kind: str) -> None:
    elements = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    info = np.iinfo(kind)
    a = np.array([7, info.min, info.min, info.max, 0], kind)
    b = np.array([0, 0 if info.min == 0 else -1, 1, 2, 0], kind)
    inputs = [value("a", [5], elements), value("b", [5], elements)]
    network = model([helper.make_node("Div", ["a", "b"], ["y"])], inputs, [value("y", [5], elements)])
    found = dlcomp.load(network).compile().run({"a": a, "b": b})["y"]
    wrapped = 0 if info.min == 0 else info.min
    np.testing.assert_array_equal(found, np.array([0, wrapped, info.min, info.max // 2, 0], kind))
