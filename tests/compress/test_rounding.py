"""Rounding of weights: against all roundings of small layers, and on trained networks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import dlcomp
from dlcomp.compress.quantize.adaround import adaptive
from dlcomp.compress.quantize.rounding import Rounding
from dlcomp.compress.recipe import parse
from dlcomp.compress.rounding import descended, in_order
from dlcomp.errors import UsageError
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"


def problem(outputs: int, inputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights in steps, and the second moment of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((4 * inputs, inputs)) @ rng.standard_normal((inputs, inputs))
    hessian = data.T @ data / len(data)
    return rng.uniform(-6, 6, (outputs, inputs)), hessian + 0.01 * np.trace(hessian) / inputs * np.eye(inputs)


def error(change: np.ndarray, hessian: np.ndarray) -> float:
    return float(np.einsum("ok,kl,ol->", change, hessian, change))


def to_integers(column: np.ndarray, _: int) -> np.ndarray:
    return np.clip(np.rint(column), -7, 7)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 64), st.booleans(), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_blocks_change_nothing(outputs: int, inputs: int, block: int, by_size: bool, seed: int) -> None:
    weights, hessian = problem(outputs, inputs, seed)
    found = in_order(weights, hessian, to_integers, by_size, block)
    np.testing.assert_array_equal(found, in_order(weights, hessian, to_integers, by_size, inputs))
    assert np.array_equal(found, np.rint(found))
    assert np.abs(found).max() <= 7


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_that_of_the_optimal_brain_surgeon(seed: int) -> None:
    """Each step is the least squares fit of all inputs still to come, which is solved here from scratch."""
    weights, hessian = problem(3, 9, seed)
    for by_size in (False, True):
        order = np.argsort(-np.diag(hessian)) if by_size else np.arange(9)
        right = weights.copy()
        for step, place in enumerate(order):
            now, rest = order[: step + 1], order[step + 1 :]
            right[:, place] = to_integers(right[:, place], place)
            # What has been rounded is given; the others minimise the error of the outputs.
            change = (weights - right)[:, now] @ hessian[np.ix_(now, rest)]
            right[:, rest] = weights[:, rest] + np.linalg.solve(hessian[np.ix_(rest, rest)], change.T).T
        np.testing.assert_array_equal(in_order(weights, hessian, to_integers, by_size), right)


def test_near_the_best_of_all_roundings() -> None:
    """Up or down of 10 weights, 1024 ways: in half the cases AdaRound is the best or the second."""
    better, than_nearest = [], []
    for seed in range(40):
        weights, hessian = problem(1, 10, seed)
        floor = np.floor(weights)
        every = [
            error(floor + np.array(up) - weights, hessian) for up in itertools.product((0, 1), repeat=10)
        ]
        found = adaptive(weights[None], hessian[None], np.rint(weights)[None], -127, 127, 500)[0]
        for ranks, made in ((better, found), (than_nearest, np.rint(weights))):
            ranks.append(int((np.array(every) < error(made - weights, hessian) * (1 - 1e-9)).sum()))
    assert np.median(better) <= 1, better
    assert sum(better) < 0.1 * sum(than_nearest), (better, than_nearest)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_a_descent_never_climbs(outputs: int, inputs: int, seed: int) -> None:
    weights, hessian = problem(outputs, inputs, seed)
    start = np.clip(np.rint(weights), -3, 3)
    errors = [error(descended(weights, start, hessian, -3, 3, n) - weights, hessian) for n in range(4)]
    assert all(b <= a * (1 + 1e-9) + 1e-12 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("bits", [2, 4])
def test_methods_in_order(bits: int) -> None:
    """On layers whose inputs depend on each other, GPTQ errs less than the nearest and AdaRound less yet."""
    most, sums = 2 ** (bits - 1) - 1, np.zeros(3)
    for seed in range(6):
        weights, hessian = problem(8, 48, seed)
        weights = weights * most / 6
        nearest = np.clip(np.rint(weights), -most, most)
        gptq = in_order(weights, hessian, lambda column, _: np.clip(np.rint(column), -most, most))
        up = adaptive(weights[None], hessian[None], gptq[None], -most, most, 300)[0]
        assert np.abs(up).max() <= most
        sums += [error(made - weights, hessian) for made in (nearest, gptq, up)]
    assert sums[1] < 0.8 * sums[0]
    assert sums[2] < 0.95 * sums[1]


def logits(model: Any, samples: np.ndarray) -> np.ndarray:
    artifact = model.compile()
    return np.concatenate([artifact.run({"image": one[None]})["logits"] for one in samples])


@pytest.mark.parametrize("name", [pytest.param("lenet5", marks=pytest.mark.slow), "dscnn"])
def test_trained_networks_of_three_bits(name: str) -> None:
    """Logits are nearer with the Hessians than without; the weights stay integers of three bits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    centres = rng.uniform(6, 22, (80, 2, 1, 1))
    spread = rng.uniform(10, 60, (80, 1, 1))
    images = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / spread)[:, None].astype(
        "float32"
    )
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    right = logits(model, images[64:])
    errors = {}
    for rounding in ("nearest", "gptq", "adaround"):
        small = model.compress(
            dlcomp.Quantize(bits=3, weight_search=True, rounding=rounding), calibration=images[:64]
        )
        assert small.source is not None
        stored = [numpy_helper.to_array(t) for t in small.source.graph.initializer]
        assert all(np.abs(a.astype(int)).max() <= 3 for a in stored if a.dtype == np.int8 and a.ndim > 1)
        errors[rounding] = float(np.square(logits(small, images[64:]) - right).mean())
    assert errors["gptq"] < 0.7 * errors["nearest"]
    assert errors["adaround"] < 0.7 * errors["nearest"]


@pytest.mark.parametrize("rounding", [pytest.param("nearest", marks=pytest.mark.slow), "gptq"])
def test_layers_in_turn(rounding: str) -> None:
    """Errors of 2 bits do not add up where each layer sees those of the layers before it."""
    rng = np.random.default_rng(1)
    images = rng.random((80, 1, 28, 28)).astype("float32") ** 4
    model = dlcomp.load(FASHION / "lenet5.onnx", {"image": (1, 1, 28, 28)})
    right = logits(model, images[64:])
    errors = []
    for sequential in (False, True):
        quantize = dlcomp.Quantize(bits=2, weight_search=True, rounding=rounding, sequential=sequential)
        small = model.compress(quantize, calibration=images[:64])
        errors.append(float(np.square(logits(small, images[64:]) - right).mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("text", "reason"), [
    ("quantize:rounding=up", "there is no rounding 'up'"),
    ("quantize:rounding=gptq,damping=0", "the damping is above 0"),
    ("quantize:rounding=adaround,steps=0", "at least 1 step"),
])  # fmt: skip
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


def test_options_as_text() -> None:
    assert parse("quantize:rounding=gptq,act-order=no,bits=4").rounding == "gptq"  # type: ignore[attr-defined]
    assert Rounding("gptq").method == "gptq"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["lenet5", "dscnn"])
def test_weights_alone(name: str, bits: int) -> None:
    """Without data; activations stay float32, and dlcomp and onnxruntime read the same weights."""
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    small = model.compress(dlcomp.Quantize(activations="float32", bits=bits))
    assert small.source is not None
    kinds = [n.op_type for n in small.source.graph.node]
    assert "QuantizeLinear" not in kinds
    assert kinds.count("DequantizeLinear") == small.history[-1].effect["layers"]
    images = np.random.default_rng(0).random((8, 1, 28, 28)).astype("float32")
    session = peer.session(small.source.SerializeToString(), 1, optimize=False)
    theirs = np.concatenate([session.run(None, {"image": one[None]})[0] for one in images])
    found, right = logits(small, images), logits(model, images)
    np.testing.assert_allclose(found, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    assert np.abs(found - right).max() < (0.02 if bits == 8 else 0.5) * np.ptp(right)


def test_weights_alone_with_data() -> None:
    """Biases are corrected with data, and GPTQ asks for some."""
    model = dlcomp.load(FASHION / "lenet5.onnx", {"image": (1, 1, 28, 28)})
    images = np.random.default_rng(0).random((48, 1, 28, 28)).astype("float32") ** 4
    right = logits(model, images[32:])
    alone = dlcomp.Quantize(activations="float32", bits=3, weight_search=True)
    errors = [
        np.square(logits(model.compress(alone, calibration=data), images[32:]) - right).mean()
        for data in (None, images[:32])
    ]
    assert errors[1] < errors[0]
    with pytest.raises(UsageError, match="needs inputs"):
        model.compress(dlcomp.Quantize(activations="float32", rounding="gptq"))
