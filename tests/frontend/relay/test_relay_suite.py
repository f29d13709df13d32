"""Real networks, trained by others, as Relay text: a ResNet, a mobile one and BERT."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from relay_export import Export

import dlcomp
from dlcomp.frontend.check import infer
from dlcomp.frontend.shapes import bind
from dlcomp.frontend.simplify import simplify


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50_thin", "efficientnet_lite0", "minilm"])
def test_network_of_the_suite(name: str) -> None:
    import models

    suite = next(model for model in models.SUITE.values() if model.id == name)
    original = onnx.load(models.fetch(name))
    static = simplify(infer(bind(original, suite.shapes), name))
    text = Export(static).text()
    feed = suite.example(seed=1)
    session = onnxruntime.InferenceSession(original.SerializeToString())
    right = session.run(None, feed)
    model = dlcomp.load(text.encode())
    given = {spec.name: feed[value.name] for spec, value in zip(
        model.signature.inputs, static.graph.input, strict=False
    )}  # fmt: skip
    found = list(model.compile().run(given).values())
    assert len(found) == len(right)
    for left, reference in zip(found, right, strict=True):
        np.testing.assert_allclose(left, reference, rtol=0, atol=1e-4 * np.ptp(reference))
