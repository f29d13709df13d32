"""Constants: evaluated at compile time, lifted out of the program, passed once."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from nets import Net, check
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from dlcomp.graph.fold import fold_constants
from dlcomp.graph.walk import array_of, constant
from dlcomp.graph.weights import lift_weights

VALUES = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")


def _module(build, *shape: int) -> tvm.IRModule:
    """main(x) returning ``build(x)``."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape or (2,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(x))
        builder.emit_func_output(result)
    return builder.finalize()


def _returned(module: tvm.IRModule) -> np.ndarray:
    """The constant that main returns."""
    block = module["main"].body.blocks[0]
    assert len(block.bindings) == 1
    found = array_of(block.bindings[0].value)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("build", "want"),
    [
        (lambda c: relax.op.add(c, c), VALUES + VALUES),
        (lambda c: relax.op.rsqrt(relax.op.abs(c)), None),
        (lambda c: relax.op.permute_dims(c, [2, 0, 1]), VALUES.transpose(2, 0, 1)),
        (lambda c: relax.op.permute_dims(c), VALUES.transpose()),
        (lambda c: relax.op.reshape(c, [-1, 8]), VALUES.reshape(3, 8)),
        (lambda c: relax.op.expand_dims(c, [0, 4]), VALUES[None, ..., None]),
        (lambda c: relax.op.astype(c, "int32"), VALUES.astype("int32")),
        (lambda c: relax.op.maximum(c, relax.const(0.5, "float32")), np.maximum(VALUES, np.float32(0.5))),
        (lambda c: relax.op.negative(relax.op.sqrt(relax.op.exp(c))), -np.sqrt(np.exp(VALUES))),
    ],
)
def test_folds(build, want: np.ndarray | None) -> None:
    module = fold_constants(_module(lambda x: build(constant(VALUES))))
    if want is None:  # abs is not among the operators that occur between constants
        assert len(module["main"].body.blocks[0].bindings) > 1
        return
    found = _returned(module)
    assert found.dtype == want.dtype
    np.testing.assert_array_equal(found, want)


def test_leaves_what_depends_on_an_input() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.add(R.const(1.0), R.const(2.0))
                b = R.multiply(x, a)
                R.output(b)
            return b

    @I.ir_module
    class After:
        @R.function
        def main(x: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.multiply(x, R.const(3.0))
                b = a
                R.output(b)
            return b

    tvm.ir.assert_structural_equal(fold_constants(Before), After)


def test_division_by_zero_is_not_an_error() -> None:
    zero = constant(np.zeros(3, "float32"))
    found = _returned(
        fold_constants(_module(lambda x: relax.op.divide(constant(np.ones(3, "float32")), zero)))
    )
    assert np.isposinf(found).all()


def test_lift_shares_equal_constants() -> None:
    a, b = np.ones((2,), "float32"), np.ones((2,), "float32")
    other, flags = np.full((2,), 2, "float32"), np.ones((2,), "int32")

    def build(x):
        total = x
        for array in (a, b, other, flags.view("float32")):
            total = relax.op.add(total, constant(array))
        return total

    lifted, arrays = lift_weights(_module(build))
    assert len(arrays) == 3
    main = lifted["main"]
    assert [p.name for p in main.params] == ["x", "weights"]
    assert len(main.params[1].ty.fields) == 3


def test_lift_tells_bits_and_types_apart() -> None:
    """0.0 and -0.0 are equal numbers but other weights; so are the same bytes of another shape."""

    def build(x):
        flat = relax.op.add(x, constant(np.zeros(4, "float32")))
        signed = relax.op.add(flat, constant(np.full(4, -0.0, "float32")))
        return relax.op.add(signed, constant(np.zeros((1, 4), "float32")))

    _, arrays = lift_weights(_module(build, 4))
    assert [(a.shape, bool(np.signbit(a).any())) for a in arrays] == [
        ((4,), False),
        ((4,), True),
        ((1, 4), False),
    ]


def test_lift_without_constants_keeps_the_signature() -> None:
    module = _module(relax.op.exp)
    lifted, arrays = lift_weights(module)
    assert arrays == ()
    assert lifted is module


def test_weights_of_any_rank_end_to_end() -> None:
    """Numbers, vectors and matrices, the same one used twice, and one that is returned as it is."""
    net = Net()
    x = net.input(3, 4)
    number, vector, matrix = net.constant(0.25, "float32"), net.weight(4), net.weight(3, 4)
    net.output(
        net.op("Add", x, number),
        net.op("Mul", net.op("Add", x, vector), vector),
        net.op("Max", x, net.op("Sub", matrix, number)),
        net.op("Where", net.op("Less", x, number), number, x),
        net.op("Softplus", x),
        net.op("Mul", net.op("Relu", matrix), number),
    )
    check(net)
