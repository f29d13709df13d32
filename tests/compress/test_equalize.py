"""Equalized networks: they compute what they did, by onnxruntime, and one scale suits all channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import dlcomp
from dlcomp.compress.equalize.pairs import by_inputs, by_outputs, pairs_of, scale_channels
from dlcomp.compress.layers import weight_of
from dlcomp.compress.network import Network
from dlcomp.compress.recipe import parse
from dlcomp.errors import ModelError, UsageError
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
node, value = helper.make_node, networks.value


def uneven(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """A weight whose output channels differ by a factor of up to a thousand."""
    spread = 10 ** rng.uniform(-2, 1, (shape[0], *[1] * (len(shape) - 1)))
    return (rng.standard_normal(shape) * spread).astype("float32")


def chain(
    channels: int, multiplier: int, between: str, seed: int, pads: int = 1, head: str = "Flatten"
) -> onnx.ModelProto:
    """Convolutions (plain, depthwise, pointwise) and a classifier, ``between`` behind the first two."""
    rng = np.random.default_rng(seed)
    c, d = channels, channels * multiplier
    stored = {
        "w1": uneven(rng, c, 2, 3, 3), "b1": uneven(rng, c),
        "w2": uneven(rng, d, 1, 3, 3), "b2": uneven(rng, d),
        "w3": uneven(rng, 5, d, 1, 1), "b3": uneven(rng, 5), "w4": uneven(rng, 4, 5),
        "zero": np.float32(0), "six": np.float32(6), "slope": np.float32(0.25),
    }  # fmt: skip
    extra = {"Clip": ["zero", "six"]}.get(between, [])
    size = 8 if pads else 4
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[pads] * 4, name="stem"),
        node(between, ["a", *extra], ["a2"]),
        node("Conv", ["a2", "w2", "b2"], ["b"], pads=[pads] * 4, group=c, name="depthwise"),
        node(between, ["b", *extra], ["b2_"]),
        node("Conv", ["b2_", "w3", "b3"], ["c"], name="pointwise"),
        node("Relu", ["c"], ["c2"]),
    ]
    if head == "Pool":
        nodes += [node("GlobalAveragePool", ["c2"], ["d"]), node("Flatten", ["d"], ["e"])]
    else:
        stored["w4"] = uneven(rng, 4, 5 * size * size)
        nodes.append(node("Flatten", ["c2"], ["e"]))
    nodes.append(node("Gemm", ["e", "w4"], ["y"], transB=1, name="head"))
    used = {name for n in nodes for name in n.input}
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items() if n in used]
    return networks.model(nodes, [value("x", [1, 2, 8, 8])], [value("y", [1, 4])], weights)


def run(network: onnx.ModelProto | None, samples: np.ndarray) -> np.ndarray:
    assert network is not None
    session = peer.session(network.SerializeToString(), 1, optimize=False)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


def near(found: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(found - right).max() <= 1e-4 * np.abs(right).max())


@given(
    st.integers(1, 7), st.integers(1, 2), st.sampled_from(["Relu", "LeakyRelu", "Clip", "Identity"]),
    st.sampled_from(["Flatten", "Pool"]), st.sampled_from([0, 1]), st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_outputs_stay(channels: int, multiplier: int, between: str, head: str, pads: int, seed: int) -> None:
    network = chain(channels, multiplier, between, seed, pads, head)
    samples = np.random.default_rng(seed).standard_normal((4, 2, 8, 8)).astype("float32") * 3
    small = dlcomp.load(network).compress(dlcomp.Equalize())
    assert small.history[-1].effect["pairs"] == 3
    assert near(run(small.source, samples), run(network, samples))


@pytest.mark.parametrize("between", ["Relu", "Clip"])
def test_ranges_are_equal_afterwards(between: str) -> None:
    """Of every channel between two layers: that of the one which makes it and of the one that reads it.

    A depthwise convolution in the middle has that of both neighbours, the cube root of the three.
    """
    before, after = (Network(dlcomp.load(chain(6, 1, between, 3))) for _ in range(2))
    dlcomp.Equalize(clip="relu", keep=("head",)).rewrite(after, None)
    found = list(pairs_of(after))[:2]
    product = np.abs(before.weights["w1"]).max(axis=(1, 2, 3)) * np.abs(before.weights["w2"]).max(
        axis=(1, 2, 3)
    )
    product *= np.abs(before.weights["w3"]).max(axis=(0, 2, 3))
    for pair in found:
        for made in (by_outputs(after, pair.first)[..., None, None], by_inputs(after, pair.second)):
            axes = (1, 2, 3) if made.shape[2:] == (1, 1) and made.shape[0] == 6 else (1, 3)
            np.testing.assert_allclose(np.abs(made).max(axis=axes).reshape(-1), np.cbrt(product), rtol=0.01)


def test_dead_channels_and_shared_weights() -> None:
    rng = np.random.default_rng(0)
    w = uneven(rng, 4, 4, 3, 3)
    w[1] = 0
    w[:, 2] = 0
    stored = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(uneven(rng, 4), "b")]
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], pads=[1] * 4, name="one"),
        node("Relu", ["a"], ["c"]),
        node("Conv", ["c", "w", "b"], ["y"], pads=[1] * 4, name="two"),
    ]
    network = networks.model(nodes, [value("x", [1, 4, 5, 5])], [value("y", [1, 4, 5, 5])], stored)
    samples = rng.standard_normal((4, 4, 5, 5)).astype("float32")
    small = dlcomp.load(network).compress(dlcomp.Equalize())
    assert near(run(small.source, samples), run(network, samples))


@pytest.mark.parametrize("reader", ["output", "branch", "Sigmoid"])
def test_what_others_read_stays(reader: str) -> None:
    """No pair where the value between is an output, is read by a branch, or passes a sigmoid."""
    rng = np.random.default_rng(0)
    stored = [numpy_helper.from_array(uneven(rng, 3, 3, 1, 1), n) for n in ("w1", "w2")]
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("Sigmoid" if reader == "Sigmoid" else "Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"]),
        node("Add", ["c", "b" if reader == "branch" else "x"], ["y"]),
    ]
    ends = [value("y", [1, 3, 2, 2])] + ([value("b", [1, 3, 2, 2])] if reader == "output" else [])
    network = networks.model(nodes, [value("x", [1, 3, 2, 2])], ends, stored)
    with pytest.raises(ModelError, match="no two convolutions"):
        dlcomp.load(network).compress(dlcomp.Equalize())


def test_clips_that_are_kept() -> None:
    """With ``clip=keep`` no ReLU6 changes; with ``relu`` it goes."""
    network = dlcomp.load(chain(4, 1, "Clip", 0))
    kept = network.compress(dlcomp.Equalize(clip="keep"))
    assert kept.source is not None
    assert [n.op_type for n in kept.source.graph.node].count("Clip") == 2
    assert kept.history[-1].effect["pairs"] == 1
    gone = network.compress(dlcomp.Equalize(clip="relu"))
    assert gone.source is not None
    assert not {"Clip", "Min"} & {n.op_type for n in gone.source.graph.node}


def test_high_biases_move_on() -> None:
    """Where a ReLU always passes at least c, the next layer takes c over; outputs stay."""
    rng = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(rng.standard_normal((6, 3, 1, 1)).astype("float32"), "w1"),
        numpy_helper.from_array(np.array([40, 0, 30, -2, 0, 50], "float32"), "b1"),
        numpy_helper.from_array(rng.standard_normal((4, 6, 1, 1)).astype("float32"), "w2"),
    ]
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["y"]),
    ]
    network = networks.model(nodes, [value("x", [1, 3, 4, 4])], [value("y", [1, 4, 4, 4])], stored)
    samples = rng.uniform(-1, 1, (16, 3, 4, 4)).astype("float32")
    small = dlcomp.load(network).compress(dlcomp.Equalize(absorb=True), calibration=samples)
    assert small.history[-1].effect["absorbed"] == 3
    assert near(run(small.source, samples), run(network, samples))
    with pytest.raises(UsageError, match="needs inputs"):
        dlcomp.load(network).compress(dlcomp.Equalize(absorb=True))


def test_the_trap_of_depthwise_convolutions() -> None:
    """Channels of unlike ranges: with one scale the outputs are lost, and come back by equalization."""
    rng = np.random.default_rng(0)
    whole = dlcomp.load(FASHION / "dscnn.onnx", {"image": (1, 1, 28, 28)})
    # Without the bounds of ReLU6, so that channels may have any range.
    even = whole.compress(dlcomp.Equalize(clip="relu"))
    network = Network(even)
    for pair in pairs_of(network):
        channels = weight_of(network, pair.first).shape[0]
        scale_channels(network, pair, 10 ** rng.uniform(-1, 1, channels))
    model = dlcomp.load(network.proto)
    samples = rng.random((48, 1, 28, 28)).astype("float32") ** 3
    right = run(even.source, samples)
    assert near(run(model.source, samples), right)
    errors = []
    for passes in ((), (dlcomp.Equalize(),)):
        small = model.compress(*passes, dlcomp.Quantize(per_channel=False), calibration=samples)
        errors.append(float(np.square(run(small.source, samples) - right).mean() / np.var(right)))
    assert errors[0] > 0.3
    assert errors[1] < 0.03


@pytest.mark.parametrize("name", ["lenet5", "dscnn", "resnet8"])
def test_trained_networks(name: str) -> None:
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    samples = np.random.default_rng(0).random((8, 1, 28, 28)).astype("float32")
    small = model.compress(dlcomp.Equalize())
    assert near(run(small.source, samples), run(model.source, samples))
    assert near(small.compile().run({"image": samples[:1]})["logits"], run(model.source, samples[:1]))


@pytest.mark.parametrize(
    ("text", "options"),
    [("equalize", {}), ("equalize:clip=relu,absorb=yes", {"clip": "relu", "absorb": True})],
)
def test_as_text(text: str, options: dict[str, Any]) -> None:
    assert parse(text) == dlcomp.Equalize(**options)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="clip cannot be 'six'"):
        parse("equalize:clip=six")
