"""Products by weights with zeros anywhere, against onnxruntime and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run, template
from nets import TARGETS, Net, check, compile_for, schedules
from test_block_sparse import sparse, stored

from dlcomp.schedules.sparsity import counts, example, left
from dlcomp.schedules.workload import Gemm
from dlcomp.target import Target


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 150),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    st.integers(0, 1 << 30),
    st.sampled_from(TARGETS),
)
def test_any_extents_and_densities(m: int, n: int, k: int, density: float, pick: int, target: str) -> None:
    rng = np.random.default_rng(pick)
    x, weight = rng.standard_normal((m, k)).astype("float32"), sparse(rng, k, n, density, 1)
    workload = Gemm(m, n, k, stored=stored(weight, 1))
    chosen, resolved = template("gemm.unstructured"), Target.parse(target)
    if not chosen.accepts(workload, resolved):
        assert min(m, k) < resolved.vector_bits // 32
        return
    space = chosen.space(workload, resolved)
    found = run("gemm.unstructured", workload, space[pick % len(space)], [x, weight], (m, n), target)
    assert np.abs(found - x.astype(float) @ weight).max() <= 1e-5 * max(1.0, np.abs(found).max())


def test_epilogues_of_convolutions() -> None:
    rng = np.random.default_rng(0)
    net = Net()
    x, residual = net.input(2, 64, 9, 7), net.input(2, 72, 9, 7)
    for kind in ("Relu", "Sigmoid", "Tanh", "HardSwish"):
        weight = sparse(rng, 64, 72, 0.1, 1).T.reshape(72, 64, 1, 1)
        y = net.op("Conv", x, net.constant(np.ascontiguousarray(weight)), net.weight(72))
        net.output(net.op("Add", net.op(kind, y), residual))
    for artifact in check(net):
        assert set(schedules(artifact, "gemm")) == {"gemm.unstructured"}


def test_a_result_that_is_used_again() -> None:
    net = Net()
    y = net.op("MatMul", net.input(3, 20, 48), net.constant(sparse(net.rng, 48, 40, 0.1, 1)))
    net.output(y, net.op("Mul", net.op("Relu", y), y))
    for artifact in check(net):
        assert set(schedules(artifact, "gemm")) == {"gemm.unstructured"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_meets_only_zeros_is_not_read(value: float) -> None:
    net = Net()
    weight = sparse(net.rng, 64, 64, 0.1, 1)
    weight[5] = 0
    weight[5, 3] = 1
    net.output(net.op("MatMul", net.input(32, 64), net.constant(weight)))
    x = net.rng.standard_normal((32, 64)).astype("float32")
    want = x @ weight
    x[7, 5] = value
    want[7, 3] = value
    for artifact in compile_for(net):
        assert schedules(artifact, "gemm") == ["gemm.unstructured"]
        (found,) = artifact.run({"x0": x}).values()
        np.testing.assert_allclose(found, want, atol=1e-5)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.6), st.sampled_from([1, 8, 16, 32]))
def test_an_example_has_what_is_stored(inputs: int, outputs: int, density: float, width: int) -> None:
    """The tuner measures kernels on it: the kernel's own width must have as many vectors."""
    rng = np.random.default_rng(0)
    text = left(sparse(rng, inputs, outputs, density, width))
    if not text:
        return
    made = example(inputs, outputs, text, rng)
    widest, count = max(counts(text).items())
    assert int(stored(made, widest).split(":")[1]) == count
