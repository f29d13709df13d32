"""Strassen's algorithm: any size that it takes, both levels, epilogues, and that it has to be asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run
from nets import Net

import dlcomp
from dlcomp.schedules import ON_REQUEST, select
from dlcomp.schedules.cpu import strassen
from dlcomp.schedules.cpu.strassen import StrassenMatmul, products
from dlcomp.schedules.workload import BatchMatmul
from dlcomp.target import Target

NAME = "matmul.strassen"


@pytest.mark.parametrize("levels", [1, 2])
def test_the_products_of_blocks_are_the_product(levels: int) -> None:
    parts = 1 << levels
    rng = np.random.default_rng(levels)
    left, right = rng.integers(-9, 9, (2, parts, parts))
    result = np.zeros((parts, parts), int)
    for a, b, c in products(levels):
        one = sum(s * left[i, j] for s, i, j in a) * sum(s * right[i, j] for s, i, j in b)
        for sign, down, across in c:
            result[down, across] += sign * one
    np.testing.assert_array_equal(result, left @ right)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 40),
    st.sampled_from([(1, 8), (2, 16), (3, 24), (4, 32)]),
    st.integers(1, 45),
)
def test_any_size_that_it_takes(
    levels: int, m: int, n: int, k: int, tile: tuple[int, int], depth: int
) -> None:
    parts, (rows, width) = 1 << levels, tile
    workload = BatchMatmul(1, parts * rows * m, parts * width * n, parts * k)
    knobs = {"rows": rows, "width": width, "depth": depth, "group": 2, "levels": levels}
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1, workload.m, workload.k), dtype=np.float32)
    b = rng.standard_normal((1, workload.k, workload.n), dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strassen, "_LEAST", 1)
        found = run(NAME, workload, knobs, [a, b], (1, workload.m, workload.n), constant=False)
    want = a.astype("float64") @ b.astype("float64")
    np.testing.assert_allclose(found, want, rtol=0, atol=3e-5 * max(1.0, np.ptp(want)))


def test_it_is_not_taken_unless_asked_for() -> None:
    target = Target.parse("host")
    workload = BatchMatmul(1, 8192, 8192, 8192)
    plain, asked = select(workload, target), select(workload, target, without=())
    assert plain is not None
    assert asked is not None
    assert plain[0].name not in ON_REQUEST
    assert asked[0].name == NAME
    # Odd numbers of rows and small ones are not cut.
    assert not StrassenMatmul().accepts(BatchMatmul(1, 8191, 8192, 8192), target)
    assert not StrassenMatmul().accepts(BatchMatmul(1, 256, 256, 256), target)


def test_the_epilogue_runs_once_behind_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StrassenMatmul, "estimate", lambda *_: 0.0)
    network = Net()
    x, y, z = network.input(512, 512), network.input(512, 512), network.input(512, 512)
    network.output(network.op("Relu", network.op("Add", network.op("MatMul", x, y), z)))
    model = dlcomp.load(network.model())
    artifact = model.compile("host", strassen=True)
    assert any(kernel.schedule.startswith(NAME) for kernel in artifact.kernels)
    assert not any(kernel.schedule.startswith(NAME) for kernel in model.compile("host").kernels)
    assert dlcomp.verify(model, artifact).max_error < 1e-5
