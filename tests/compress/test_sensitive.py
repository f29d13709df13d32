"""Layers that stay in float as the network loses most by them: against networks of one quantized layer."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.compress.search import search
from dlcomp.errors import ModelError, UsageError
from dlcomp.runtime import peer

node, value = helper.make_node, networks.value
LAYERS = ("stem", "depthwise", "pointwise", "head")


def network(height: int | str = 12, classes: bool = True) -> onnx.ModelProto:
    """A depthwise convolution of channels with very unequal ranges, between layers that lose little."""
    rng = np.random.default_rng(3)
    channels = 8
    gain = np.geomspace(1, 300, channels)
    stored = {
        "w1": rng.standard_normal((channels, 3, 3, 3)) * gain[:, None, None, None] / 5,
        "w2": rng.standard_normal((channels, 1, 3, 3)) / gain[:, None, None, None] / 3,
        "w3": rng.standard_normal((16, channels, 1, 1)) / 3,
        "w4": rng.standard_normal((16, 5)),
    }
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1] * 4, name="stem"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], pads=[1] * 4, group=channels, name="depthwise"),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w3"], ["e"], name="pointwise"),
        node("Relu", ["e"], ["f"]),
        node("Transpose", ["f"], ["g"], perm=[0, 2, 3, 1]),
        node("MatMul", ["g", "w4"], ["h" if classes else "y"], name="head"),
        *([node("Softmax", ["h"], ["y"], axis=-1)] if classes else []),
    ]
    weights = [numpy_helper.from_array(a.astype("float32"), n) for n, a in stored.items()]
    return networks.model(
        nodes, [value("x", [1, 3, height, 12])], [value("y", [1, height, 12, 5])], weights, opset=13
    )


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype("float32")


def answers(made: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    session = peer.session(made.SerializeToString(), 1, optimize=False)
    return np.concatenate([session.run(None, {"x": one[None]})[0] for one in given]).astype(np.float64)


def alone(model: Any, layer: str, given: np.ndarray, classes: bool) -> float:
    """What is lost with one layer quantized, by onnxruntime."""
    keep = tuple(f"^{name}$" for name in LAYERS if name != layer)
    small = model.compress(dlcomp.Quantize(correct_bias=False, keep=keep), calibration=given)
    now, was = answers(small.source, given), answers(model.source, given)
    if classes:
        return float((was * (np.log(was) - np.log(now))).sum(axis=-1).mean())
    return float(((now - was) ** 2).sum() / ((was - was.mean()) ** 2).sum())


MACS = {"stem": 144 * 8 * 27, "depthwise": 144 * 8 * 9, "pointwise": 144 * 16 * 8, "head": 144 * 16 * 5}


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("share", [0.99, 0.85, 0.7, 0.5, 0.2, 0.01])
def test_what_loses_most_for_its_macs_stays(share: float, classes: bool) -> None:
    model, given = dlcomp.load(network(classes=classes)), samples(4)
    small = model.compress(dlcomp.Quantize(integer_macs=share, correct_bias=False), calibration=given)
    prices = {name: alone(model, name, given, classes) / MACS[name] for name in LAYERS}
    left, expected = (1 - share) * sum(MACS.values()), []
    for name in sorted(LAYERS, key=lambda name: -prices[name]):
        if MACS[name] <= left:
            left -= MACS[name]
            expected.append(name)
    effect = small.history[-1].effect
    assert effect["kept"] == expected
    assert effect["layers"] == len(LAYERS) - len(expected)
    floats = {t.name for t in small.source.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    weights = dict(zip(LAYERS, ("w1", "w2", "w3", "w4"), strict=True))
    assert {name for name in LAYERS if weights[name] in floats} == set(expected)


@pytest.mark.parametrize(
    "options", ["", "rounding=gptq,", "rounding=gptq,sequential=yes,", "activations=int16,"]
)
def test_outputs_are_nearer_with_every_rounding(options: str) -> None:
    """The depthwise layer is a twelfth of the network, and nearly all of the error."""
    model, given, judged = dlcomp.load(network()), samples(8), samples(8, 1)
    right = answers(model.source, judged)
    errors = []
    for share in (1, 0.8):
        small = model.compress(parse(f"quantize:{options}integer_macs={share}"), calibration=given)
        errors.append(np.square(answers(small.source, judged) - right).mean())
    assert errors[1] < (1 if "int16" in options else 0.5) * errors[0]


def test_the_compiled_network_is_the_one_written() -> None:
    model, given = dlcomp.load(network()), samples(4)
    small = model.compress(dlcomp.Quantize(integer_macs=0.8), calibration=given)
    artifact = small.compile("host")
    found = np.concatenate([artifact.run({"x": one[None]})["y"] for one in given])
    np.testing.assert_allclose(found, answers(small.source, given), atol=2e-3)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        parse("quantize:integer_macs=0")
    with pytest.raises(UsageError, match="fixed ranges"):
        parse("quantize:activations=dynamic,integer_macs=0.8")
    with pytest.raises(ModelError, match="how much stem multiplies is not known"):
        dlcomp.load(network("h")).compress(dlcomp.Quantize(integer_macs=0.5), calibration=samples(2))
    model, some, budget = dlcomp.load(network()), samples(6), dlcomp.Budget(max_kl=0.1, goal="size")
    with pytest.raises(UsageError, match="as a budget does"):
        search(model, dlcomp.Quantize(integer_macs=0.5), budget, calibration=some)
