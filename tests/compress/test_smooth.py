"""Smoothed networks: they compute what they did, by onnxruntime, and outliers spoil no integers."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.compress.smooth.choose import Inputs, choose
from dlcomp.errors import ModelError, UsageError
from dlcomp.runtime import peer

node, value = helper.make_node, networks.value


def block(size: int, before: str, seed: int, transposed: int = 0) -> onnx.ModelProto:
    """Two products of what ``before`` makes, of which two inputs are outliers, and another behind a ReLU."""
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.5, 1.5, size)
    gain[rng.choice(size, min(2, size), replace=False)] *= 60
    stored = {
        "gain": gain, "shift": rng.standard_normal(size) * gain, "eps": np.array(1.0),
        "w0": rng.standard_normal((size, size)) * gain, "w1": rng.standard_normal((size, 3)),
        "w2": rng.standard_normal((5, size) if transposed else (size, 5)), "b2": rng.standard_normal(5),
        "w3": rng.standard_normal((5, 2)),
    }  # fmt: skip
    makers = {
        "LayerNormalization": [node("LayerNormalization", ["x", "gain", "shift"], ["h"], axis=-1)],
        "Add": [node("Mul", ["gain", "x"], ["g"]), node("Add", ["g", "shift"], ["h"])],
        "MatMul": [
            node("MatMul", ["x", "w0"], ["g"], name="zeroth"),
            node("Add", ["shift", "g"], ["k"]),
            node("Relu", ["k"], ["h"]),
        ],
        "Gemm": [node("Gemm", ["x", "w0", "shift"], ["h"], name="zeroth")],
        "residual": [node("LayerNormalization", ["x", "gain", "shift"], ["h"])],
        "Sigmoid": [node("Sigmoid", ["x"], ["g"]), node("Mul", ["g", "x"], ["h"])],
        "input": [node("Identity", ["x"], ["h"])],
    }  # fmt: skip
    nodes = [
        *makers[before],
        node("MatMul", ["h", "w1"], ["p"], name="first"),
        node("Gemm", ["h", "w2", "b2"], ["q"], transB=transposed, name="second"),
        node("Relu", ["q"], ["r"]),
        node("MatMul", ["r", "w3"], ["s"], name="third"),
        node("Concat", ["p", "s", *(["h"] if before == "residual" else [])], ["y"], axis=-1),
    ]
    used = {name for n in nodes for name in n.input}
    weights = [numpy_helper.from_array(a.astype("float32"), n) for n, a in stored.items() if n in used]
    width = 5 + (size if before == "residual" else 0)
    return networks.model(nodes, [value("x", [1, size])], [value("y", [1, width])], weights, opset=17)


def run(network: onnx.ModelProto | None, samples: np.ndarray) -> np.ndarray:
    assert network is not None
    session = peer.session(network.SerializeToString(), 1, optimize=False)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


FOLDS = {"LayerNormalization": 2, "Add": 2, "MatMul": 2, "Gemm": 2, "residual": 1, "Sigmoid": 1, "input": 1}


@given(st.sampled_from(sorted(FOLDS)), st.integers(1, 12), st.sampled_from([0, 1]), st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_outputs_stay(before: str, size: int, transposed: int, seed: int) -> None:
    """With any exponent; factors go into what is before, and in front of the rest as a Mul."""
    network = block(size, before, seed, transposed)
    samples = np.random.default_rng(seed).standard_normal((8, size)).astype("float32")
    small = dlcomp.load(network).compress(dlcomp.Smooth(alpha=0.5, keep=("zeroth",)), calibration=samples)
    effect = small.history[-1].effect
    assert effect["folded"] + effect["inserted"] == 2
    right = run(network, samples)
    np.testing.assert_allclose(run(small.source, samples), right, rtol=1e-4, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize("before", sorted(FOLDS))
def test_where_the_factors_go(before: str) -> None:
    network = dlcomp.load(block(16, before, 0))
    samples = np.random.default_rng(0).standard_normal((64, 16)).astype("float32")
    small = network.compress(dlcomp.Smooth(alpha=0.5, keep=("zeroth",)), calibration=samples)
    effect = small.history[-1].effect
    assert (effect["folded"], effect["inserted"]) == (FOLDS[before], 2 - FOLDS[before])
    strict = network.compress(dlcomp.Smooth(alpha=0.5, insert=False, keep=("zeroth",)), calibration=samples)
    assert strict.history[-1].effect["inserted"] == 0
    assert strict.history[-1].effect["as_they_were"] == 2 - FOLDS[before]


@pytest.mark.parametrize("before", ["LayerNormalization", "residual"])
def test_integers_are_nearer_afterwards(before: str) -> None:
    """Two inputs sixty times as large as the others: one grid for all loses most of what the others say."""
    network = dlcomp.load(block(64, before, 1))
    rng = np.random.default_rng(0)
    data, samples = (rng.standard_normal((n, 64)).astype("float32") for n in (256, 64))
    right = run(network.source, samples)[:, :5]
    errors = []
    for passes in ((), (dlcomp.Smooth(),)):
        small = network.compress(*passes, dlcomp.Quantize(method="minmax"), calibration=data)
        errors.append(float(np.square(run(small.source, samples)[:, :5] - right).mean()))
    assert errors[1] < 0.5 * errors[0], errors


def test_the_exponent_is_the_best_tried() -> None:
    """Of even inputs none is better than the weights as they are; of outliers, one is."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 48))
    even = Inputs(-np.ones(48), np.ones(48), np.eye(48) / 3)
    alpha, factor = choose([np.sign(weight)], even, None, 8)
    assert alpha is None
    assert (factor == 1).all()
    high = np.where(np.arange(48) < 2, 80.0, 1.0)
    alpha, factor = choose([weight], Inputs(-high, high, np.diag(high**2) / 3), None, 8)
    assert alpha is not None
    assert factor[:2].min() > 3 * factor[2:].max()


def test_dead_inputs() -> None:
    network = block(8, "Add", 0)
    samples = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
    next(t for t in network.graph.initializer if t.name == "gain").raw_data = np.zeros(8, "float32").tobytes()
    next(t for t in network.graph.initializer if t.name == "shift").raw_data = np.zeros(
        8, "float32"
    ).tobytes()
    small = dlcomp.load(network).compress(dlcomp.Smooth(alpha=0.5, keep=("zeroth",)), calibration=samples)
    np.testing.assert_allclose(run(small.source, samples), run(network, samples), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "options"), [("smooth", {}), ("smooth:alpha=0.6,insert=no", {"alpha": 0.6, "insert": False})]
)
def test_as_text(text: str, options: dict[str, Any]) -> None:
    assert parse(text) == dlcomp.Smooth(**options)


@pytest.mark.parametrize(("text", "reason"), [
    ("smooth:alpha=2", "alpha is from 0 to 1"), ("smooth:bits=9", "2 to 8 bits"),
])  # fmt: skip
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


def test_a_network_without_products() -> None:
    with pytest.raises(ModelError, match="no product with a stored matrix"):
        dlcomp.load(networks.relu()).compress(dlcomp.Smooth(), calibration=np.zeros((4, 4), "float32"))
