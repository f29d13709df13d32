"""Sparse networks that become integers: zeros stay zeros, and the kernels skip them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from onnx import helper, numpy_helper

import dlcomp

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
INTEGERS = "gemm.block_sparse_integers"


def samples(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 28, 28), dtype=np.float32)


def schedules(artifact: Any) -> list[str]:
    return [kernel.schedule.split("{")[0] for kernel in artifact.kernels]


@pytest.mark.parametrize("pattern", ["16x1", "16x4"])
@pytest.mark.parametrize("rows", [1, 20])
def test_a_sparse_network_runs_on_integers_to_the_bit(pattern: str, rows: int) -> None:
    """LeNet-300-100: products of integers that skip zeros against those that do not."""
    model = dlcomp.load(FASHION / "lenet300.onnx", {"image": (rows, 1, 28, 28)})
    passes = [dlcomp.Sparsify(target=0.8, pattern=pattern, method="magnitude"), dlcomp.Quantize()]
    small = model.compress(*passes, calibration=samples())
    sparse, dense = small.compile(), small.compile(sparse=False)
    assert schedules(sparse).count(INTEGERS) == 2  # ten outputs are less than a block
    assert INTEGERS not in schedules(dense)
    x = {"image": samples(rows)}
    np.testing.assert_array_equal(*(artifact.run(x)["logits"] for artifact in (sparse, dense)))


def test_pointwise_convolutions_skip_blocks() -> None:
    """With a bias, an activation and the rounding to 8 bits behind the sums."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    kept = rng.random((8, 96)) < 0.2
    weight = (rng.standard_normal((128, 96)) * np.repeat(kept, 16, axis=0)).astype("f4")[:, :, None, None]
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["y"]),
    ]
    stored = [
        networks.constant("w", weight, "float32"),
        networks.constant("b", rng.standard_normal(128), "float32"),
        networks.constant("v", rng.standard_normal((16, 128, 1, 1)), "float32"),
    ]
    shape = [1, 96, 9, 7]
    model = dlcomp.load(
        networks.model(nodes, [networks.value("x", shape)], [networks.value("y", None)], stored)
    )
    data = rng.standard_normal((16, *shape[1:]), dtype=np.float32)
    small = model.compress(dlcomp.Quantize(), calibration=data)
    sparse, dense = small.compile(), small.compile(sparse=False)
    assert INTEGERS in schedules(sparse)
    np.testing.assert_array_equal(*(artifact.run({"x": data[:1]})["y"] for artifact in (sparse, dense)))


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("outputs", [64, 56])
def test_convolutions_skip_groups_of_channels(strides: int, outputs: int) -> None:
    """A padded 3x3 convolution between two others, whose last block of outputs may be half of one."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    shapes = {"w1": (32, 3, 3, 3), "w2": (outputs, 32, 3, 3), "w3": (8, outputs, 1, 1)}
    stored = [
        networks.constant(name, rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), "float32")
        for name, shape in shapes.items()
    ]
    stored.append(networks.constant("b2", rng.standard_normal(outputs), "float32"))
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1] * 4, name="first"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2", "b2"], ["c"], pads=[1] * 4, strides=[strides] * 2, name="middle"),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w3"], ["y"], name="last"),
    ]
    values = [networks.value("x", [1, 3, 12, 11])], [networks.value("y", None)]
    model = dlcomp.load(networks.model(nodes, *values, stored))
    data = rng.standard_normal((16, 3, 12, 11), dtype=np.float32)
    prune = dlcomp.Sparsify(target=0.8, pattern="16x4", method="magnitude", keep=("first", "last"))
    small = model.compress(prune, dlcomp.Quantize(), calibration=data)
    sparse, dense = small.compile(), small.compile(sparse=False)
    assert schedules(sparse).count("conv2d.block_sparse_integers") == 1
    assert "conv2d.block_sparse_integers" not in schedules(dense)
    np.testing.assert_array_equal(*(artifact.run({"x": data[:1]})["y"] for artifact in (sparse, dense)))


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_rounding_keeps_zeros(rounding: str) -> None:
    """What makes up for errors of other weights fills no pruned block."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, 64)) * np.repeat(rng.random((48, 4)) < 0.4, 16, axis=1)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    values = [networks.value("x", [1, 48])], [networks.value("y", None)]
    model = dlcomp.load(networks.model(nodes, *values, [networks.constant("w", weight, "float32")]))
    quantize = dlcomp.Quantize(bits=4, rounding=rounding, weight_search=True)
    # Inputs that depend on each other: there the errors of one weight are made up for in many.
    mixed = rng.standard_normal((256, 12)) @ rng.standard_normal((12, 48))
    small = model.compress(quantize, calibration=mixed.astype("float32"))
    stored = [numpy_helper.to_array(tensor) for tensor in small.source.graph.initializer]
    (integers,) = (array for array in stored if array.shape == weight.shape)
    assert integers.dtype == np.int8
    assert not integers[weight == 0].any()
    assert np.count_nonzero(integers[weight != 0]) > 0.7 * np.count_nonzero(weight)
