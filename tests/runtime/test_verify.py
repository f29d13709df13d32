"""The error metric, the verdict, and the first node that diverges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from networks_onnx import dense_network

import dlcomp
from dlcomp.codegen.program import Program
from dlcomp.errors import UsageError
from dlcomp.model import Model
from dlcomp.runtime import layers
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.metric import difference
from dlcomp.runtime.verify import VerifyResult, verify

ort = pytest.importorskip("onnxruntime")

NAN, INF = np.nan, np.inf


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("found", "reference", "error"),
    [
        (f32(0, 10), f32(0, 10), 0),
        (f32(0.1, 10), f32(0, 10), 0.01),
        (f32(1.1, 1), f32(1, 1), 0.1),
        (f32(0.5, 0), f32(0, 0), 0.5),
        (f32(NAN, 1, 3), f32(NAN, 1, 3), 0),
        (f32(INF, -INF, 0, 1), f32(INF, -INF, 0, 2), 0.5),
        (f32(NAN, INF), f32(NAN, INF), 0),
        (f32(), f32(), 0),
        (np.float32(2), np.float32(1), 1),
    ],
)
def test_the_error_is_over_the_range_of_the_finite_values(found: Any, reference: Any, error: float) -> None:
    result = difference(np.asarray(found), np.asarray(reference))
    assert not result.problem
    assert result.error == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("found", "reference", "text"),
    [
        (f32(1, 2), f32(NAN, 2), "NaN"),
        (f32(NAN, 2), f32(1, 2), "NaN"),
        (f32(INF, 2), f32(1, 2), "+inf"),
        (f32(INF, 2), f32(-INF, 2), "inf"),
        (f32(NAN, 2), f32(INF, 2), "NaN"),
        (f32(1), f32(1, 2), "shape"),
        (f32(1), np.array([1.0]), "dtype"),
    ],
)
def test_what_cannot_be_compared_never_passes(found: np.ndarray, reference: np.ndarray, text: str) -> None:
    result = difference(found, reference)
    assert text in result.problem
    assert not result.within(1e9)


def test_integers_must_be_equal() -> None:
    assert difference(np.array([1, 2]), np.array([1, 2])).within(0)
    result = difference(np.array([1, 3]), np.array([1, 2]))
    assert "1 of 2" in result.problem
    assert not result.within(1.0)
    assert difference(np.array([True]), np.array([True])).exact


@pytest.fixture(scope="module")
def model(program: Program) -> Model:
    return Model(None, program.signature, "dense", source=dense_network(program))


def test_a_right_artifact_passes(model: Model, artifact: Artifact) -> None:
    result = verify(model, artifact)
    assert result.ok
    assert 0 <= result.max_error < 1e-5
    assert json.loads(json.dumps(result.to_json()))["ok"] is True
    assert "passed" in str(result)


def test_special_values_go_through_as_in_the_reference(model: Model, artifact: Artifact) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    assert verify(model, artifact, {"x": np.zeros_like(x)}).ok
    x[1, 3] = INF
    assert verify(model, artifact, {"x": x}).ok


def test_a_wrong_artifact_fails_without_an_exception(model: Model, program: Program) -> None:
    weight, bias = program.weights
    wrong = Artifact.build(replace(program, weights=(weight * np.float32(1.001), bias)))
    result = verify(model, wrong)
    assert not result.ok
    assert result.max_error > 1e-4
    assert verify(model, wrong, rtol=0.1).ok
    assert "FAILED" in str(result)


def test_another_model_is_a_usage_error(model: Model, program: Program) -> None:
    renamed = replace(program.signature, outputs=(replace(program.signature.outputs[0], name="z"),))
    with pytest.raises(UsageError, match="no output z"):
        verify(model, Artifact.build(replace(program, signature=renamed)))


def test_a_model_without_source_is_a_usage_error(model: Model, artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="ONNX source"):
        verify(replace(model, source=None), artifact)


def reference_values(network: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    extended, skipped = layers.expose(network)
    assert skipped == 0
    x = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    session = ort.InferenceSession(extended.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return extended, dict(zip(names, session.run(names, {"x": x}), strict=True))


def test_every_inner_value_becomes_an_output(program: Program) -> None:
    network = dense_network(program)
    extended, values = reference_values(network)
    assert set(values) == {"product", "sum", "y"}
    assert len(network.graph.output) == 1, "the model itself must not be changed"
    onnx.checker.check_model(extended)


def test_the_first_diverging_node_is_the_one_whose_inputs_are_right(program: Program) -> None:
    extended, expected = reference_values(dense_network(program))
    found = dict(expected)
    found["sum"] = expected["sum"] + 1
    found["y"] = expected["y"] + 1
    report = layers.compare(extended, found, expected, 1e-4)
    assert report.first is not None
    assert (report.first.node, report.first.op, report.first.output) == ("shift", "Add", "sum")
    assert report.compared == 3
    assert "shift" in str(report)


def test_a_divergence_passes_through_what_is_not_compared(program: Program) -> None:
    extended, expected = reference_values(dense_network(program))
    found = {"product": expected["product"] + 1, "y": expected["y"] + 1}
    report = layers.compare(extended, found, expected, 1e-4)
    assert report.first is not None
    assert report.first.node == "multiply"
    assert {layer.output for layer in report.worst} == {"product", "y"}


def test_no_divergence_points_at_fusion(program: Program) -> None:
    extended, expected = reference_values(dense_network(program))
    report = layers.compare(extended, expected, expected, 1e-4)
    assert report.first is None
    assert "fusion" in str(report)


def test_per_layer_through_the_whole_compiler(program: Program) -> None:
    model = dlcomp.load(dense_network(program))
    result = dlcomp.verify(model, model.compile("host"), per_layer=True)
    assert isinstance(result, VerifyResult)
    assert result.ok
    assert result.layers is not None
    assert result.layers.first is None
    assert result.layers.compared == 3
