"""Recurrent layers of any size, direction and length against onnxruntime; whole networks with them."""

from __future__ import annotations

import dataclasses
from typing import Any

import networks
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.graph.recurrence import written_out

value = networks.value
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(
    kind: str,
    steps: int,
    batch: int,
    size: int,
    hidden: int,
    direction: str,
    lengths: bool,
    peepholes: bool = False,
    **attributes: Any,
) -> Any:
    """One layer with biases and an initial state; its inputs are x and, if asked for, the lengths."""
    rng = np.random.default_rng(steps * hidden + size)
    ways, rows = (2 if direction == "bidirectional" else 1), GATES[kind] * hidden
    shapes = {
        "w": (ways, rows, size),
        "r": (ways, rows, hidden),
        "b": (ways, 2 * rows),
        "h": (ways, batch, hidden),
    }
    names = ["x", "w", "r", "b", "lens" if lengths else "", "h"]
    if kind == "LSTM":
        shapes |= {"c": (ways, batch, hidden)}
        names += ["c"]
        if peepholes:
            shapes |= {"p": (ways, 3 * hidden)}
            names += ["p"]
    stored = [
        numpy_helper.from_array((rng.standard_normal(s) * 0.5).astype("float32"), n)
        for n, s in shapes.items()
    ]
    outputs = ["y", "y_h"] + (["y_c"] if kind == "LSTM" else [])
    node = helper.make_node(kind, names, outputs, hidden_size=hidden, direction=direction, **attributes)
    inputs = [value("x", [steps, batch, size])]
    inputs += [value("lens", [batch], TensorProto.INT32)] if lengths else []
    made = [value("y", [steps, ways, batch, hidden]), *(value(n, [ways, batch, hidden]) for n in outputs[1:])]
    return networks.model([node], inputs, made, weights=stored)


def check(network: Any, feed: dict[str, np.ndarray]) -> None:
    session = onnxruntime.InferenceSession(network.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = dlcomp.load(network).compile().run(feed)
    for name, right in zip(names, session.run(names, feed), strict=True):
        np.testing.assert_allclose(found[name], right, rtol=0, atol=2e-6 + 1e-5 * np.ptp(right))


DIRECTIONS = st.sampled_from(["forward", "reverse", "bidirectional"])


@settings(max_examples=24, deadline=None, derandomize=True)
@given(
    st.sampled_from(["LSTM", "GRU", "GRU after", "RNN"]),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(1, 150),
    DIRECTIONS,
)
def test_any_layer_is_one_kernel(
    kind: str, steps: int, batch: int, size: int, hidden: int, direction: str
) -> None:
    attributes = {"linear_before_reset": 1} if kind == "GRU after" else {}
    network = layer(kind.split()[0], steps, batch, size, hidden, direction, False, **attributes)
    x = np.random.default_rng(0).standard_normal((steps, batch, size)).astype("float32")
    check(network, {"x": x})
    kernels = dlcomp.load(network).compile().kernels
    assert sum("recurrence{" in kernel.schedule for kernel in kernels) == 1


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(1, 20),
    DIRECTIONS,
)
def test_sequences_of_different_lengths(
    kind: str, steps: int, batch: int, hidden: int, direction: str
) -> None:
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((steps, batch, 5)).astype("float32")}
    feed["lens"] = rng.integers(1, steps + 1, batch).astype("int32")
    check(layer(kind, steps, batch, 5, hidden, direction, True), feed)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("form", ["bidirectional", "after"])
def test_weights_that_come_with_the_run(kind: str, form: str) -> None:
    """Weights that are no constants are packed by the program itself."""
    direction = "bidirectional" if form == "bidirectional" else "forward"
    attributes = {"linear_before_reset": 1} if form == "after" and kind == "GRU" else {}
    network = layer(kind, 4, 3, 6, 21, direction, False, **attributes)
    feed = {"x": np.random.default_rng(0).standard_normal((4, 3, 6)).astype("float32")}
    for tensor in network.graph.initializer:
        array = numpy_helper.to_array(tensor)
        feed[tensor.name] = array
        network.graph.input.append(value(tensor.name, list(array.shape)))
    del network.graph.initializer[:]
    check(network, feed)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU after", "RNN"])
def test_kernels_agree_with_written_out_steps(kind: str) -> None:
    """What a target without kernels runs."""
    attributes = {"linear_before_reset": 1} if kind == "GRU after" else {}
    network = layer(kind.split()[0], 5, 3, 6, 21, "bidirectional", False, **attributes)
    model = dlcomp.load(network)
    plain = dataclasses.replace(model, module=written_out(model.module))
    x = np.random.default_rng(0).standard_normal((5, 3, 6)).astype("float32")
    left, right = (m.compile().run({"x": x}) for m in (model, plain))
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("size", [30.0, 1e4, 1e30, float("inf"), float("-inf")])
def test_saturated_gates(kind: str, size: float) -> None:
    network = layer(kind, 3, 2, 1, 5, "forward", False)
    check(network, {"x": np.full((3, 2, 1), size, "float32")})


def test_a_sequence_with_nan_spoils_no_other() -> None:
    network = layer("LSTM", 4, 3, 2, 9, "forward", False)
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype("float32")
    x[2, 1, 0] = np.nan
    y = dlcomp.load(network).compile().run({"x": x})["y"]
    assert np.isnan(y[2:, 0, 1]).all()
    assert np.isfinite(y[:2]).all()
    assert np.isfinite(y[:, 0, [0, 2]]).all()


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("GRU", {"linear_before_reset": 1}),
        ("LSTM", {"clip": 0.3}),
        ("LSTM", {"peepholes": True}),
        ("RNN", {"activations": ["Relu"]}),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Softsign"], "activation_alpha": [0.3]}),
    ],
)
def test_forms(kind: str, attributes: dict[str, Any]) -> None:
    x = np.random.default_rng(1).standard_normal((5, 2, 6)).astype("float32")
    check(layer(kind, 5, 2, 6, 8, "forward", False, **attributes), {"x": x})


def test_a_long_sequence_compiles_to_few_kernels() -> None:
    artifact = dlcomp.load(layer("LSTM", 100, 1, 16, 32, "forward", False)).compile()
    assert len(artifact.kernels) < 6


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 3, 1), (1, 1, 4)])
def test_convolutions_of_one_dimension(stride: int, dilation: int, groups: int) -> None:
    weight = numpy_helper.from_array(
        np.random.default_rng(2).standard_normal((8, 8 // groups, 3)).astype("float32"), "w"
    )
    attributes = {"strides": [stride], "dilations": [dilation], "group": groups, "pads": [2, 1]}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    network = networks.model([node], [value("x", [2, 8, 33])], [value("y", None)], weights=[weight])
    x = np.random.default_rng(3).standard_normal((2, 8, 33)).astype("float32")
    check(network, {"x": x})
    artifact = dlcomp.load(network).compile()
    assert any("{" in kernel.schedule for kernel in artifact.kernels)
