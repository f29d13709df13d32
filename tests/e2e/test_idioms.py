"""What networks are made of, whole: each idiom with batch 1 and 3 and odd sizes, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from nets import Net, check, schedules

BATCHES = pytest.mark.parametrize("n", [1, 3])


def _silu(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x))


def _squeeze_excite(net: Net, x: str, c: int, middle: int) -> str:
    gate = net.op("Relu", net.conv(net.op("GlobalAveragePool", x), c, middle, 1))
    return net.op("Mul", x, net.op("HardSigmoid", net.conv(gate, middle, c, 1), alpha=1 / 6))


@BATCHES
def test_squeeze_and_excite(n: int) -> None:
    """The gate of one pixel scales the whole picture: the broadcast is no epilogue of its convolution."""
    net = Net()
    x = net.conv(net.input(n, 3, 13, 11), 3, 24, 3)
    x = _squeeze_excite(net, x, 24, 6)
    y = net.op("ReduceMean", x, net.ints(2, 3), keepdims=1)
    net.output(x, net.op("Mul", net.op("Sigmoid", net.conv(y, 24, 24, 1)), x))
    (artifact, *_) = check(net)
    taken = schedules(artifact, "gemm") + schedules(artifact, "conv2d")
    assert set(taken) <= {"gemm.packed", "conv2d.direct"}


@BATCHES
def test_inverted_residual(n: int) -> None:
    net = Net()
    x = net.input(n, 16, 15, 9)
    zero, six = net.constant(0.0, "float32"), net.constant(6.0, "float32")
    for k, stride in ((3, 1), (5, 2)):
        y = net.op("Clip", net.conv(x, 16, 96, 1), zero, six)
        y = net.op("Clip", net.conv(y, 96, 96, k, group=96, strides=[stride, stride]), zero, six)
        y = net.conv(_squeeze_excite(net, y, 96, 24), 96, 16, 1)
        x = net.op("Add", x, y) if stride == 1 else y
    net.output(x)
    check(net)


@BATCHES
def test_residual_with_projection(n: int) -> None:
    net = Net()
    x = net.op("Relu", net.conv(net.input(n, 3, 15, 17), 3, 16, 7, strides=[2, 2]))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = net.op("Relu", net.conv(x, 16, 32, 3, strides=[2, 2]))
    projection = net.conv(x, 16, 32, 1, strides=[2, 2])
    x = net.op("Relu", net.op("Add", net.conv(y, 32, 32, 3), projection))
    x = net.op("Relu", net.op("Add", x, net.conv(x, 32, 32, 3)))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(net.op("Gemm", x, net.weight(10, 32), net.weight(10), transB=1))
    check(net)


@BATCHES
def test_batch_normalization(n: int) -> None:
    """Behind a convolution, before one, and alone."""
    net = Net()

    def normalize(x: str, c: int) -> str:
        variance = net.constant(net.rng.uniform(0.5, 2, c).astype("float32"))
        return net.op("BatchNormalization", x, net.weight(c), net.weight(c), net.weight(c), variance)

    x = net.input(n, 5, 9, 7)
    y = net.op("Relu", normalize(net.conv(normalize(x, 5), 5, 12, 3), 12))
    y = normalize(net.conv(net.op("Relu", normalize(y, 12)), 12, 12, 3, group=12), 12)
    net.output(y, normalize(x, 5), normalize(net.op("GlobalMaxPool", y), 12))
    check(net)


@BATCHES
def test_focus_stem_and_silu(n: int) -> None:
    net = Net()
    x = net.input(n, 3, 18, 14)
    steps, far = net.ints(2), net.ints(2**31 - 1)
    parts = []
    for left in (0, 1):
        for top in (0, 1):
            rows = net.op("Slice", x, net.ints(top), far, net.ints(2), steps)
            parts.append(net.op("Slice", rows, net.ints(left), far, net.ints(3), steps))
    y = net.conv(net.op("Concat", *parts, axis=1), 12, 16, 3)
    net.output(_silu(net, net.conv(_silu(net, y), 16, 20, 3, strides=[2, 2])))
    check(net)


@BATCHES
def test_spatial_pyramid_pooling(n: int) -> None:
    net = Net()
    x = _silu(net, net.conv(net.input(n, 8, 11, 9), 8, 12, 1))
    pooled = [net.op("MaxPool", x, kernel_shape=[k, k], pads=[k // 2] * 4) for k in (5, 9, 13)]
    net.output(_silu(net, net.conv(net.op("Concat", x, *pooled, axis=1), 48, 16, 1)))
    check(net)


@BATCHES
@pytest.mark.parametrize(
    ("mode", "attributes"),
    [
        ("nearest", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("linear", {"coordinate_transformation_mode": "half_pixel"}),
    ],
)
def test_feature_pyramid(n: int, mode: str, attributes: dict[str, str]) -> None:
    net = Net()
    fine = net.op("Relu", net.conv(net.input(n, 3, 14, 10), 3, 12, 3))
    coarse = net.op("Relu", net.conv(fine, 12, 20, 3, strides=[2, 2]))
    lateral = net.conv(coarse, 20, 12, 1)
    scales = net.constant([1, 1, 2, 2], "float32")
    wide = net.op("Resize", lateral, "", scales, mode=mode, **attributes)
    joined = net.op("Concat", wide, fine, axis=1)
    net.output(net.conv(joined, 24, 8, 3), net.op("Add", wide, fine), lateral)
    check(net)


@BATCHES
@pytest.mark.parametrize(
    ("k", "s", "attributes"),
    [
        (2, 2, {}),
        (4, 2, {"pads": [1, 1, 1, 1]}),
        (3, 2, {"pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        (3, 1, {"pads": [0, 1, 1, 0]}),
        (3, 3, {}),
        (2, 3, {"dilations": [2, 1]}),
    ],
)
def test_transposed_convolution(n: int, k: int, s: int, attributes: dict[str, list[int]]) -> None:
    net = Net()
    x = net.op("Relu", net.conv(net.input(n, 3, 7, 5), 3, 8, 3))
    weight, bias = net.weight(8, 6, k, k), net.weight(6)
    y = net.op("ConvTranspose", x, weight, bias, strides=[s, s], **attributes)
    net.output(net.conv(net.op("Relu", y), 6, 4, 3), net.op("Sigmoid", y))
    grouped = net.op("ConvTranspose", x, net.weight(8, 3, k, k), group=2, strides=[s, s], **attributes)
    net.output(grouped)
    check(net, targets=("host",))


def _layer_norm(net: Net, x: str, c: int) -> str:
    """As exporters write it for old opsets."""
    centred = net.op("Sub", x, net.op("ReduceMean", x, net.ints(-1)))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.constant(2.0, "float32")), net.ints(-1))
    deviation = net.op("Sqrt", net.op("Add", variance, net.constant(1e-5, "float32")))
    return net.op("Add", net.op("Mul", net.op("Div", centred, deviation), net.weight(c)), net.weight(c))


@BATCHES
@pytest.mark.parametrize("tokens", [1, 7, 16])
def test_attention_block(n: int, tokens: int) -> None:
    """Heads by reshape and transpose, scaled product, mask, softmax, GELU by erf, two kinds of LayerNorm."""
    net = Net()
    heads, size = 3, 8
    c = heads * size
    x, mask = net.input(n, tokens, c), net.input(n, 1, 1, tokens, dtype="int64")
    normed = net.op("LayerNormalization", x, net.weight(c), net.weight(c), axis=-1, epsilon=1e-5)

    def project(perm: list[int]) -> str:
        y = net.op("Add", net.op("MatMul", normed, net.weight(c, c, scale=0.2)), net.weight(c))
        return net.op("Transpose", net.op("Reshape", y, net.ints(0, 0, heads, size)), perm=perm)

    q, k, v = project([0, 2, 1, 3]), project([0, 2, 3, 1]), project([0, 2, 1, 3])
    scores = net.op("Div", net.op("MatMul", q, k), net.constant(size**0.5, "float32"))
    hidden = net.op("Sub", net.constant(1.0, "float32"), net.op("Cast", mask, to=1))
    scores = net.op("Add", scores, net.op("Mul", hidden, net.constant(-1e4, "float32")))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, c))
    x = net.op("Add", x, net.op("MatMul", y, net.weight(c, c, scale=0.2)))
    y = net.op(
        "Add", net.op("MatMul", _layer_norm(net, x, c), net.weight(c, 4 * c, scale=0.2)), net.weight(4 * c)
    )
    half, one, root = (net.constant(v, "float32") for v in (0.5, 1.0, 2**0.5))
    y = net.op("Mul", net.op("Mul", y, net.op("Add", net.op("Erf", net.op("Div", y, root)), one)), half)
    net.output(net.op("Add", x, net.op("MatMul", y, net.weight(4 * c, c, scale=0.1))))
    for artifact in check(net):
        assert set(schedules(artifact, "gemm")) <= {"gemm.packed"}
        assert set(schedules(artifact, "matmul")) <= {"matmul.direct", "matmul.blocked"}


@BATCHES
def test_vision_transformer_stem(n: int) -> None:
    net = Net()
    x = net.conv(net.input(n, 3, 16, 24), 3, 20, 8, strides=[8, 8], pads=[0, 0, 0, 0])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(n, 20, 6)), perm=[0, 2, 1])
    token = net.op("Expand", net.weight(1, 1, 20), net.ints(n, 1, 20))
    x = net.op("Add", net.op("Concat", token, x, axis=1), net.weight(1, 7, 20))
    first = net.op("Gather", _layer_norm(net, x, 20), net.constant(0, "int64"), axis=1)
    net.output(net.op("Gemm", first, net.weight(20, 5), net.weight(5)))
    check(net)


@BATCHES
def test_convnext_block(n: int) -> None:
    """LayerNorm and linear layers on transposed data between convolutions."""
    net = Net(opset=20)
    x = net.conv(net.input(n, 3, 9, 7), 3, 12, 3)
    y = net.op("Transpose", net.conv(x, 12, 12, 7, group=12), perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.weight(12), net.weight(12), axis=-1)
    y = net.op("Gelu", net.op("Add", net.op("MatMul", y, net.weight(12, 48)), net.weight(48)))
    y = net.op("Mul", net.op("MatMul", y, net.weight(48, 12)), net.weight(12))
    net.output(net.op("Add", x, net.op("Transpose", y, perm=[0, 3, 1, 2])))
    check(net)


@BATCHES
def test_heads_and_pools(n: int) -> None:
    net = Net()
    x = net.op("Relu", net.conv(net.input(n, 3, 7, 5), 3, 9, 3))
    flat = net.op("Flatten", x)
    net.output(
        net.op("Gemm", flat, net.weight(315, 4), net.weight(4)),
        net.op("Softmax", net.op("Flatten", net.op("GlobalAveragePool", x)), axis=1),
        net.op("GlobalMaxPool", x),
        net.op("ReduceMean", x, net.ints(2, 3), keepdims=0),
        net.op("Reshape", net.op("AveragePool", x, kernel_shape=[7, 5]), net.ints(n, -1)),
        net.op("Concat", net.op("GlobalMaxPool", x), net.op("GlobalAveragePool", x), axis=1),
        net.op("ArgMax", net.op("Flatten", net.op("GlobalAveragePool", x)), axis=1),
    )
    check(net)


@BATCHES
def test_embedding(n: int) -> None:
    net = Net()
    words = net.input(n, 7, dtype="int64")
    table = net.weight(30, 16)
    x = net.op("Add", net.op("Gather", table, words), net.weight(7, 16))
    pooled = net.op("ReduceMean", x, net.ints(1), keepdims=0)
    net.output(
        net.op("MatMul", x, net.weight(16, 9)), net.op("Tanh", net.op("MatMul", pooled, net.weight(16, 16)))
    )
    inputs = {"x0": np.random.default_rng(0).integers(0, 30, (n, 7))}
    check(net, inputs)


def test_one_dimensional_convolution() -> None:
    net = Net()
    x = net.input(2, 5, 31)
    y = net.op("Relu", net.op("Conv", x, net.weight(8, 5, 3), net.weight(8), pads=[1, 1], strides=[2]))
    y = net.op("MaxPool", y, kernel_shape=[2], strides=[2])
    net.output(net.op("Conv", y, net.weight(8, 1, 3), group=8), net.op("AveragePool", y, kernel_shape=[3]))
    check(net)


def test_three_dimensional_convolution() -> None:
    net = Net()
    y = net.op("Relu", net.op("Conv", net.input(1, 3, 4, 5, 6), net.weight(8, 3, 3, 3, 3), pads=[1] * 6))
    net.output(
        net.op("MaxPool", y, kernel_shape=[2, 2, 2], strides=[2, 2, 2]), net.op("GlobalAveragePool", y)
    )
    check(net, targets=("host",))


def test_convolution_of_computed_weights() -> None:
    """Weights that are an input of the network have nothing packed."""
    net = Net()
    x, w = net.input(1, 6, 7, 7), net.input(8, 6, 3, 3)
    net.output(
        net.op("Conv", x, w, pads=[1] * 4), net.op("Relu", net.op("Conv", x, net.input(6, 1, 3, 3), group=6))
    )
    check(net)


def test_other_types() -> None:
    """Double precision, halves and integers take TVM's own definitions."""
    net = Net()
    for dtype in ("float64", "int32", "int64"):
        a, b = net.input(3, 5, dtype=dtype), net.input(5, 4, dtype=dtype)
        net.output(net.op("MatMul", a, b), net.op("Max", a, a), net.op("ReduceMax", a, net.ints(1)))
    x = net.op("Cast", net.input(1, 4, 6, 6), to=11)
    net.output(net.op("Relu", x), net.op("Sign", x), net.op("Exp", x))
    check(net)


def test_network_without_weights_or_work() -> None:
    net = Net()
    x = net.input(2, 3)
    net.output(
        net.op("Identity", x), net.op("Reshape", x, net.ints(3, 2)), net.op("Transpose", x, perm=[1, 0])
    )
    check(net)
