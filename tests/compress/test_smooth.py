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
from dlcomp.compress.smooth.choose import Inputs, Reader, choose
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


def convolutions(channels: int, before: str, kernel: int, groups: int, seed: int) -> onnx.ModelProto:
    """A convolution of what ``before`` makes, of which a channel is an outlier, and another behind it."""
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.5, 1.5, (channels, 1, 1))
    gain[rng.integers(channels)] *= 60
    stored = {
        "gain": gain, "half": np.array([0.5]), "shift": np.array([0.25]),
        "w0": rng.standard_normal((channels, 2, 1, 1)) * gain[..., None], "b0": rng.standard_normal(channels),
        "w1": rng.standard_normal((2 * channels, channels // groups, kernel, kernel)),
        "w2": rng.standard_normal((4, 2 * channels, 1, 1)),
    }  # fmt: skip
    makers = {
        "Conv": [node("Conv", ["x", "w0", "b0"], ["h"], name="zeroth")],
        "affine": [
            node("Conv", ["x", "w0", "b0"], ["c"], name="zeroth"),
            node("HardSwish", ["c"], ["s"]),
            node("Mul", ["half", "s"], ["m"]),
            node("Add", ["m", "shift"], ["h"]),
        ],
        "pooled": [
            node("Conv", ["x", "w0", "b0"], ["c"], name="zeroth"),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["h"], kernel_shape=[2, 2]),
        ],
        "Sigmoid": [
            node("Conv", ["x", "w0", "b0"], ["c"], name="zeroth"),
            node("Sigmoid", ["c"], ["s"]),
            node("Mul", ["c", "s"], ["h"]),
        ],
    }
    nodes = [
        *makers[before],
        node("Conv", ["h", "w1"], ["p"], pads=[kernel // 2] * 4, group=groups, name="first"),
        node("Relu", ["p"], ["q"]),
        node("Conv", ["q", "w2"], ["y"], name="second"),
    ]
    used = {name for n in nodes for name in n.input}
    weights = [numpy_helper.from_array(a.astype("float32"), n) for n, a in stored.items() if n in used]
    extent = [1, 4, 5, 5] if before == "pooled" else [1, 4, 6, 6]
    return networks.model(nodes, [value("x", [1, 2, 6, 6])], [value("y", extent)], weights, opset=17)


CONVOLUTIONS = {"Conv": 2, "affine": 2, "pooled": 2, "Sigmoid": 1}


@given(
    st.sampled_from(sorted(CONVOLUTIONS)), st.integers(1, 4), st.sampled_from([1, 3]),
    st.sampled_from(["one", "two", "all"]), st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None, max_examples=10)
def test_outputs_of_convolutions_stay(before: str, half: int, kernel: int, groups: str, seed: int) -> None:
    channels = 2 * half
    network = convolutions(channels, before, kernel, {"one": 1, "two": 2, "all": channels}[groups], seed)
    samples = np.random.default_rng(seed).standard_normal((4, 2, 6, 6)).astype("float32")
    small = dlcomp.load(network).compress(dlcomp.Smooth(alpha=0.5, keep=("zeroth",)), calibration=samples)
    effect = small.history[-1].effect
    assert (effect["folded"], effect["inserted"]) == (CONVOLUTIONS[before], 2 - CONVOLUTIONS[before])
    right = run(network, samples)
    np.testing.assert_allclose(run(small.source, samples), right, rtol=1e-4, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize("before", sorted(CONVOLUTIONS))
def test_depthwise_channels_cost_the_weights_nothing(before: str) -> None:
    """Nearly all of their ranges goes into them, and each channel gets nearly all of the integers."""
    network = dlcomp.load(convolutions(16, before, 3, 16, 3))
    rng = np.random.default_rng(0)
    data, samples = (rng.standard_normal((n, 2, 6, 6)).astype("float32") for n in (64, 32))
    smoothed = network.compress(dlcomp.Smooth(keep=("zeroth", "second")), calibration=data)
    assert len(smoothed.history[-1].effect["alpha"]) == 1
    right = run(network.source, samples)
    errors = []
    for model in (network, smoothed):
        small = model.compress(dlcomp.Quantize(method="minmax", keep=("zeroth", "second")), calibration=data)
        errors.append(float(np.square(run(small.source, samples) - right).mean()))
    assert errors[1] < 0.5 * errors[0], errors


def test_a_small_gain_is_no_multiplication_worth() -> None:
    """Channels of nearly the same range behind a function: a Mul in front would save next to nothing."""
    network = convolutions(16, "Sigmoid", 1, 1, 0)
    rng = np.random.default_rng(0)
    for tensor in network.graph.initializer:
        like = rng.uniform(0.95, 1.05, list(tensor.dims)).astype("float32")
        if tensor.name == "w1":
            like = np.sign(like - 1)
        if tensor.name != "w2":
            tensor.CopyFrom(numpy_helper.from_array(like, tensor.name))
    samples = rng.standard_normal((16, 2, 6, 6)).astype("float32")
    small = dlcomp.load(network).compress(dlcomp.Smooth(keep=("zeroth", "second")), calibration=samples)
    assert small.history[-1].effect["as_they_were"] == 1


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
    even = Inputs(-np.ones(48), np.ones(48))
    alpha, factor, left = choose([Reader(np.sign(weight)[None], np.eye(48)[None] / 3)], even, None, 8)
    assert (alpha, left) == (None, 1.0)
    assert (factor == 1).all()
    high = np.where(np.arange(48) < 2, 80.0, 1.0)
    reader = Reader(weight[None], np.diag(high**2)[None] / 3)
    alpha, factor, left = choose([reader], Inputs(-high, high), None, 8)
    assert alpha is not None
    assert left < 0.5
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
    with pytest.raises(ModelError, match="no product with a stored matrix and no convolution"):
        dlcomp.load(networks.relu()).compress(dlcomp.Smooth(), calibration=np.zeros((4, 4), "float32"))
