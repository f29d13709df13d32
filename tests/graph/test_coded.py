"""Products by stored integers with scales, as quantizers write them, against onnxruntime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, compare, schedules

import dlcomp
from dlcomp.runtime import peer

KINDS = {
    "int8": (np.int8, -128, 128),
    "uint8": (np.uint8, 0, 256),
    "int4": (ml_dtypes.int4, -8, 8),
    "uint4": (ml_dtypes.uint4, 0, 16),
}


class Quantized(Net):
    """A network with dequantized weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, opset=21)

    def integers(self, kind: str, *shape: int) -> str:
        dtype, low, high = KINDS[kind]
        return self.constant(self.rng.integers(low, high, shape).astype(dtype))

    def dequantized(
        self, kind: str, shape: tuple[int, ...], scales: tuple[int, ...], zero: bool, **attributes: Any
    ) -> str:
        scale = self.constant(self.rng.uniform(0.01, 0.02, scales).astype(np.float32))
        zeros = [self.integers(kind, *scales)] if zero else []
        return self.op("DequantizeLinear", self.integers(kind, *shape), scale, *zeros, **attributes)

    def model(self) -> onnx.ModelProto:
        made = super().model()
        made.ir_version = 10
        return made


def check(net: Quantized) -> Any:
    """The artifact, whose outputs are those of onnxruntime without its optimizations.

    With them it rounds activations to 8 bits where weights have 4.
    """
    model = net.model()
    fed = net.random_inputs()
    expected = peer.session(model.SerializeToString(), 1, optimize=False).run(None, fed)
    artifact = dlcomp.load(model).compile("host")
    compare(artifact, fed, expected, 3e-6)
    return artifact


def weight_bytes(artifact: Any) -> int:
    return sum(int(array.nbytes) for array in artifact.weights)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_scale_a_column(kind: str, zero: bool) -> None:
    net = Quantized()
    weight = net.dequantized(kind, (64, 48), (48,), zero, axis=1)
    net.output(net.op("Relu", net.op("Add", net.op("MatMul", net.input(3, 64), weight), net.weight(48))))
    artifact = check(net)
    wide = kind == "uint8" or (kind == "int8" and zero)  # differences of 9 bits
    assert schedules(artifact, "gemm") == ["gemm.packed" if wide else "gemm.coded"]
    assert len(artifact.kernels) == 1


@pytest.mark.parametrize("kind", ["uint8", "uint4"])
def test_unsigned_with_the_zero_in_the_middle(kind: str) -> None:
    net = Quantized()
    dtype, _, stop = KINDS[kind]
    scale = net.constant(net.rng.uniform(0.01, 0.02, 48).astype(np.float32))
    zero = net.constant(np.full(48, stop // 2, dtype))
    weight = net.op("DequantizeLinear", net.integers(kind, 64, 48), scale, zero, axis=1)
    net.output(net.op("MatMul", net.input(3, 64), weight))
    artifact = check(net)
    assert schedules(artifact, "gemm") == ["gemm.coded"]
    assert weight_bytes(artifact) == 64 * 48 * (8 if kind == "uint8" else 4) // 8 + 4 * 48


@given(
    st.sampled_from(list(KINDS)),
    st.integers(1, 9),
    st.integers(33, 90),
    st.integers(32, 80),
    st.sampled_from([16, 24, 32, 64, 128]),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None, max_examples=12)
def test_blocks(kind: str, m: int, n: int, k: int, size: int, zero: bool, turned: bool) -> None:
    """Any lengths, blocks of which the last is shorter, and Gemm's weights, whose blocks lie along a row."""
    net = Quantized(seed=m)
    shape, axis = ((n, k), 1) if turned else ((k, n), 0)
    blocks = -(-k // size)
    scales = (n, blocks) if turned else (blocks, n)
    weight = net.dequantized(kind, shape, scales, zero, axis=axis, block_size=size)
    x = net.input(m, k)
    if turned:
        net.output(net.op("Gemm", x, weight, net.weight(n), transB=1))
    else:
        net.output(net.op("MatMul", x, weight))
    artifact = check(net)
    if "4" in kind:
        assert "gemm.coded" in schedules(artifact, "gemm")


def test_blocks_too_small_for_a_kernel() -> None:
    net = Quantized()
    weight = net.dequantized("int4", (64, 48), (8, 48), False, axis=0, block_size=8)
    net.output(net.op("MatMul", net.input(3, 64), weight))
    assert schedules(check(net), "gemm") == ["gemm.packed"]


def test_blocks_elsewhere() -> None:
    """Not only weights of products come in blocks, and scales may be computed."""
    net = Quantized()
    table = net.dequantized("int4", (10, 32), (10, 2), True, axis=-1, block_size=16)
    net.output(net.op("Gather", table, net.constant(np.array([3, 1, 9]), "int64")))
    scale = net.op("Abs", net.input(3, 5))
    net.output(net.op("DequantizeLinear", net.integers("int8", 7, 5), scale, axis=0, block_size=3))
    check(net)


def test_leading_dimensions_and_one_weight_twice() -> None:
    net = Quantized()
    weight = net.dequantized("int4", (64, 64), (2, 64), False, axis=0, block_size=32)
    first = net.op("MatMul", net.input(2, 3, 64), weight)
    net.output(net.op("MatMul", net.op("Tanh", first), weight))
    artifact = check(net)
    assert schedules(artifact, "gemm") == ["gemm.coded"] * 2
    assert weight_bytes(artifact) < 64 * 64 * 4 / 6


@pytest.mark.parametrize("size", [0, 64])
def test_artifact_of_four_bits(size: int) -> None:
    """Weights in memory are a seventh of float32's, and an eighth but for the scales."""
    net = Quantized()
    attributes = {"axis": 0, "block_size": size} if size else {"axis": 1}
    scales = (256 // size, 256) if size else (256,)
    weight = net.dequantized("int4", (256, 256), scales, False, **attributes)
    net.output(net.op("MatMul", net.input(1, 256), weight))
    artifact = check(net)
    assert weight_bytes(artifact) == 256 * 256 // 2 + 4 * 256 * (256 // size if size else 1)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_convolutions_of_single_pixels(kind: str) -> None:
    """They are products of channels; but for the image and the result, nothing is moved."""
    net = Quantized()
    x = net.conv(net.input(1, 3, 6, 7), 3, 32, 3)
    weights = [net.dequantized(kind, (c, d, 1, 1), (c,), False, axis=0) for c, d in ((48, 32), (32, 48))]
    wide = net.op("Relu", net.op("Conv", x, weights[0], net.weight(48)))
    net.output(net.op("Add", x, net.op("Conv", wide, weights[1])))
    artifact = check(net)
    assert [k.schedule.split("{")[0] for k in artifact.kernels if "gemm" in k.name] == ["gemm.coded"] * 2
    assert len([k.name for k in artifact.kernels if "transpose" in k.name]) == 2


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}, {"group": 2}])
def test_other_convolutions_are_floats(attributes: dict[str, Any]) -> None:
    net = Quantized()
    inputs = 64 // attributes.get("group", 1)
    weight = net.dequantized("int8", (64, inputs, 1, 1), (64,), False, axis=0)
    net.output(net.op("Conv", net.input(1, 64, 5, 6), weight, **attributes))
    assert "gemm.coded" not in [k.schedule.split("{")[0] for k in check(net).kernels]


def test_open_sizes_are_floats() -> None:
    net = Quantized()
    weight = net.dequantized("int4", (64, 48), (2, 48), False, axis=0, block_size=32)
    net.output(net.op("MatMul", net.input(3, 64), weight))
    model = net.model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    artifact = dlcomp.load(model).compile("host")
    for rows in (1, 5):
        fed = {"x0": net.rng.standard_normal((rows, 64)).astype(np.float32)}
        compare(artifact, fed, peer.session(model.SerializeToString(), 1, optimize=False).run(None, fed))


def test_what_is_not_finite() -> None:
    """A NaN or infinity makes what it makes in float32, also where it meets a weight of zero."""
    net = Quantized()
    weight = net.dequantized("int4", (64, 48), (2, 48), False, axis=0, block_size=32)
    net.output(net.op("MatMul", net.input(2, 64), weight))
    fed = net.random_inputs()
    fed["x0"][0, 3], fed["x0"][1, 40] = np.nan, np.inf
    (expected,) = peer.session(net.model().SerializeToString(), 1, optimize=False).run(None, fed)
    (found,) = dlcomp.load(net.model()).compile("host").run(fed).values()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(found[np.isinf(expected)], expected[np.isinf(expected)])
