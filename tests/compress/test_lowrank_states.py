"""Low rank of what recurrent layers multiply their states with: metrics, factors, and networks with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lowrank import RNG, low, node, value, weight

import dlcomp
from dlcomp.compress.data import Calibration
from dlcomp.compress.lowrank.states import read_by, state_subjects
from dlcomp.compress.network import Network
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = 32
KINDS = [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})]


def recurrent(kind: str, direction: str, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    """A layer of ten steps whose recurrent weight has nearly rank 6."""
    ways, rows = 2 if direction == "bidirectional" else 1, GATES[kind] * HIDDEN
    stored = [weight("w", ways, rows, 8), low("r", ways, rows, HIDDEN), weight("h", ways, 1, HIDDEN)]
    # Every direction by itself has a low rank.
    whole = np.stack([onnx.numpy_helper.to_array(low("r", rows, HIDDEN)) for _ in range(ways)])
    stored[1] = networks.constant("r", whole * 0.2, "float32")
    stored += [weight("b", ways, 2 * rows)] if bias else []
    names = ["x", "w", "r", "b" if bias else "", "", "h"]
    made = node(kind, names, ["y"], name="layer", hidden_size=HIDDEN, direction=direction, **attributes)
    return networks.model([made], [value("x", [10, 1, 8])], [value("y", [10, ways, 1, HIDDEN])], stored)


def samples(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.standard_normal((10, 1, 8)).astype("float32")} for _ in range(count)]


def by_onnxruntime(network: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(peer.session(network.SerializeToString(), 1, optimize=False).run(None, feed)[0])


@pytest.mark.parametrize(("kind", "attributes"), KINDS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_third_of_the_states(kind: str, attributes: dict[str, Any], direction: str, bias: bool) -> None:
    """The network is standard ONNX, has that many weights less, and makes nearly what it made."""
    network = recurrent(kind, direction, bias, **attributes)
    model = dlcomp.load(network)
    pass_ = dlcomp.LowRank(method="whitened", of="parameters", targets={"layer_states": 0.6})
    small = model.compress(pass_, calibration=samples(40))
    (account,) = small.history[-1].effect["by_layer"].values()
    before, after = account["parameters"]
    assert after <= 0.6 * before
    onnx.checker.check_model(small.source, full_check=True)
    sizes = [sum(a.size for n, a in Network(m).weights.items() if a.ndim == 3) for m in (model, small)]
    assert sizes[0] - sizes[1] == before - after
    artifact = small.compile()
    for feed in samples(4):
        right, theirs = (by_onnxruntime(m, feed) for m in (network, small.source))
        found = artifact.run(feed)["y"]
        np.testing.assert_allclose(found, theirs, atol=1e-5)
        # Of nearly rank 6 a rank of 8 and more leaves little out.
        assert np.abs(theirs - right).mean() < 0.1 * np.abs(right).mean()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_what_steps_begin_with(direction: str, steps: int, batch: int, first: bool, batched: bool) -> None:
    """As a recurrence by hand meets its states; what it makes is what onnxruntime makes."""
    ways, hidden, rng = (2 if direction == "bidirectional" else 1), 3, np.random.default_rng(steps)
    w, r = (rng.standard_normal((ways, hidden, n)).astype("float32") for n in (2, hidden))
    x = rng.standard_normal((steps, batch, 2)).astype("float32")
    h = rng.standard_normal((ways, batch, hidden)).astype("float32")
    made = node("RNN", ["x", "w", "r", "", "", *(["h"] if first else [])], ["y"], hidden_size=hidden)
    made.attribute.extend(
        [networks.helper.make_attribute("direction", direction), networks.helper.make_attribute("layout", 0)]
    )
    met: list[list[np.ndarray]] = []
    every = np.zeros((steps, ways, batch, hidden), np.float32)
    for way in range(ways):
        state = h[way] if first else np.zeros((batch, hidden), np.float32)
        order = range(steps)[::-1] if direction == "reverse" or way else range(steps)
        met.append([])
        for step in order:
            met[-1].append(state)
            state = np.tanh(x[step] @ w[way].T + state @ r[way].T)
            every[step, way] = state
    layer = type("Layer", (), {"node": made})()
    begin = h if first else None
    if batched:
        made.attribute[-1].i = 1
        every, begin = every.transpose(2, 0, 1, 3), None if begin is None else begin.transpose(1, 0, 2)
    for found, right in zip(read_by(layer, every, begin), met, strict=True):
        np.testing.assert_array_equal(found, np.concatenate(right))


def test_the_metric_is_that_of_the_states() -> None:
    """Its covariance, from the states that onnxruntime makes."""
    network = recurrent("LSTM", "forward")
    model, feeds = dlcomp.load(network), samples(20)
    copy = Network(model)
    (subject,) = state_subjects(copy, Calibration(feeds, model.signature), {}, ())
    first = onnx.numpy_helper.to_array(network.graph.initializer[2])
    rows = [
        np.concatenate([first, by_onnxruntime(network, feed)[:-1, 0]]).reshape(-1, HIDDEN) for feed in feeds
    ]
    expected = np.cov(np.concatenate(rows).T, bias=True)
    np.testing.assert_allclose(subject.metric, expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(subject.mean, np.concatenate(rows).mean(axis=0), atol=1e-5)


def test_layers_whose_states_nobody_reads() -> None:
    """Two layers that hand on their last state alone are told apart."""
    stored = [weight("w1", 1, 128, 8), low("r1", 128, 32), weight("w2", 1, 128, 32), low("r2", 128, 32)]
    for place in (1, 3):
        array = onnx.numpy_helper.to_array(stored[place])[None]
        stored[place] = networks.constant(stored[place].name, array * 0.2, "float32")
    nodes = [
        node("LSTM", ["x", "w1", "r1"], ["", "a"], name="first", hidden_size=32),
        node("LSTM", ["a", "w2", "r2"], ["", "y"], name="second", hidden_size=32),
    ]
    network = networks.model(nodes, [value("x", [6, 1, 8])], [value("y", [1, 1, 32])], stored)
    feeds = [{"x": RNG.standard_normal((6, 1, 8)).astype("float32")} for _ in range(40)]
    small = dlcomp.load(network).compress(
        dlcomp.LowRank(method="whitened", of="parameters", target=0.6), calibration=feeds
    )
    assert {"first_states", "second_states"} <= set(small.history[-1].effect["by_layer"])
    found, right = by_onnxruntime(small.source, feeds[0]), by_onnxruntime(network, feeds[0])
    assert np.abs(found - right).mean() < 0.2 * np.abs(right).mean()


def test_what_stays_whole() -> None:
    """A GRU whose gates read different states, sequence lengths, a name to keep, and states=no."""
    plain = recurrent("LSTM", "forward")
    kept = [
        (recurrent("GRU", "forward"), {}),
        (recurrent("LSTM", "forward", clip=3.0), {}),
        (plain, {"keep": ("^layer$",)}),
        (plain, {"states": False}),
    ]
    for network, options in kept:
        model = dlcomp.load(network)
        copy = Network(model)
        pass_ = dlcomp.LowRank(method="svd", data=False, **options)
        assert not [s for s in pass_._subjects(copy, None) if s.title == "layer_states"]


def test_a_factored_layer_is_compressed_further() -> None:
    model = dlcomp.load(FASHION / "lstm.onnx", {"image": (1, 1, 28, 28)})
    images = np.clip(RNG.random((32, 1, 28, 28)), 0, 1).astype("float32")
    small = model.compress(dlcomp.LowRank(target=0.4, of="parameters"), dlcomp.Quantize(), calibration=images)
    assert any(name.endswith("_states") for name in small.history[1].effect["by_layer"])
    (theirs,) = peer.session(small.source.SerializeToString(), 1, optimize=False).run(
        None, {"image": images[:1]}
    )
    found = small.compile("host").run({"image": images[:1]})["logits"]
    np.testing.assert_allclose(found, theirs, atol=0.02 * np.abs(theirs).max())
