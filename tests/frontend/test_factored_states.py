"""Recurrent layers whose recurrent weight is a product of two stored ones, against onnxruntime."""

from __future__ import annotations

import dataclasses
from typing import Any

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from test_recurrent import DIRECTIONS, check, layer

import dlcomp
from dlcomp.graph.recurrence import written_out

value = networks.value
KINDS = {"LSTM": {}, "GRU": {}, "GRU after": {"linear_before_reset": 1}, "RNN": {}}


def factored(
    kind: str, steps: int, batch: int, hidden: int, rank: int, direction: str, lengths: bool = False
) -> Any:
    """A layer of :func:`test_recurrent.layer` with other states' weights: ``left`` times ``right``."""
    made = layer(kind.split()[0], steps, batch, 6, hidden, direction, lengths, **KINDS[kind])
    (whole,) = (tensor for tensor in made.graph.initializer if tensor.name == "r")
    directions, rows, _ = whole.dims
    made.graph.initializer.remove(whole)
    rng = np.random.default_rng(rank)
    for name, shape in (("left", (directions, rows, rank)), ("right", (directions, rank, hidden))):
        array = (rng.standard_normal(shape) / np.sqrt(shape[2])).astype("float32")
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    made.graph.node.insert(0, helper.make_node("MatMul", ["left", "right"], ["r"]))
    return made


def feed(steps: int, batch: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((steps, batch, 6)).astype("float32")}


def stored(network: Any) -> set[tuple[int, ...]]:
    """Shapes of what an artifact holds."""
    return {array.shape for array in dlcomp.load(network).compile().weights}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(KINDS)),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 150),
    st.integers(1, 60),
    DIRECTIONS,
)
def test_any_rank_is_one_kernel(
    kind: str, steps: int, batch: int, hidden: int, rank: int, direction: str
) -> None:
    network = factored(kind, steps, batch, hidden, rank, direction)
    check(network, feed(steps, batch))
    kernels = dlcomp.load(network).compile().kernels
    assert sum("recurrence{" in kernel.schedule for kernel in kernels) == 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU after", "RNN"])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_factors_stay_apart(kind: str, batch: int) -> None:
    """What is stored are the factors: in an artifact they take less than the weight that they make."""
    network = factored(kind, 3, batch, 128, 16, "bidirectional")
    artifact = dlcomp.load(network).compile()
    gates = {"LSTM": 4, "GRU after": 3, "RNN": 1}[kind]
    assert not any("batch" in kernel.name for kernel in artifact.kernels), "it multiplies them at each run"
    inputs = 2 * gates * 128 * (6 + 2) + 6 * 2 * batch * 128
    assert sum(array.size for array in artifact.weights) <= 2 * (gates + 1) * 128 * 16 + inputs


@pytest.mark.parametrize("kind", ["LSTM", "GRU after", "RNN"])
def test_kernels_agree_with_written_out_steps(kind: str) -> None:
    model = dlcomp.load(factored(kind, 5, 3, 21, 4, "bidirectional"))
    plain = dataclasses.replace(model, module=written_out(model.module))
    left, right = (m.compile().run(feed(5, 3)) for m in (model, plain))
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers_without_a_kernel(kind: str) -> None:
    """Sequence lengths are written out step by step, from the product of the factors."""
    network = factored(kind, 5, 3, 12, 2, "forward", lengths=True)
    check(network, feed(5, 3) | {"lens": np.array([5, 1, 3], "int32")})


def test_open_sizes() -> None:
    network = factored("LSTM", 4, 1, 24, 5, "forward")
    fixed = dlcomp.load(network).compile()
    for dim, name in zip(network.graph.input[0].type.tensor_type.shape.dim[:1], ["steps"], strict=True):
        dim.dim_param = name
    artifact = dlcomp.load(network).compile()
    np.testing.assert_allclose(artifact.run(feed(4, 1))["y"], fixed.run(feed(4, 1))["y"], atol=2e-6)
    assert artifact.run(feed(9, 1))["y"].shape == (9, 1, 1, 24)


def test_factors_that_save_nothing_are_multiplied() -> None:
    """16 * 64 weights are a rank of 12: from there on the kernel gets the whole of them, one block."""
    assert (1, 1, 16, 64) not in stored(factored("LSTM", 3, 1, 16, 12, "forward"))
    assert (1, 1, 16, 64) in stored(factored("LSTM", 3, 1, 16, 13, "forward"))


def test_a_product_with_other_readers() -> None:
    """It is computed once, when the network is compiled."""
    network = factored("LSTM", 3, 1, 16, 4, "forward")
    network.graph.node.append(helper.make_node("Relu", ["r"], ["positive"]))
    network.graph.output.append(value("positive", [1, 64, 16]))
    check(network, feed(3, 1))
