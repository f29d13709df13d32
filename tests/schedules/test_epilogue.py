"""What is fused behind an operator: evaluated in the registers of its tile, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nets import Net, check

Anchor = Callable[[Net], tuple[str, tuple[int, ...]]]


def _conv(net: Net) -> tuple[str, tuple[int, ...]]:
    return net.conv(net.input(3, 5, 7, 9), 5, 19, 3), (3, 19, 7, 9)


def _pointwise(net: Net) -> tuple[str, tuple[int, ...]]:
    return net.conv(net.input(1, 16, 5, 5), 16, 40, 1), (1, 40, 5, 5)


def _depthwise(net: Net) -> tuple[str, tuple[int, ...]]:
    return net.conv(net.input(1, 21, 6, 6), 21, 21, 3, group=21), (1, 21, 6, 6)


def _gemm(net: Net) -> tuple[str, tuple[int, ...]]:
    product = net.op("MatMul", net.input(2, 7, 11), net.weight(11, 21, scale=0.3))
    return net.op("Add", product, net.weight(21)), (2, 7, 21)


def _matmul(net: Net) -> tuple[str, tuple[int, ...]]:
    return net.op("MatMul", net.input(2, 7, 11), net.input(2, 11, 21)), (2, 7, 21)


def _pool(net: Net) -> tuple[str, tuple[int, ...]]:
    x = net.op("Abs", net.input(1, 9, 8, 8))
    return net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), (1, 9, 8, 8)


ANCHORS = [_conv, _pointwise, _depthwise, _gemm, _matmul, _pool]


def _anchored(anchor: Anchor) -> tuple[Net, Callable[[], str], tuple[int, ...]]:
    """A net, and a function that adds one more such operator to it."""
    net = Net()
    _, shape = anchor(Net())
    return net, lambda: anchor(net)[0], shape


@pytest.mark.parametrize("anchor", ANCHORS)
def test_activations(anchor: Anchor) -> None:
    net, make, _ = _anchored(anchor)
    for kind in (
        "Relu",
        "Sigmoid",
        "Tanh",
        "HardSwish",
        "HardSigmoid",
        "LeakyRelu",
        "Elu",
        "Softplus",
        "Neg",
    ):
        net.output(net.op(kind, make()))
    clipped = net.op("Clip", make(), net.constant(0.0, "float32"), net.constant(0.5, "float32"))
    x = make()
    silu = net.op("Mul", x, net.op("Sigmoid", x))
    x = make()
    half, one, root = (net.constant(v, "float32") for v in (0.5, 1.0, 2**0.5))
    gelu = net.op("Mul", net.op("Mul", x, half), net.op("Add", one, net.op("Erf", net.op("Div", x, root))))
    net.output(clipped, silu, gelu)
    check(net)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_sums_and_products(anchor: Anchor) -> None:
    net, make, shape = _anchored(anchor)
    broadcast = [
        shape,
        (1,) * len(shape),
        tuple(extent if i == 1 else 1 for i, extent in enumerate(shape)),
        (*shape[:-1], 1),
        (1, *shape[1:]),
        shape[-1:],
    ]
    for other in broadcast:
        net.output(
            net.op("Add", make(), net.input(*other)),
            net.op("Mul", net.weight(*other, scale=1.0), net.op("Relu", make())),
        )
    net.output(net.op("Add", net.op("Relu", make()), make()))
    net.output(net.op("Max", net.op("Sub", make(), net.weight(*shape)), net.input(*shape[1:])))
    check(net)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_result_that_is_used_again(anchor: Anchor) -> None:
    """Inside the epilogue, behind it, and as an output of the network."""
    net, make, _ = _anchored(anchor)
    y = make()
    relu = net.op("Relu", y)
    net.output(y, relu, net.op("Mul", net.op("Add", y, relu), y))
    check(net)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_result_that_is_broadcast(anchor: Anchor) -> None:
    """A result that another operand enlarges is no epilogue: every element is read many times."""
    net, make, shape = _anchored(anchor)
    larger = net.input(4, *(1,) * len(shape))
    enlarged = [net.op(kind, make(), larger) for kind in ("Add", "Mul", "Max", "Min", "Less", "Pow")]
    net.output(
        *[net.op("Cast", e, to=1) for e in enlarged[:-1]],
        net.op("Pow", net.op("Abs", make()), net.op("Abs", larger)),
    )
    check(net)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_result_that_is_padded_behind_or_cut(anchor: Anchor) -> None:
    """Read where it is written, but not everywhere or not only there: no epilogue."""
    net, make, shape = _anchored(anchor)
    for axis in range(1, len(shape)):
        behind = [2 if place == len(shape) + axis else 0 for place in range(2 * len(shape))]
        net.output(net.op("Pad", make(), net.ints(*behind)))
        net.output(net.op("Slice", make(), net.ints(0), net.ints(shape[axis] - 1), net.ints(axis)))
    check(net)
