"""Layers as matrices against onnxruntime, and the moments of what they read against NumPy."""

from __future__ import annotations

import tracemalloc
from typing import Any

import networks
import numpy as np
import pytest
from onnx import helper

import dlcomp
from dlcomp.compress import second_order as module
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import layers_of
from dlcomp.compress.matrices import from_matrices, rows, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.observe import Watched
from dlcomp.compress.second_order import Moments, second_order
from dlcomp.errors import UsageError
from dlcomp.runtime import peer

RNG = np.random.default_rng(0)
node, value, weight = helper.make_node, networks.value, networks.weight


def one_conv(
    channels: int, shape: list[int], kernel: tuple[int, ...], **attributes: Any
) -> tuple[Network, np.ndarray, np.ndarray]:
    """A network of one convolution, a batch of two for it, and what onnxruntime makes of the batch."""
    groups = attributes.get("group", 1)
    made = node("Conv", ["x", "w"], ["y"], **attributes)
    outputs = 2 * groups
    proto = networks.model(
        [made],
        [value("x", [2, channels, *shape])],
        [value("y", [2, outputs, *("abc"[: len(shape)])])],
        [weight("w", outputs, channels // groups, *kernel)],
    )
    x = RNG.standard_normal((2, channels, *shape)).astype("float32")
    (right,) = peer.session(proto.SerializeToString(), 1, optimize=False).run(None, {"x": x})
    return Network(dlcomp.load(proto)), x, right


@pytest.mark.parametrize(("channels", "shape", "kernel", "attributes"), [
    (3, [7, 9], (3, 3), {}),
    (3, [7, 9], (3, 2), {"pads": [1, 0, 2, 3], "strides": [2, 1]}),
    (4, [11, 8], (3, 3), {"dilations": [2, 3], "pads": [2, 2, 2, 2], "group": 2}),
    (5, [6, 6], (3, 3), {"group": 5, "pads": [1] * 4, "strides": [2, 2]}),
    (2, [7, 5], (3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    (2, [7, 5], (3, 4), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    (2, [7, 5], (3, 4), {"auto_pad": "VALID"}),
    (3, [13], (5,), {"pads": [2, 1]}),
    (2, [4, 5, 6], (2, 3, 1), {"strides": [1, 2, 3]}),
    (1, [1, 1], (1, 1), {}),
], ids=str)  # fmt: skip
def test_a_convolution_is_a_product_of_matrices(
    channels: int, shape: list[int], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    network, x, right = one_conv(channels, shape, kernel, **attributes)
    (layer,) = layers_of(network)
    array = network.weights["w"]
    matrices = to_matrices(layer, array)
    np.testing.assert_array_equal(from_matrices(layer, matrices, array.shape), array)
    read = np.concatenate(list(rows(layer, kernel, x, 10**6)), axis=1)
    # (G, B, positions, O / G) to (B, O, positions)
    found = np.matmul(read, matrices.transpose(0, 2, 1)[:, None])
    outputs = found.transpose(1, 0, 3, 2).reshape(right.shape)
    np.testing.assert_allclose(outputs, right, atol=1e-4)


def test_windows_are_drawn_where_there_are_many() -> None:
    network, x, _ = one_conv(3, [20, 20], (3, 3))
    (layer,) = layers_of(network)
    whole = np.concatenate(list(rows(layer, (3, 3), x, 10**6)), axis=1)
    drawn = np.concatenate(list(rows(layer, (3, 3), x, 10, seed=1)), axis=1)
    assert drawn.shape == (1, 2, 10, 27)
    for sample in range(2):
        present = {row.tobytes() for row in whole[0, sample]}
        assert all(row.tobytes() in present for row in drawn[0, sample])
    again = np.concatenate(list(rows(layer, (3, 3), x, 10, seed=1)), axis=1)
    np.testing.assert_array_equal(drawn, again)


def perceptron(width: int = 6) -> Network:
    """Two layers that read the same input, one of them as a Gemm, and one behind them."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="first"),
        node("Gemm", ["x", "w2", "b"], ["c"], transB=1, name="second"),
        node("Add", ["a", "c"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "w3"], ["y"], name="third"),
    ]
    stored = [
        weight("w1", width, 5),
        weight("w2", 5, width, seed=1),
        weight("b", 5),
        weight("w3", 5, 4, seed=2),
    ]
    made = networks.model(nodes, [value("x", [1, width])], [value("y", [1, 4])], stored)
    return Network(dlcomp.load(made))


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_moments_are_those_of_numpy(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one Hessian at a time and for all of them; who reads the same shares the moments."""
    monkeypatch.setattr(module, "_BUDGET", budget)
    network = perceptron()
    x = (RNG.standard_normal((50, 6)) + 1).astype("float32")
    data = Calibration(x, dlcomp.load(network.proto).signature)
    found = {layer.name: moments for layer, moments in second_order(network, list(layers_of(network)), data)}
    assert found["first"] is found["second"]
    w = network.weights
    hidden = np.maximum(x @ w["w1"] + x @ w["w2"].T + w["b"], 0)
    for name, read in (("first", x), ("third", hidden)):
        moments = found[name]
        assert moments.count == 50
        np.testing.assert_allclose(moments.mean[0], read.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(moments.hessian(False)[0], read.T @ read / 50, rtol=1e-4, atol=1e-5)
        covariance = np.cov(read.astype(np.float64), rowvar=False, bias=True)
        np.testing.assert_allclose(moments.hessian(True)[0], covariance, rtol=1e-3, atol=1e-4)


def test_damped_hessians_are_positive_definite() -> None:
    """Of inputs that are always alike, always zero, or far from zero with hardly a variance."""
    x = np.zeros((1, 100, 1, 4), "float32")
    x[0, :, 0, 1] = 1000 + 0.001 * RNG.standard_normal(100)
    x[0, :, 0, 2] = x[0, :, 0, 3] = RNG.standard_normal(100)
    for chunk in (x, np.zeros_like(x)):
        moments = Moments()
        moments.add(chunk)
        for centred in (False, True):
            damped = moments.damped(centred, 0.01)
            np.linalg.cholesky(damped)
            assert (np.einsum("gkk->gk", damped) > np.einsum("gkk->gk", moments.hessian(centred))).all()


def test_rows_that_are_not_finite_are_left_out() -> None:
    x = RNG.standard_normal((2, 10, 1, 3)).astype("float32")
    moments, clean = Moments(), Moments()
    clean.add(np.delete(x, [2, 7], axis=1))
    x[0, 2, 0, 1], x[1, 7, 0, 0] = np.nan, np.inf
    moments.add(x)
    assert moments.count == 8
    nothing = Moments()
    nothing.add(np.full((1, 4, 1, 3), np.nan, "float32"))
    with pytest.raises(UsageError, match="no sample of the calibration data is finite"):
        nothing.damped(True, 0.01)
    np.testing.assert_array_equal(moments.hessian(True), clean.hessian(True))


def test_memory_is_that_of_the_hessian() -> None:
    chunk = RNG.standard_normal((1, 500, 1, 20)).astype("float32")
    moments = Moments()
    moments.add(chunk)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(30):
        moments.add(chunk)
    assert tracemalloc.get_traced_memory()[0] - before < 20_000
    tracemalloc.stop()


def test_a_layer_of_too_many_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST", 5)
    network = perceptron()
    data = Calibration(np.zeros((4, 6), "float32"), dlcomp.load(network.proto).signature)
    with pytest.raises(UsageError, match=r"at most 5 inputs, first \[6, 5\] has 6"):
        next(second_order(network, list(layers_of(network)), data))


def test_weights_are_exchanged_without_compiling_again() -> None:
    """A pass over data sees the weights that are given as they are when it begins."""
    network = perceptron()
    x = RNG.standard_normal((3, 6)).astype("float32")
    data = Calibration(x, dlcomp.load(network.proto).signature)
    watched = Watched(network, ["e"], ["w1", "b"])
    for _ in range(2):
        network.set_weight("w1", RNG.standard_normal((6, 5)).astype("float32"))
        network.set_weight("b", RNG.standard_normal(5).astype("float32"))
        found = np.concatenate([values["e"] for values in watched.over(data)])
        w = network.weights
        np.testing.assert_allclose(found, np.maximum(x @ w["w1"] + x @ w["w2"].T + w["b"], 0), atol=1e-4)


@pytest.mark.parametrize(("samples", "windows"), [(10, 1), (40, 1), (10, 16), (400, 1)])
def test_few_samples_are_trusted_less(samples: int, windows: int) -> None:
    """By how many rows have nothing to do with each other, as the paper writes the formula."""
    x = (RNG.standard_normal((1, samples, windows, 12)) * np.geomspace(1, 30, 12)).astype("float32")
    moments = Moments()
    moments.add(x)
    flat = x.reshape(-1, 12).astype(np.float64)
    covariance = np.cov(flat, rowvar=False, bias=True)
    p, n, trace = 12, samples * np.sqrt(windows), np.trace(covariance)
    squares = np.trace(covariance @ covariance)
    rho = min(0.9, ((1 - 2 / p) * squares + trace**2) / ((n + 1 - 2 / p) * (squares - trace**2 / p)))
    right = (1 - rho) * covariance + rho * trace / p * np.eye(p)
    found = moments.damped(True, 1e-9)[0] * (1 - rho)
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3 * trace)
