"""Sparse networks: the methods against closed forms and each other, and what becomes of a network."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from rich.console import Console

import dlcomp
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import layers_of, weight_of
from dlcomp.compress.matrices import to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.recipe import parse
from dlcomp.compress.refit import error_of, refit
from dlcomp.compress.second_order import second_order
from dlcomp.compress.sparsify.methods import METHODS
from dlcomp.compress.sparsify.patterns import Pattern
from dlcomp.errors import ModelError, UsageError
from dlcomp.model import Step
from dlcomp.report.compression import compression_table
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
RNG = np.random.default_rng(0)
PATTERNS = ("unstructured", "2:4", "16x1", "4x2")
node, value, weight = helper.make_node, networks.value, networks.weight


def problem(outputs: int, inputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (O, K) and the Hessian of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((3 * inputs, inputs)) @ rng.standard_normal((inputs, inputs))
    return rng.standard_normal((outputs, inputs)), mixed.T @ mixed / len(mixed) + 1e-3 * np.eye(inputs)


def images(count: int) -> np.ndarray:
    y, x = np.mgrid[:28, :28]
    centres = RNG.uniform(6, 22, (count, 3, 2, 1, 1))
    blobs = np.exp(-((y - centres[:, :, 0]) ** 2 + (x - centres[:, :, 1]) ** 2) / 12).sum(axis=1)
    return np.clip(blobs - 0.1, 0, 1)[:, None].astype("float32")


def small_cnn() -> dlcomp.Model:
    """A convolution, a depthwise one, a pointwise one without a bias, and a classifier."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[1] * 4, name="stem"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], pads=[1] * 4, group=8, name="depthwise"),
        node("Conv", ["c", "w3"], ["d"], name="pointwise"),
        node("Relu", ["d"], ["e"]),
        node("GlobalAveragePool", ["e"], ["f"]),
        node("Flatten", ["f"], ["g"]),
        node("Gemm", ["g", "w4", "b4"], ["y"], transB=1, name="head"),
    ]
    stored = [
        weight("w1", 8, 1, 3, 3), weight("b1", 8), weight("w2", 8, 1, 3, 3), weight("w3", 16, 8, 1, 1),
        weight("w4", 10, 16), weight("b4", 10),
    ]  # fmt: skip
    return dlcomp.load(networks.model(nodes, [value("x", [1, 1, 28, 28])], [value("y", [1, 10])], stored))


def answers(model: Any, samples: np.ndarray) -> np.ndarray:
    session = peer.session(model.source.SerializeToString(), 1, optimize=False)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.floats(0, 1), st.integers(0, 99))
def test_a_fit_on_a_support_is_that_of_the_equations(
    outputs: int, inputs: int, share: float, seed: int
) -> None:
    weights, hessian = problem(outputs, inputs, seed)
    mask = np.random.default_rng(seed).random(weights.shape) < share
    start = np.where(mask, weights, 0.0)
    found = refit(start, hessian, weights @ hessian, mask)
    right = np.zeros_like(weights)
    for row, own in enumerate(mask):
        part = np.flatnonzero(own)
        right[row, part] = np.linalg.solve(hessian[np.ix_(part, part)], (weights @ hessian)[row, part])
    assert (found[~mask] == 0).all()
    best = error_of(right - weights, hessian)
    assert error_of(found - weights, hessian) <= best + 1e-6 * error_of(weights, hessian)


@pytest.mark.parametrize("seed", range(10))
def test_obs_costs_what_the_formula_says(seed: int) -> None:
    """One weight of one row less costs w_p^2 / [H^-1]_pp, whichever went (Hassibi and Stork, 1993)."""
    weights, hessian = problem(1, 6, seed)
    found = METHODS["obs"](weights, hessian, Pattern(), 1 / 6)
    (gone,) = np.flatnonzero(found[0] == 0)
    inverse = np.linalg.inv(hessian)
    assert error_of(found - weights, hessian) == pytest.approx(weights[0, gone] ** 2 / inverse[gone, gone])
    right = weights[0] - weights[0, gone] / inverse[gone, gone] * inverse[gone]
    np.testing.assert_allclose(found[0], right, atol=1e-4)


def test_independent_inputs_need_no_repair() -> None:
    """With a diagonal Hessian all of them but magnitude drop the smallest w^2 h, and change nothing else."""
    weights, hessian = RNG.standard_normal((4, 16)), np.diag(RNG.uniform(0.1, 10, 16))
    right = METHODS["wanda"](weights, hessian, Pattern(), 0.5)
    ranked = np.sort(weights**2 * np.diag(hessian), axis=None)
    np.testing.assert_array_equal(right == 0, weights**2 * np.diag(hessian) <= ranked[31])
    for method in ("obs", "admm"):
        np.testing.assert_allclose(METHODS[method](weights, hessian, Pattern(), 0.5), right, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_methods_keep_to_the_pattern(method: str, pattern: str, share: float) -> None:
    shape, chosen = (20, 36), Pattern.parse(pattern)
    weights, hessian = problem(*shape, seed=1)
    found = METHODS[method](weights, hessian, chosen, share)
    present = chosen.units((found != 0).astype(float))
    sizes = chosen.units(np.ones(shape))
    if chosen.kept:
        assert ((found != 0).reshape(20, -1, 4).sum(axis=-1) == 2).all()
    else:
        assert (present == 0).sum() == chosen.count(*shape, share)
        assert ((present == 0) | (present == sizes)).all()


@pytest.fixture(scope="module")
def layer_data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matrices of a trained LeNet-5 and the Hessians of what they read."""
    network = Network(dlcomp.load(FASHION / "lenet5.onnx", {"image": (32, 1, 28, 28)}))
    data = Calibration(images(128), dlcomp.load(network.proto).signature)
    layers = [layer for layer in layers_of(network) if layer.name in ("/2/Conv", "/7/Gemm")]
    found = {}
    for layer, moments in second_order(network, layers, data):
        matrices = to_matrices(layer, weight_of(network, layer)).astype(np.float64)
        found[layer.name] = (matrices[0][:32], moments.damped(False, 0.01)[0])
    return found


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "8x1", "4x2"])
@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("name", ["/2/Conv", "/7/Gemm"])
def test_who_knows_more_loses_less(
    name: str, share: float, pattern: str, layer_data: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """On layers of a trained network: OBS and ADMM below Wanda, Wanda below magnitude."""
    weights, hessian = layer_data[name]
    chosen = Pattern.parse(pattern)
    errors = {m: error_of(f(weights, hessian, chosen, share) - weights, hessian) for m, f in METHODS.items()}
    assert max(errors["obs"], errors["admm"]) < 0.5 * errors["wanda"]
    assert errors["wanda"] <= errors["magnitude"]


@pytest.mark.parametrize(("method", "scope"), [
    *((method, "layer") for method in METHODS), ("wanda", "erk"), ("magnitude", "global"), ("obs", "global"),
])  # fmt: skip
def test_a_network_becomes_sparse(method: str, scope: str) -> None:
    """The account is that of the stored weights; depthwise layers stay dense; the network still runs."""
    model = small_cnn()
    small = model.compress(dlcomp.Sparsify(method, 0.6, scope), calibration=images(16))
    effect = small.history[-1].effect
    stored = Network(small).weights
    layers = [stored[name] for name in ("w1", "w3", "w4")]
    assert effect["weights"] == sum(array.size for array in layers) == 72 + 128 + 160
    assert effect["zeros"] == sum(int((array == 0).sum()) for array in layers)
    assert effect["zeros"] == pytest.approx(0.6 * effect["weights"], abs=2)
    assert effect["dense"] == {"depthwise": "depthwise"}
    assert set(effect["sparsity"]) == set(effect["error"]) == {"stem", "pointwise", "head"}
    assert json.loads(json.dumps(effect)) == effect
    shares = list(effect["sparsity"].values())
    assert (max(shares) - min(shares) < 0.01) == (scope == "layer")


def test_what_is_compiled_is_what_onnxruntime_runs() -> None:
    small = small_cnn().compress(dlcomp.Sparsify(target=0.5, pattern="4x1"), calibration=images(16))
    samples = images(4)
    artifact = small.compile()
    found = np.concatenate([artifact.run({"x": sample[None]})["y"] for sample in samples])
    np.testing.assert_allclose(found, answers(small, samples), rtol=1e-4, atol=1e-3)


def test_the_mean_error_goes_into_the_bias() -> None:
    """Also of a convolution that had none; with magnitude and without data nothing is known of it."""
    model, samples = small_cnn(), images(64)
    right = answers(model, samples).mean(axis=0)
    shifts = []
    for correct in (False, True):
        small = model.compress(dlcomp.Sparsify("wanda", 0.6, correct_bias=correct), calibration=samples)
        shifts.append(np.abs(answers(small, samples).mean(axis=0) - right).mean())
    assert shifts[1] < 0.5 * shifts[0]
    plain = model.compress(dlcomp.Sparsify("magnitude", 0.6))
    np.testing.assert_array_equal(Network(plain).weights["b1"], Network(model).weights["b1"])


def test_layers_fitted_one_after_another() -> None:
    """Errors of sparse layers add up less when each is fitted on what those before it make."""
    model, samples = small_cnn(), images(64)
    right = answers(model, samples)
    errors, zeros = [], []
    for rebuild in (False, True):
        pass_ = dlcomp.Sparsify("magnitude", 0.6, rebuild=rebuild)
        small = model.compress(pass_, calibration=samples)
        errors.append(float(((answers(small, samples) - right) ** 2).mean()))
        zeros.append(small.history[-1].effect["zeros"])
    assert errors[1] < 0.2 * errors[0]
    assert zeros[0] == zeros[1]


def test_a_sample_that_is_not_finite_is_left_out() -> None:
    samples = images(24)
    samples[3, 0, 5, 5] = np.nan
    small = small_cnn().compress(dlcomp.Sparsify("wanda", 0.5, rebuild=True), calibration=samples)
    others = images(4)
    assert np.isfinite(answers(small, others)).all()
    assert 0 < max(small.history[-1].effect["error"].values()) < 1


def test_zeros_stay_zero_when_integers_follow() -> None:
    samples = images(16)
    small = small_cnn().compress(dlcomp.Sparsify(target=0.75), dlcomp.Quantize(), calibration=samples)
    integers = [
        array for array in Network(small).weights.values() if array.dtype == np.int8 and array.ndim > 1
    ]
    gone = sum(int((array == 0).sum()) for array in integers)
    assert gone >= small.history[-2].effect["zeros"]


def test_a_weight_that_two_layers_read() -> None:
    """One of them stays dense: the shared weight is stored twice."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w"], ["y"], name="second"),
    ]
    made = networks.model(nodes, [value("x", [1, 8])], [value("y", [1, 8])], [weight("w", 8, 8)])
    small = dlcomp.load(made).compress(dlcomp.Sparsify("magnitude", 0.5, keep=("first",)))
    stored = {
        n.name: Network(small).weights[n.input[1]] for n in small.source.graph.node if n.op_type == "MatMul"
    }
    assert (stored["first"] != 0).all()
    assert (stored["second"] == 0).sum() == 32
    assert small.history[-1].effect["dense"] == {"first": "kept"}


def test_a_pattern_that_does_not_fit_every_layer() -> None:
    small = small_cnn().compress(dlcomp.Sparsify("magnitude", pattern="2:4", keep=("head",)))
    effect = small.history[-1].effect
    assert effect["dense"]["stem"] == "1 input channels are no multiple of 4"
    assert effect["sparsity"] == {"pointwise": 0.5}


def test_the_account_for_people(tmp_path: Path) -> None:
    """Few layers by name, many by their extremes."""
    proto = small_cnn().source
    (tmp_path / "n.onnx").write_bytes(proto.SerializeToString())
    small = dlcomp.load(proto).compress(dlcomp.Sparsify("magnitude", 0.5))
    many = Step("sparsify", {}, {"error": {str(i): i / 8 for i in range(5)}})
    path = tmp_path / "n.onnx"
    table = compression_table(replace(small, history=(*small.history, many)), path, path, 1.0)
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert "dense depthwise: depthwise" in text
    assert "sparsity stem: 0.5; pointwise: 0.5; head: 0.5" in text
    assert "error 0 to 0.5 in 5 layers" in text


@pytest.mark.parametrize(("text", "options"), [
    ("sparsify", {}),
    ("sparsify:method=obs,target=0.75,pattern=16x1", {"target": 0.75, "pattern": "16x1"}),
    ("sparsify:method=admm,scope=erk,keep=head|stem,rebuild=yes",
     {"method": "admm", "scope": "erk", "keep": ("head", "stem"), "rebuild": True}),
])  # fmt: skip
def test_passes_as_text(text: str, options: dict[str, Any]) -> None:
    assert parse(text) == dlcomp.Sparsify(**options)


@pytest.mark.parametrize(("text", "reason"), [
    ("sparsify:method=best", "no method 'best'"),
    ("sparsify:scope=all", "no scope 'all'"),
    ("sparsify:target=2", "from 0 to 1, not 2"),
    ("sparsify:target=half", "'half' is no float"),
    ("sparsify:target=nan", "from 0 to 1, not nan"),
    ("sparsify:pattern=stripes", "no pattern 'stripes'"),
    ("sparsify:pattern=2:4,target=0.8", "makes a share of 0.5 zero, not 0.8"),
    ("sparsify:pattern=2:4,scope=global", "same in every layer"),
    ("sparsify:damping=0", "above 0"),
    ("sparsify:keep=(", "cannot read the expression"),
])  # fmt: skip
def test_passes_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


@pytest.mark.parametrize(("options", "error", "reason"), [
    ({"method": "obs"}, UsageError, "needs inputs to observe"),
    ({"method": "magnitude", "pattern": "512x1"}, UsageError, r"\[8, 1, 3, 3\]: 8 outputs are less than 512"),
    ({"method": "magnitude", "keep": (".",)}, ModelError, "no layer with a stored weight"),
])  # fmt: skip
def test_networks_that_are_refused(options: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        small_cnn().compress(dlcomp.Sparsify(**options))
