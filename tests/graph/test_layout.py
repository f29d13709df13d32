"""Channels last: where transposes remain, and that every rule keeps the numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import dlcomp
from dlcomp.graph.fold import fold_constants
from dlcomp.graph.layout import channels_last
from dlcomp.graph.prepare import prepare
from dlcomp.graph.walk import op_name


def _after(net: Net) -> tvm.IRModule:
    return channels_last(fold_constants(prepare(dlcomp.load(net.model()).module)))


def _count(module: tvm.IRModule, name: str = "relax.permute_dims") -> int:
    found = []
    relax.analysis.post_order_visit(module["main"], lambda e: found.append(op_name(e)))
    return found.count(name)


def test_before_and_after() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32"), w: R.Tensor((4, 3, 1, 1), "float32")):
            with R.dataflow():
                c = R.nn.conv2d(x, w)
                r = R.nn.relu(c)
                p = R.nn.max_pool2d(r, [2, 2], [2, 2])
                R.output(p)
            return p

    @I.ir_module
    class After:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32"), w: R.Tensor((4, 3, 1, 1), "float32")):
            with R.dataflow():
                a = R.permute_dims(x, [0, 2, 3, 1])
                b = R.reshape(w, R.shape([4, 1, 1, 3]))
                c = R.nn.conv2d(a, b, data_layout="NHWC", kernel_layout="OHWI")
                r = R.nn.relu(c)
                p = R.nn.max_pool2d(r, [2, 2], [2, 2], layout="NHWC")
                q = R.permute_dims(p, [0, 3, 1, 2])
                y = q
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(channels_last(Before), After)


def _cnn(net: Net) -> None:
    x = net.op("Relu", net.conv(net.input(1, 3, 17, 17), 3, 16, 3, strides=[2, 2]))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = net.op("HardSwish", net.conv(x, 16, 16, 3, group=16))
    x = net.op(
        "Add", x, net.op("Mul", y, net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", y), 16, 16, 1)))
    )
    left, right = net.ops("Split", 2, x, axis=1, num_outputs=2)
    x = net.op("Concat", right, net.conv(left, 8, 8, 3), axis=1)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(net.op("Gemm", x, net.weight(16, 10), net.weight(10)))


def test_one_transpose_in_a_network_that_ends_in_a_vector() -> None:
    """The picture is moved once; the pooled features lie the same in both orders."""
    net = Net()
    _cnn(net)
    assert _count(_after(net)) == 1
    check(net)


def test_no_transpose_for_one_channel_pictures() -> None:
    net = Net()
    x = net.op("Relu", net.conv(net.input(3, 1, 9, 9), 1, 8, 3))
    net.output(net.op("Flatten", net.op("GlobalMaxPool", x)))
    assert _count(_after(net)) == 0
    check(net)


def test_transposes_of_the_network_cancel() -> None:
    """A network exported from a channels-last framework pays for none of its transposes."""
    net = Net()
    x = net.op("Transpose", net.input(1, 9, 11, 3), perm=[0, 3, 1, 2])
    x = net.op("Transpose", net.op("Relu", net.conv(x, 3, 8, 3)), perm=[0, 2, 3, 1])
    x = net.op("Add", x, net.weight(8))
    x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    net.output(net.op("Transpose", net.conv(x, 8, 5, 3), perm=[0, 2, 3, 1]))
    assert _count(_after(net)) == 0
    check(net)


def test_reshape_goes_through_where_dimensions_lie_together() -> None:
    """(n, c, h, w) to tokens (n, h*w, c), as vision transformers do: the data is there already."""
    net = Net()
    x = net.conv(net.input(2, 3, 8, 12), 3, 16, 4, strides=[4, 4], pads=[0, 0, 0, 0])
    tokens = net.op("Transpose", net.op("Reshape", x, net.ints(2, 16, 6)), perm=[0, 2, 1])
    net.output(net.op("MatMul", tokens, net.weight(16, 8)))
    assert _count(_after(net)) == 1
    check(net)


def test_channel_shuffle() -> None:
    """The channels are split in two dimensions and joined in another order: one transpose of its own."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 7), 3, 12, 3)
    x = net.op("Transpose", net.op("Reshape", x, net.ints(1, 3, 4, 6, 7)), perm=[0, 2, 1, 3, 4])
    x = net.conv(net.op("Reshape", x, net.ints(1, 12, 6, 7)), 12, 8, 1)
    net.output(net.op("GlobalAveragePool", x))
    assert _count(_after(net)) == 2
    check(net)


def test_reshape_that_needs_the_logical_order() -> None:
    net = Net()
    x = net.conv(net.input(2, 3, 4, 5), 3, 6, 3)
    net.output(
        net.op("Flatten", x),
        net.op("Reshape", x, net.ints(2, 3, 8, 5)),
        net.op("Reshape", x, net.ints(4, 60)),
        net.op("Reshape", x, net.ints(1, 2, 6, 2, 2, 5)),
        net.op("Reshape", x, net.ints(2, 6, 20, 1)),
        net.op("Squeeze", net.op("ReduceMean", x, net.ints(2)), net.ints(2)),
        net.op("Unsqueeze", x, net.ints(0, 3)),
    )
    check(net)


AXES = range(-4, 4)


@pytest.mark.parametrize("axis", AXES)
def test_operators_with_an_axis(axis: int) -> None:
    net = Net()
    x = net.conv(net.input(2, 3, 4, 6), 3, 8, 3)
    shape = [2, 8, 4, 6]
    size = shape[axis]
    ones = [1, 1, 1, 1]
    ones[axis] = size
    first, second, *_ = net.ops("Split", 2, x, net.ints(1, size - 1), axis=axis)
    slope = net.weight(*ones)
    net.output(
        net.op("Softmax", x, axis=axis),
        net.op("LogSoftmax", x, axis=axis),
        net.op("ReduceMean", x, net.ints(axis), keepdims=1),
        net.op("ReduceMax", x, net.ints(axis), keepdims=0),
        net.op("ReduceSum", x, net.ints(axis, 1 if axis % 4 != 1 else 2), keepdims=0),
        net.op("ReduceL2", x, net.ints(axis)),
        net.op("Concat", x, net.op("Relu", x), net.weight(*shape), axis=axis),
        net.op("Slice", x, net.ints(1), net.ints(1000), net.ints(axis)),
        net.op("Slice", x, net.ints(-1), net.ints(-1000), net.ints(axis), net.ints(-1)),
        net.op("Gather", x, net.ints(1, 0), axis=axis),
        net.op("PRelu", x, slope),
        net.op("Add", x, slope),
        net.op("ArgMax", x, axis=axis),
        first,
        net.op("Relu", second),
    )
    check(net, targets=("host",))


def test_pad_modes() -> None:
    net = Net()
    x = net.conv(net.input(1, 3, 5, 6), 3, 8, 3)
    pads = net.ints(0, 1, 2, 0, 0, 0, 1, 3)
    net.output(
        net.op("Pad", x, pads),
        net.op("Pad", x, pads, net.constant(-2.5, "float32")),
        net.op("Pad", x, pads, mode="reflect"),
        net.op("Pad", x, pads, mode="edge"),
        net.conv(net.op("Pad", x, pads), 9, 4, 3),
        net.op("Tile", x, net.ints(1, 2, 1, 3)),
        net.op("Expand", net.op("ReduceMean", x, net.ints(1)), net.ints(2, 8, 5, 6)),
        net.op("DepthToSpace", x, blocksize=2),
        net.op("LayerNormalization", x, net.weight(6), net.weight(6), axis=-1),
        net.op("InstanceNormalization", x, net.weight(8), net.weight(8)),
    )
    check(net)


def test_value_in_both_orders_is_moved_once() -> None:
    net = Net()
    x = net.conv(net.input(1, 3, 5, 6), 3, 8, 3)
    net.output(net.op("Reshape", x, net.ints(6, 40)), net.op("Reshape", x, net.ints(60, 4)), x)
    assert _count(_after(net)) == 2
    check(net)


def test_small_operand_moves_to_the_large_one() -> None:
    """A picture in its logical order times a mask that a convolution computed: not the picture is moved."""
    net = Net()
    picture = net.input(1, 8, 6, 7)
    mask = net.conv(net.input(1, 8, 6, 7), 8, 1, 1)
    net.output(net.op("Mul", picture, mask))
    assert _count(_after(net)) == 1
    check(net)


def test_signature_is_kept() -> None:
    net = Net()
    x = net.input(1, 3, 5, 6)
    y = net.conv(x, 3, 8, 3)
    net.output(y, net.op("Identity", x), net.op("Transpose", y, perm=[3, 2, 1, 0]))
    before = dlcomp.load(net.model()).module
    after = channels_last(before)
    tvm.ir.assert_structural_equal(after["main"].ret_ty, before["main"].ret_ty)
    check(net)


# Random chains --------------------------------------------------------------------------------

Shape = tuple[int, int, int, int]
Link = Callable[[Net, str, Shape, np.random.Generator], tuple[str, Shape]]


def _link_conv(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    co = int(rng.integers(1, 9))
    return net.conv(x, shape[1], co, 3), (shape[0], co, *shape[2:])


def _link_transpose(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    perm = [int(p) for p in rng.permutation(4)]
    n, c, h, w = (shape[p] for p in perm)
    return net.op("Transpose", x, perm=perm), (n, c, h, w)


def _link_broadcast(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    other = [int(d) if rng.random() < 0.5 else 1 for d in shape][int(rng.integers(0, 4)) :]
    operand = net.weight(*other) if rng.random() < 0.5 else net.input(*other)
    pair = (x, operand) if rng.random() < 0.5 else (operand, x)
    return net.op(str(rng.choice(["Add", "Sub", "Max"])), *pair), shape


def _link_concat(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    axis = int(rng.integers(0, 4))
    new = list(shape)
    new[axis] += 1
    slab = net.op("ReduceMax", x, net.ints(axis))
    n, c, h, w = new
    return net.op("Concat", slab, x, axis=axis), (n, c, h, w)


def _link_slice(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    axis = int(rng.integers(0, 4))
    new = list(shape)
    new[axis] = -(-shape[axis] // 2)
    n, c, h, w = new
    return net.op("Slice", x, net.ints(0), net.ints(10**6), net.ints(axis), net.ints(2)), (n, c, h, w)


def _link_merge(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    i = int(rng.integers(0, 3))
    new = [*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :]]
    new.insert(int(rng.integers(0, 4)), 1)
    n, c, h, w = new
    return net.op("Reshape", x, net.ints(*new)), (n, c, h, w)


def _link_softmax(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    return net.op("Softmax", x, axis=int(rng.integers(-4, 4))), shape


def _link_pool(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    return net.op(str(rng.choice(["MaxPool", "AveragePool"])), x, kernel_shape=[3, 3], pads=[1] * 4), shape


def _link_residual(net: Net, x: str, shape: Shape, rng: np.random.Generator) -> tuple[str, Shape]:
    return net.op("Add", x, net.op("Relu", net.conv(x, shape[1], shape[1], 1))), shape


LINKS: list[Link] = [
    _link_conv,
    _link_transpose,
    _link_broadcast,
    _link_concat,
    _link_slice,
    _link_merge,
    _link_softmax,
    _link_pool,
    _link_residual,
]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(LINKS), min_size=3, max_size=8), st.integers(0, 1000))
def test_random_chains(links: list[Link], seed: int) -> None:
    """Convolutions with everything that takes any order between them."""
    rng = np.random.default_rng(seed)
    net = Net(seed)
    shape: Shape = (2, 3, 5, 6)
    x, shape = _link_conv(net, net.input(*shape), shape, rng)
    for link in links:
        x, shape = link(net, x, shape, rng)
        if rng.random() < 0.2:
            net.output(x)
    net.output(net.op("Relu", x))
    check(net, targets=("host",))
