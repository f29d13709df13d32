"""Zeros, NaN and infinities: the same pattern as onnxruntime's.

Where onnxruntime is of two minds the reference is NumPy, whose results follow from IEEE 754 and the
formulas of ONNX: its pooling and reductions lose a NaN in some positions and keep it in others, and
give the least float for the largest of nothing but -inf.
"""

from __future__ import annotations

import numpy as np
import pytest
from nets import TARGETS, Net, check

NAN, INF = np.nan, np.inf
VALUES = np.array(
    [NAN, INF, -INF, 0, -0.0, 1e-40, -1e-40, 1e38, -1e38, 88.7, 88.8, -87.3, -104, -200,
     3.4e38, -3.4e38, 1, -1, 0.5, -0.5, 8, -8],
    "float32",
)  # fmt: skip
PAIRS = {"x0": np.repeat(VALUES[:, None], len(VALUES), 1), "x1": np.repeat(VALUES[None], len(VALUES), 0)}


def test_unary() -> None:
    net = Net(opset=20)
    x = net.input(len(VALUES))
    kinds = "Relu Tanh Exp Erf HardSigmoid HardSwish LeakyRelu Elu Abs Neg Sqrt Log Reciprocal Floor Ceil "
    kinds += "Round Sign"
    net.output(*[net.op(kind, x) for kind in kinds.split()])
    net.output(
        *[
            net.op("Clip", x, net.constant(low, "float32"), net.constant(high, "float32"))
            for low, high in ((-1, 2), (0, 6))
        ]
    )
    net.output(*[net.op("Pow", x, net.constant(e, "float32")) for e in (2, 3, 0.5)])
    check(net, {"x0": VALUES})


def test_sigmoid_family() -> None:
    """Against onnxruntime for NaN and infinities; its own sigmoid is only good to 1e-4 of the value."""
    net = Net(opset=20)
    x = net.input(len(VALUES))
    sigmoid = net.op("Sigmoid", x)
    net.output(sigmoid, net.op("Mul", x, sigmoid), net.op("Softplus", x), net.op("Gelu", x))
    check(net, {"x0": VALUES}, tolerance=1e-6)


def test_binary() -> None:
    net = Net()
    a, b = net.input(len(VALUES), len(VALUES)), net.input(len(VALUES), len(VALUES))
    net.output(*[net.op(kind, a, b) for kind in ("Add", "Sub", "Mul", "Div")])
    net.output(
        *[net.op(kind, a, b) for kind in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal")]
    )
    net.output(net.op("Where", net.op("Less", a, b), a, b))
    check(net, PAIRS)


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_extremes_of_two(kind: str) -> None:
    """NaN if either is NaN; also with a constant, and with an operand that broadcasts."""
    net = Net()
    n = len(VALUES)
    a, b = net.input(n, n), net.input(n, n)
    net.output(
        net.op(kind, a, b),
        net.op(kind, a, net.constant(0.5, "float32")),
        net.op(kind, a, net.constant(VALUES)),
    )
    function = np.maximum if kind == "Max" else np.minimum
    half = np.float32(0.5)
    want = [function(PAIRS["x0"], right) for right in (PAIRS["x1"], half, VALUES)]
    check(net, PAIRS, want)


def _rows() -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((9, 37)).astype("float32")
    rows[0, 3], rows[1, 4], rows[2, 5], rows[3, 36] = NAN, INF, -INF, NAN
    rows[4, [1, 7]] = INF, -INF
    rows[5], rows[6], rows[7], rows[8, 0] = INF, -INF, 0, 200
    return rows


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax(axis: int) -> None:
    net = Net()
    x = net.input(9, 37)
    net.output(net.op("Softmax", x, axis=axis), net.op("LogSoftmax", x, axis=axis))
    rows = _rows()
    if axis == 0:
        rows[[5, 6]] = 1  # else every column is NaN
    check(net, {"x0": rows})


@pytest.mark.parametrize("axis", [0, 1])
def test_reductions(axis: int) -> None:
    net = Net()
    x = net.input(9, 37)
    net.output(
        *[net.op(kind, x, net.ints(axis)) for kind in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum")]
    )
    rows = _rows()
    if axis == 0:
        rows[[5, 6]] = 1
    with np.errstate(invalid="ignore"):
        want = [f(rows, axis, keepdims=True) for f in (np.max, np.min, np.mean, np.sum)]
    check(net, {"x0": rows}, want)


def _image() -> np.ndarray:
    image = np.random.default_rng(0).standard_normal((1, 8, 9, 13)).astype("float32")
    image[0, 0, 4, 4], image[0, 1, 0, 0], image[0, 2, 8, 12] = NAN, NAN, NAN
    image[0, 3], image[0, 4, 2, 2], image[0, 5, 6, 6], image[0, 6] = -INF, INF, -INF, 0
    return image


def test_max_pool() -> None:
    net = Net()
    x = net.input(1, 8, 9, 13)
    net.output(net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), net.op("GlobalMaxPool", x))
    padded = np.pad(_image(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-INF)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    check(net, {"x0": _image()}, [windows.max((-1, -2)), _image().max((2, 3), keepdims=True)])


def test_window_operators() -> None:
    """Padding contributes nothing: no NaN out of an infinity times a zero beyond the border."""
    net = Net()
    x = net.input(1, 8, 9, 13)
    net.output(
        net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        net.op("AveragePool", x, kernel_shape=[2, 3], strides=[2, 2], count_include_pad=1, pads=[1, 1, 0, 0]),
        net.op("GlobalAveragePool", x),
        net.conv(x, 8, 8, 3, group=8),
        net.conv(x, 8, 20, 3, strides=[2, 2]),
        net.conv(x, 8, 20, 1),
    )
    check(net, {"x0": _image()})


def test_products() -> None:
    """A NaN stays in its row: tiles that overlap or are filled up do not spread it."""
    net = Net()
    net.output(
        net.op("MatMul", net.input(19, 16), net.weight(16, 21)),
        net.op("MatMul", net.input(2, 19, 16), net.input(2, 16, 21)),
    )
    fed = net.random_inputs()
    fed["x0"][18, 3], fed["x0"][7, 0], fed["x0"][2, 2] = NAN, INF, -INF
    fed["x1"][0, 18, 5], fed["x2"][1, 4, 20] = NAN, INF
    check(net, fed)


@pytest.mark.parametrize("value", [0.0, NAN, INF, -INF])
def test_network_of_one_value(value: float) -> None:
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 12, 12), 3, 16, 3, strides=[2, 2]))
    x = net.op("Add", x, net.conv(x, 16, 16, 3))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(x, net.op("Softmax", net.op("Gemm", pooled, net.weight(16, 5), net.weight(5))))
    check(net, {"x0": np.full((1, 3, 12, 12), value, "float32")}, targets=TARGETS[:1])
