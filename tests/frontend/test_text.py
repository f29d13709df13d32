"""Networks with strings: the host's parts around the compiled one, saved and opened with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import dlcomp
from dlcomp import cli
from dlcomp.errors import ModelError, UsageError

node, value = helper.make_node, networks.value
STRING, INT64 = TensorProto.STRING, TensorProto.INT64
WORDS = np.array(["cat", "dog", "bird", "cat"], dtype=object)


def sandwich() -> Any:
    """Words to numbers, an embedding and a dense layer, the best class to a word."""
    nodes = [
        node("LabelEncoder", ["words"], ["ids"], domain="ai.onnx.ml", name="in",
             keys_strings=["cat", "dog"], values_int64s=[1, 2], default_int64=0),
        node("Gather", ["table", "ids"], ["rows"]),
        node("MatMul", ["rows", "w"], ["scores"]),
        node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        node("LabelEncoder", ["best"], ["answer"], domain="ai.onnx.ml", name="out",
             keys_int64s=[0, 1, 2], values_strings=["no", "perhaps", "yes"]),
    ]  # fmt: skip
    weights = [networks.weight("table", 3, 16), networks.weight("w", 16, 3)]
    outputs = [value("answer", [4], STRING), value("scores", [4, 3])]
    return networks.model(nodes, [value("words", [4], STRING)], outputs, weights, ai_onnx_ml=2)


def test_text_before_and_after(tmp_path: Path) -> None:
    network = sandwich()
    right = onnxruntime.InferenceSession(network.SerializeToString()).run(None, {"words": WORDS})
    model = dlcomp.load(network)
    artifact = model.compile()
    path = artifact.save(tmp_path / "text.dlc")
    assert len(artifact.kernels) >= 2
    for found in (artifact, dlcomp.open(path)):
        assert found.signature.inputs[0].dtype == "str"
        result = found.run({"words": WORDS})
        assert list(result) == ["answer", "scores"]
        assert result["answer"].tolist() == right[0].tolist()
        np.testing.assert_allclose(result["scores"], right[1], rtol=1e-5)
    # Arrays of fixed width and bytes are strings too.
    for given in (WORDS.astype("U8"), WORDS.astype("S8"), WORDS.tolist()):
        assert artifact.run({"words": given})["answer"].tolist() == right[0].tolist()
    assert dlcomp.verify(model, artifact, {"words": WORDS}).ok


def test_all_text(tmp_path: Path) -> None:
    made = node("StringNormalizer", ["x"], ["y"], stopwords=["dog"], case_change_action="UPPER")
    network = networks.model([made], [value("x", [4], STRING)], [value("y", [3], STRING)])
    artifact = dlcomp.load(network).compile()
    path = artifact.save(tmp_path / "words.dlc")
    assert dlcomp.open(path).run({"x": WORDS})["y"].tolist() == ["CAT", "BIRD", "CAT"]


def test_numbers_pass_beside_the_text() -> None:
    nodes = [
        node("StringConcat", ["a", "a"], ["b"]),
        node("Relu", ["x"], ["y"]),
    ]
    inputs = [value("a", [4], STRING), value("x", ["n", 2])]
    outputs = [value("b", [4], STRING), value("y", ["n", 2])]
    artifact = dlcomp.load(networks.model(nodes, inputs, outputs, opset=20)).compile()
    for n in (1, 5):
        x = np.random.default_rng(n).standard_normal((n, 2)).astype("float32")
        found = artifact.run({"a": WORDS, "x": x})
        np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
        assert found["b"][1] == "dogdog"


def test_errors_are_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = dlcomp.load(sandwich()).compile()
    with pytest.raises(UsageError, match="input 'words' is missing"):
        artifact.run({})
    with pytest.raises(UsageError, match="no input is named 'word'"):
        artifact.run({"words": WORDS, "word": WORDS})
    with pytest.raises(UsageError, match="strings are expected, not int64"):
        artifact.run({"words": np.arange(4)})
    with pytest.raises(UsageError, match="works on strings"):
        artifact.bench()
    path = artifact.save(tmp_path / "t.dlc")
    assert cli.main(["run", str(path)]) == 2
    assert "takes strings" in capsys.readouterr().err


def test_an_operator_that_is_not_known_is_named() -> None:
    made = node("Fancy", ["x"], ["y"], domain="my.ops", name="f")
    network = networks.model([made], [value("x", [4], STRING)], [value("y", [4], STRING)], my_ops=1)
    with pytest.raises(ModelError, match="Fancy"):
        dlcomp.load(network)


@pytest.mark.parametrize("kind", ["TreeEnsembleRegressor", "TreeEnsembleClassifier", "Scaler"])
def test_learning_operators_run_beside_compiled_code(kind: str) -> None:
    """A tree between two layers, as exporters of pipelines write it."""
    attributes: dict[str, Any] = {"offset": [0.5, -1.0], "scale": [2.0, 3.0]}
    results = ["t"]
    if kind.startswith("Tree"):
        attributes = {
            "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
            "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.2, 0.0, 0.0],
            "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        }  # fmt: skip
        if kind.endswith("Regressor"):
            attributes |= {"target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0]}
            attributes |= {"target_weights": [1.5, -2.5], "n_targets": 1}
        else:
            attributes |= {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1]}
            attributes |= {"class_weights": [1.0, 1.0], "classlabels_int64s": [0, 1, 2]}
            results = ["label", "t"]
    nodes = [
        node("Relu", ["x"], ["r"]),
        node(kind, ["r"], results, domain="ai.onnx.ml", **attributes),
        node("Mul", ["t", "t"], ["y"]),
    ]
    network = networks.model(nodes, [value("x", [6, 2])], [value("y", None)], ai_onnx_ml=1)
    x = np.random.default_rng(1).standard_normal((6, 2)).astype("float32")
    (right,) = onnxruntime.InferenceSession(network.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(dlcomp.load(network).compile().run({"x": x})["y"], right, rtol=1e-5)
