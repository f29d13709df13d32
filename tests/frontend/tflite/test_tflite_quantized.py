"""TFLite's quantized operators within a step of its own integer kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tflite_file import File, agree

from dlcomp.frontend.read import read

RNG = np.random.default_rng(0)
# Scale and zero point of images, of weights' bytes, of what an operator gives.
X, Y = (0.05, 3), (0.11, -7)
UNSIGNED = {"x": (0.05, 128), "y": (0.11, 117)}


def ints(*shape: int, dtype: str = "int8") -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def test_convolution_with_scales_for_channels() -> None:
    f = File()
    x = f.input(ints(1, 6, 7, 3), X)
    scales = np.array([0.01, 0.02, 0.005, 0.03], "float32")
    for kind, shape, axis, options in (
        ("CONV_2D", (4, 3, 3, 3), 0, "Conv2DOptions"),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 3), 3, "DepthwiseConv2DOptions"),
    ):
        used = scales[: shape[axis]]
        w = f.constant(ints(*shape), q=(used, 0, axis))
        bias = f.constant(RNG.integers(-500, 500, len(used)), "int32", q=(used * np.float32(X[0]), 0))
        y = f.tensor((1, 6, 7, len(used)), "int8", Y)
        more: dict[str, Any] = {"DepthMultiplier": 1} if axis else {}
        strides = {"StrideH": 1, "StrideW": 1, "FusedActivationFunction": 3}
        f.op(kind, [x, w, bias], y, options=options, **strides, **more)
        agree(f, y, steps=1)


def test_old_unsigned_convolution() -> None:
    """One scale for all weights and a zero point of their own."""
    f = File()
    x = f.input(ints(1, 6, 7, 3, dtype="uint8"), UNSIGNED["x"])
    w = f.constant(ints(4, 3, 3, 3, dtype="uint8"), q=(0.02, 120))
    bias = f.constant(RNG.integers(-500, 500, 4), "int32", q=(np.float32(0.05) * np.float32(0.02), 0))
    y = f.tensor((1, 3, 4, 4), "uint8", UNSIGNED["y"])
    f.op("CONV_2D", [x, w, bias], y, options="Conv2DOptions", StrideH=2, StrideW=2)
    agree(f, y, steps=1)


def test_integers_stand_beside_their_operator() -> None:
    """The weights as they are stored but for their order, numbers only between DequantizeLinear and Conv."""
    f = File()
    w = f.constant(ints(4, 1, 1, 3), q=(np.full(4, 0.02), 0, 0))
    y = f.tensor((1, 6, 7, 4), "int8", Y)
    f.op("CONV_2D", [f.input(ints(1, 6, 7, 3), X), w], y, options="Conv2DOptions", StrideH=1, StrideW=1)
    network, _ = read(f.bytes(y))
    nodes = network.graph.node
    made = {name: node for node in nodes for name in node.output}
    (conv,) = (node for node in nodes if node.op_type == "Conv")
    image, weights = (made[name] for name in conv.input[:2])
    (behind,) = (node for node in nodes if conv.output[0] in node.input)
    assert [image.op_type, weights.op_type, behind.op_type] == [
        "DequantizeLinear",
        "DequantizeLinear",
        "QuantizeLinear",
    ]
    (stored,) = (t for t in network.graph.initializer if t.name == weights.input[0])
    assert (stored.data_type, list(stored.dims)) == (onnx.TensorProto.INT8, [4, 3, 1, 1])
    assert weights.attribute[0].i == 0


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_fully_connected(dtype: str) -> None:
    f = File()
    q = X if dtype == "int8" else UNSIGNED["x"]
    zero = 0 if dtype == "int8" else 120
    w = f.constant(ints(5, 16, dtype=dtype), q=(0.02, zero))
    bias = f.constant(RNG.integers(-500, 500, 5), "int32", q=(np.float32(0.05) * np.float32(0.02), 0))
    y = f.tensor((3, 5), dtype, (0.3, 3))
    f.op(
        "FULLY_CONNECTED", [f.input(ints(3, 16, dtype=dtype), q), w, bias], y, options="FullyConnectedOptions"
    )
    agree(f, y, steps=1)


def test_dynamic_products_use_whole_numbers_of_weights() -> None:
    """Float images and byte weights: the interpreter rounds the images too, within half a step of 1/127."""
    f = File()
    x = f.input(RNG.standard_normal((3, 32)).astype("float32"))
    w, y = f.constant(ints(5, 32), q=(0.02, 0)), f.tensor((3, 5))
    f.op("FULLY_CONNECTED", [x, w], y, options="FullyConnectedOptions")
    agree(f, y, tolerance=0.03)


UNARY = {
    "LOGISTIC": ((1 / 256, -128), ""),
    "TANH": ((1 / 128, 0), ""),
    "SOFTMAX": ((1 / 256, -128), "SoftmaxOptions"),
    "RELU": ((0.03, -128), ""),
    "RELU6": ((0.05, 10), ""),
    "HARD_SWISH": ((0.05, -100), "HardSwishOptions"),
    "QUANTIZE": ((0.2, 5), ""),
    "LEAKY_RELU": ((0.05, -60), "LeakyReluOptions"),
    "ABS": ((0.05, -100), ""),
    "MEAN": ((0.04, 2), "ReducerOptions"),
    "L2_NORMALIZATION": ((1 / 128, 0), "L2NormOptions"),
    "ELU": ((0.05, -60), ""),
}


@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind: str) -> None:
    q, options = UNARY[kind]
    f = File()
    x = f.input(ints(2, 3, 9), (0.05, 3))
    more: dict[str, Any] = {"SOFTMAX": {"Beta": 1.0}, "LEAKY_RELU": {"Alpha": 0.2}}.get(kind, {})
    y = f.tensor((2, 9) if kind == "MEAN" else (2, 3, 9), "int8", q)
    axes = [f.constant([1], "int32")] if kind == "MEAN" else []
    f.op(kind, [x, *axes], y, options=options, **more)
    agree(f, y, steps=1)


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL", "MAXIMUM", "SQUARED_DIFFERENCE"])
def test_arithmetic(kind: str) -> None:
    f = File()
    same = kind == "MAXIMUM"
    left, right = f.input(ints(2, 3, 9), X), f.input(ints(9), X if same else (0.02, -9))
    q = X if same else (0.15, 4)
    y = f.tensor((2, 3, 9), "int8", q)
    options = {"MAXIMUM": "MaximumMinimumOptions", "SQUARED_DIFFERENCE": "SquaredDifferenceOptions"}
    f.op(kind, [left, right], y, options=options.get(kind, f"{kind.title()}Options"))
    agree(f, y, steps=1)


@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_pooling(kind: str) -> None:
    f = File()
    y = f.tensor((1, 3, 4, 5), "int8", X)
    window = {"FilterHeight": 3, "FilterWidth": 2, "StrideH": 2, "StrideW": 2}
    f.op(kind, [f.input(ints(1, 6, 7, 5), X)], y, options="Pool2DOptions", **window)
    agree(f, y, steps=int(kind == "AVERAGE_POOL_2D"))


def test_moves_are_exact() -> None:
    f = File()
    x = f.input(ints(1, 4, 6, 3), X)
    padded, cut, joined = (f.tensor(s, "int8", X) for s in ((1, 5, 6, 4), (1, 2, 6, 3), (1, 6, 6, 3)))
    enlarged = f.tensor((1, 8, 12, 3), "int8", X)
    place = f.tensor((1, 4, 6), "int32")
    f.op("PAD", [x, f.constant([[0, 0], [1, 0], [0, 0], [0, 1]], "int32")], padded)
    f.op("SLICE", [x, f.constant([0, 1, 0, 0], "int32"), f.constant([1, 2, 6, 3], "int32")], cut)
    f.op("CONCATENATION", [x, cut], joined, options="ConcatenationOptions", Axis=1)
    size = f.constant([8, 12], "int32")
    f.op("RESIZE_NEAREST_NEIGHBOR", [x, size], enlarged, options="ResizeNearestNeighborOptions")
    f.op("ARG_MAX", [x, f.constant(-1, "int32")], place, options="ArgMaxOptions", OutputType=2)
    agree(f, padded, cut, joined, enlarged, place)
    network, _ = read(f.bytes(padded, cut, joined))
    assert "DequantizeLinear" not in {node.op_type for node in network.graph.node}


def test_concatenation_of_two_scales() -> None:
    f = File()
    parts = [f.input(ints(2, 3, dtype="uint8"), q) for q in (UNSIGNED["x"], UNSIGNED["y"])]
    y = f.tensor((4, 3), "uint8", UNSIGNED["y"])
    f.op("CONCATENATION", parts, y, options="ConcatenationOptions")
    agree(f, y, steps=1)


def test_resizing() -> None:
    f = File()
    y = f.tensor((1, 8, 9, 3), "int8", X)
    operands = [f.input(ints(1, 4, 6, 3), X), f.constant([8, 9], "int32")]
    f.op("RESIZE_BILINEAR", operands, y, options="ResizeBilinearOptions", HalfPixelCenters=True)
    agree(f, y, steps=1)


def test_sixteen_bits() -> None:
    f = File()
    x, other = f.input(ints(2, 9, dtype="int16"), (0.001, 0)), f.input(ints(2, 9, dtype="int16"), (0.002, 0))
    y = f.tensor((2, 9), "int16", (0.003, 0))
    f.op("ADD", [x, other], y, options="AddOptions")
    padded = f.tensor((2, 11), "int16", (0.003, 0))
    w, bias = (
        f.constant(ints(5, 9), q=(0.02, 0)),
        f.constant(RNG.integers(-9000, 9000, 5), "int64", (2e-5, 0)),
    )
    product = f.tensor((2, 5), "int16", (0.002, 0))
    options = {"options": "FullyConnectedOptions", "version": 7}
    f.op("FULLY_CONNECTED", [x, w, bias], product, **options)
    f.op("PAD", [y, f.constant([[0, 0], [1, 1]], "int32")], padded, version=2)
    agree(f, y, padded, product, steps=1)


def test_at_the_border() -> None:
    """Floats in, bytes inside, floats out."""
    f = File()
    inner, y = f.tensor((2, 9), "int8", X), f.tensor((2, 9))
    f.op("QUANTIZE", [f.input(RNG.standard_normal((2, 9)).astype("float32"))], inner)
    f.op("DEQUANTIZE", [inner], y)
    agree(f, y)


def test_weights_of_four_bits() -> None:
    """Two a byte, the lower half first."""
    values = np.array([[-8, 7, 3], [1, -1, 0]], "int8")
    nibbles = (values.astype("uint8") & 15).reshape(-1, 2)
    packed = (nibbles[:, 0] | nibbles[:, 1] << 4).tobytes()
    f = File()
    w = f.tensor((2, 3), "int4", (0.5, 0), packed)
    y = f.tensor((1, 2))
    f.op("FULLY_CONNECTED", [f.input(np.eye(3, dtype="float32")[:1]), w], y, options="FullyConnectedOptions")
    network, _ = read(f.bytes(y))
    stored = [onnx.numpy_helper.to_array(t) for t in network.graph.initializer]
    assert any(np.array_equal(array, values) for array in stored)
