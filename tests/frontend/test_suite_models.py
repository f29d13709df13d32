"""Every network of the standard suite imports; they are downloaded by pip on the first run."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import onnxruntime
import pytest

import dlcomp
from dlcomp.errors import ToolMissing, UsageError

# Shapes that differ from the default ones where the network allows it.
_ODD = {
    "ppocr_det": {"x": (3, 3, 96, 160)},
    "ppocr_rec": {"x": (3, 3, 48, 77)},
    "ppocr_cls": {"x": (3, 3, 45, 77)},
    "resnet50_thin": {"input:0": (3, 224, 224, 3)},
    "efficientnet_lite0": {"input": (3, 3, 224, 224)},
    "minilm": {"input_ids": (3, 17), "attention_mask": (3, 17)},
}


@pytest.mark.parametrize("model_id", models.SUITE)
def test_imports_at_its_default_shapes(model_id: str) -> None:
    suite = models.SUITE[model_id]
    model = dlcomp.load(models.fetch(model_id), suite.shapes)
    assert model.name == model_id
    assert {spec.name: spec.shape for spec in model.signature.inputs} == suite.shapes
    example = suite.example()
    assert {spec.name: (spec.shape, spec.dtype) for spec in model.signature.inputs} == {
        name: (array.shape, str(array.dtype)) for name, array in example.items()
    }
    assert "call_tir" not in model.module["main"].script()


@pytest.mark.parametrize("model_id", _ODD)
def test_imports_at_batch_three_and_odd_sizes(model_id: str) -> None:
    shapes = _ODD[model_id]
    model = dlcomp.load(models.fetch(model_id), shapes)
    assert model.signature.inputs[0].shape == next(iter(shapes.values()))
    assert model.signature.outputs[0].shape[0] == 3


def test_sentence_embedding_has_the_published_similarities() -> None:
    """The model card's example: a happy person against a dog, a very happy person, and the weather."""
    sentences = [
        [101, 2008, 2003, 1037, 3407, 2711, 102, 0],
        [101, 2008, 2003, 1037, 3407, 3899, 102, 0],
        [101, 2008, 2003, 1037, 2200, 3407, 2711, 102],
        [101, 2651, 2003, 1037, 11559, 2154, 102, 0],
    ]
    ids = np.array(sentences, "int64")
    session = onnxruntime.InferenceSession(str(models.fetch("minilm")))
    feed = {"input_ids": ids, "attention_mask": (ids > 0).astype("int64")}
    (embedding,) = session.run(["sentence_embedding"], feed)
    np.testing.assert_allclose(embedding @ embedding[0], [1, 0.695, 0.943, 0.257], atol=6e-4)


def test_unknown_suite_model() -> None:
    with pytest.raises(UsageError, match="no suite model 'resnet9000'"):
        models.fetch("resnet9000")


def test_failing_pip_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCOMP_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolMissing, match="pip could not download rapidocr"):
        models.fetch("ppocr_cls")


def test_damaged_cache_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = models.fetch("ppocr_cls").read_bytes()
    monkeypatch.setenv("DLCOMP_CACHE", str(tmp_path))
    bad = tmp_path / "models" / "ppocr_cls.onnx"
    bad.parent.mkdir()
    bad.write_bytes(good[:-1])
    monkeypatch.setattr(models, "_download", lambda package: bad.write_bytes(good))
    assert models.fetch("ppocr_cls").read_bytes() == good
