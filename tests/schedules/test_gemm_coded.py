"""Products by 4- and 8-bit weights: the kernel against float64 on the same integers and scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run, template

from dlcomp.schedules.coding import Codebook, Coding, coding_of, example, is_coded, shared
from dlcomp.schedules.workload import Gemm, from_text, to_text
from dlcomp.target import Target

HOST = Target.parse("host")
NAME = "gemm.coded"


def check(workload: Gemm, knobs: dict[str, int], target: str = "host") -> None:
    rng = np.random.default_rng(workload.m + workload.n + workload.k)
    data = rng.standard_normal((workload.m, workload.k), dtype=np.float32)
    weight = example(workload.k, workload.n, coding_of(workload.arithmetic), rng)
    found = run(NAME, workload, knobs, [data, weight], (workload.m, workload.n), target)
    wide, reals = data.astype(np.float64), weight.reals().astype(np.float64)
    sums = np.abs(wide) @ np.abs(reals)
    # A sum of k products, each rounded: far below the error of one wrong integer.
    assert (np.abs(found - wide @ reals) <= 2e-7 * np.sqrt(workload.k + 16) * sums + 1e-12).all()


@given(
    st.integers(1, 20),
    st.integers(1, 70),
    st.integers(1, 150),
    st.sampled_from(
        [
            *(Coding(8), Coding(4), Coding(8, 16), Coding(4, 16), Coding(4, 32), Coding(8, 24)),
            *(Codebook(bits) for bits in range(2, 9)),
        ]
    ),
    st.data(),
)
@settings(deadline=None, max_examples=40)
def test_any_shape(m: int, n: int, k: int, coding: Coding | Codebook, data: st.DataObject) -> None:
    workload = Gemm(m, n, k, coding.text)
    knobs = data.draw(st.sampled_from(template(NAME).space(workload, HOST)))
    check(workload, dict(knobs))


@pytest.mark.parametrize("coding", ["w8", "w4", "w4g32", "w8g16"])
@pytest.mark.parametrize("target", ["x86_64-linux-gnu:znver3", "x86_64-linux-gnu:x86-64"])
def test_other_vectors(coding: str, target: str) -> None:
    workload = Gemm(5, 45, 77, coding)
    check(workload, dict(template(NAME).choose(workload, Target.parse(target))), target)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codebooks_in_short_registers(bits: int) -> None:
    """Eight values a register: a codebook is in up to 32 of them."""
    target = Target.parse("x86_64-linux-gnu:znver3")
    for knobs in template(NAME).space(Gemm(3, 45, 77, f"c{bits}"), target)[::7]:
        check(Gemm(3, 45, 77, f"c{bits}"), dict(knobs), "x86_64-linux-gnu:znver3")


def test_codebooks_need_an_instruction() -> None:
    workload = Gemm(1, 64, 64, "c5")
    accepts = {
        name: template(NAME).accepts(workload, Target.parse(name))
        for name in ("x86_64-linux-gnu:znver3", "x86_64-linux-gnu:x86-64", "aarch64-linux-gnu:cortex-a72")
    }
    assert list(accepts.values()) == [True, False, False]


def test_what_a_codebook_is() -> None:
    weight = np.array([[3.0, 0.0, -1.5], [0.0, -0.0, 3.0]], np.float32)
    found = shared(weight)
    assert found is not None
    assert found.coding == Codebook(2)
    np.testing.assert_array_equal(found.reals(), weight)
    assert (found.numbers[weight == 0] == 0).all()
    assert shared(np.arange(257, dtype=np.float32).reshape(1, -1)) is None
    wide = shared(np.arange(256, dtype=np.float32).reshape(2, -1))
    assert wide is not None
    assert wide.coding == Codebook(8)
    for value in (np.nan, np.inf):
        assert shared(np.array([[1.0, value]], np.float32)) is None
    assert shared(np.zeros((0, 4), np.float32)) is None


def test_only_this_template_takes_such_weights() -> None:
    from dlcomp.schedules import templates

    for m in (0, 1, 100):
        taken = [t.name for t in templates() if t.accepts(Gemm(m, 64, 64, "w4g32"), HOST)]
        assert taken == ([NAME] if m else [])


@given(st.sampled_from([4, 8]), st.integers(0, 512))
def test_the_name_of_a_coding(bits: int, group: int) -> None:
    for coding in (Coding(bits, group), Codebook(2 + group % 7)):
        assert coding_of(coding.text) == coding
        assert is_coded(coding.text)
        workload = Gemm(1, 2, 3, coding.text)
        assert from_text(to_text(workload)) == workload


def test_other_arithmetic_is_no_coding() -> None:
    assert not any(is_coded(name) for name in ("float32", "u8s8x4", "s16x2", "w5", "w4g", "c1", "c9"))
    with pytest.raises(ValueError, match="w5"):
        coding_of("w5")
