"""Integer products against NumPy: every arithmetic, every tail, the extremes of 8 bits, sums to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run, template

from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.workload import Conv2d, Gemm
from dlcomp.target import Target

HASWELL = "x86_64-linux-gnu:haswell"
# The arithmetics that the machine of the test can compute with, and a target that each is for.
HERE = [("s16", "host"), ("s16x2", HASWELL), ("s16x2", "host")]
if integer_arithmetic(Target.host(), "int8") == "u8s8x4":
    HERE.append(("u8s8x4", "host"))

EXTREMES = [
    lambda rng, shape, low, high: rng.integers(low, high + 1, shape),
    lambda rng, shape, low, high: np.full(shape, low),
    lambda rng, shape, low, high: np.full(shape, high),
    lambda rng, shape, low, high: rng.choice([low, high], shape),
]


def operands(
    name: str, data: tuple[int, ...], weight: tuple[int, ...], which: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kinds = arithmetic_of(name)
    low, high = (0, 255) if kinds.data == "uint8" else (-128, 255)
    a = EXTREMES[which % 4](rng, data, low, high)
    b = EXTREMES[which // 4](rng, weight, -128, 127)
    return a.astype(kinds.data), b.astype(kinds.weight)


@pytest.mark.parametrize(("name", "target"), HERE)
@pytest.mark.parametrize("which", range(16))
def test_products_of_extremes_are_exact(name: str, target: str, which: int) -> None:
    group = arithmetic_of(name).group
    for m, n, k, rows, width in ((5, 20, 6 * group, 4, 16), (3, 8, group, 3, 8), (7, 33, 260, 2, 24)):
        a, b = operands(name, (m, k), (k, n), which)
        workload = Gemm(m, n, k, name)
        found = run(
            "gemm.packed", workload, {"rows": rows, "width": width, "chunk": 1}, [a, b], (m, n), target
        )
        np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize(("name", "target"), HERE)
def test_deep_products_do_not_saturate(name: str, target: str) -> None:
    """The largest sums of 50,000 products of 8 bits, which still fit 32."""
    for which in (0, 6, 10, 15):
        a, b = operands(name, (2, 50_000), (50_000, 8), which)
        workload = Gemm(2, 8, 50_000, name)
        found = run("gemm.packed", workload, {"rows": 2, "width": 8, "chunk": 1}, [a, b], (2, 8), target)
        np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize(("name", "target"), HERE)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_product(name: str, target: str, data: st.DataObject) -> None:
    group = arithmetic_of(name).group
    m, n = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    k = data.draw(st.integers(1, 40)) * group
    workload = Gemm(m, n, k, name)
    space = template("gemm.packed").space(workload, Target.parse(target))
    knobs = data.draw(st.sampled_from(list(space)))
    a, b = operands(name, (m, k), (k, n), data.draw(st.integers(0, 15)), m * n)
    found = run("gemm.packed", workload, knobs, [a, b], (m, n), target)
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize(("name", "target"), HERE)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_convolution(name: str, target: str, data: st.DataObject) -> None:
    group = arithmetic_of(name).group
    n, groups = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 1, 2]))
    ci, co = data.draw(st.integers(1, 5)) * group, data.draw(st.integers(1, 40))
    kh, kw, sh, sw, dh, dw = (data.draw(st.integers(1, 3)) for _ in range(6))
    oh, ow = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    h, w = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
    workload = Conv2d(n, h, w, ci, oh, ow, co, kh, kw, sh, sw, dh, dw, 0, 0, groups, name)
    space = template("conv2d.direct").space(workload, Target.parse(target))
    knobs = data.draw(st.sampled_from(list(space)))
    which = data.draw(st.integers(0, 15))
    x, k = operands(name, (n, h, w, ci * groups), (co * groups, kh, kw, ci), which, oh * ow)
    want = np.zeros((n, oh, ow, groups, co), np.int64)
    for g in range(groups):
        for y in range(kh):
            for z in range(kw):
                part = x[:, y * dh :, z * dw :][:, : (oh - 1) * sh + 1 : sh, : (ow - 1) * sw + 1 : sw]
                part = part[..., g * ci : (g + 1) * ci].astype(np.int64)
                want[..., g, :] += part @ k[g * co : (g + 1) * co, y, z].astype(np.int64).T
    found = run("conv2d.direct", workload, knobs, [x, k], (n, oh, ow, groups * co), target)
    np.testing.assert_array_equal(found, want.reshape(found.shape))
