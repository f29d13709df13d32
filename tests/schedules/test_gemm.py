"""Matrix products against onnxruntime: by constant weights, and of two computed operands."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check, schedules


def _packed(shapes: list[tuple[tuple[int, ...], int]]) -> Net:
    """Products of inputs (..., k) and constants (k, n)."""
    net = Net()
    for shape, n in shapes:
        net.output(net.op("MatMul", net.input(*shape), net.weight(shape[-1], n, scale=0.3)))
    return net


def _batched(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Net:
    """Products of two inputs."""
    net = Net()
    for left, right in pairs:
        net.output(net.op("MatMul", net.input(*left), net.input(*right)))
    return net


PACKED = {
    "ones": [((1, 1), 1), ((1, 5), 1), ((5, 1), 1), ((1, 1), 7), ((5, 1), 33), ((1, 64), 1)],
    "primes": [((7, 13), 17), ((31, 5), 3), ((2, 101), 19), ((53, 3), 37), ((13, 11), 67)],
    "tails": [((17, 16), 15), ((16, 32), 33), ((15, 8), 47), ((12, 12), 16), ((6, 7), 65), ((1, 9), 129)],
    "leading dimensions": [
        ((2, 3, 5), 7),
        ((3, 1, 8), 16),
        ((1, 1, 4, 9), 18),
        ((2, 1, 3, 5), 31),
        ((1, 17, 6), 5),
    ],
    "shared among cores": [((97, 130), 83), ((1, 512), 1000), ((2, 50, 64), 96)],
}
BATCHED = {
    "plain": [((3, 4, 5), (3, 5, 6)), ((2, 2, 7, 8), (2, 2, 8, 9)), ((4, 6), (6, 33)), ((1, 1), (1, 1))],
    "broadcast": [
        ((3, 1, 4, 5), (1, 2, 5, 6)),
        ((4, 5), (3, 5, 6)),
        ((2, 3, 4, 5), (5, 7)),
        ((1, 4, 5), (3, 5, 17)),
        ((2, 1, 4, 5), (3, 5, 6)),
    ],
    "narrow": [
        ((3, 9, 5), (3, 5, 1)),
        ((3, 9, 5), (3, 5, 3)),
        ((2, 1, 64), (2, 64, 7)),
        ((2, 8, 1), (2, 1, 5)),
    ],
    "tails": [
        ((2, 13, 7), (2, 7, 17)),
        ((2, 31, 16), (2, 16, 40)),
        ((5, 1, 3), (5, 3, 67)),
        ((1, 49, 32), (1, 32, 49)),
    ],
    "shared among cores": [((4, 50, 64), (4, 64, 50)), ((12, 33, 32), (12, 32, 33))],
}


@pytest.mark.parametrize("name", PACKED)
def test_product_by_weights(name: str) -> None:
    for artifact in check(_packed(PACKED[name])):
        assert set(schedules(artifact, "gemm")) <= {"gemm.packed"}


@pytest.mark.parametrize("name", BATCHED)
def test_product_of_inputs(name: str) -> None:
    for artifact in check(_batched(BATCHED[name])):
        assert set(schedules(artifact, "matmul")) <= {"matmul.direct", "matmul.blocked"}


def test_gemm_operator() -> None:
    """alpha, beta, transposed operands, biases of every broadcastable shape."""
    net = Net()
    x, t = net.input(5, 12), net.input(12, 5)
    net.output(
        net.op("Gemm", x, net.weight(12, 21), net.weight(21)),
        net.op("Gemm", x, net.weight(21, 12), net.weight(5, 1), transB=1, alpha=0.5, beta=2.0),
        net.op("Gemm", t, net.weight(12, 8), net.weight(1), transA=1),
        net.op("Gemm", x, net.weight(12, 3)),
        net.op("Gemm", x, net.weight(12, 3), net.weight(5, 3), beta=0.25),
    )
    check(net)


def test_products_of_vectors() -> None:
    net = Net()
    vector, matrix, batch = net.input(12), net.input(4, 12), net.input(3, 5, 12)
    net.output(
        net.op("MatMul", matrix, vector),
        net.op("MatMul", batch, vector),
        net.op("MatMul", vector, net.weight(12, 7)),
        net.op("MatMul", batch, net.weight(12)),
        net.op("MatMul", net.weight(4, 12), net.input(12, 9)),
        net.op("MatMul", net.input(3, 5, 12), net.weight(3, 12, 6)),
    )
    check(net)


def test_product_by_a_weight_used_twice() -> None:
    """The packed form belongs to one use; another use needs the other form."""
    net = Net()
    weight = net.weight(12, 20)
    first = net.op("MatMul", net.input(5, 12), weight)
    net.output(
        first,
        net.op("MatMul", first, net.op("Transpose", weight, perm=[1, 0])),
        net.op("Add", net.input(12, 20), weight),
    )
    check(net)


_extent = st.integers(1, 40)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 3), max_size=2), _extent, _extent, _extent), min_size=4, max_size=4
    )
)
def test_any_extents(cases: list[tuple[list[int], int, int, int]]) -> None:
    net = Net()
    for lead, m, n, k in cases:
        x = net.input(*lead, m, k)
        net.output(net.op("MatMul", x, net.weight(k, n)), net.op("MatMul", x, net.input(*lead[1:], k, n)))
    check(net)
