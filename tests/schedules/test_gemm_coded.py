"""Products by 4- and 8-bit weights: the kernel against float64 on the same integers and scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run, template

from dlcomp.schedules.coding import Coding, coding_of, example, is_coded
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
    st.sampled_from([Coding(8), Coding(4), Coding(8, 16), Coding(4, 16), Coding(4, 32), Coding(8, 24)]),
    st.data(),
)
@settings(deadline=None, max_examples=25)
def test_any_shape(m: int, n: int, k: int, coding: Coding, data: st.DataObject) -> None:
    workload = Gemm(m, n, k, coding.text)
    knobs = data.draw(st.sampled_from(template(NAME).space(workload, HOST)))
    check(workload, dict(knobs))


@pytest.mark.parametrize("coding", ["w8", "w4", "w4g32", "w8g16"])
@pytest.mark.parametrize("target", ["x86_64-linux-gnu:znver3", "x86_64-linux-gnu:x86-64"])
def test_other_vectors(coding: str, target: str) -> None:
    workload = Gemm(5, 45, 77, coding)
    check(workload, dict(template(NAME).choose(workload, Target.parse(target))), target)


def test_only_this_template_takes_such_weights() -> None:
    from dlcomp.schedules import templates

    for m in (0, 1, 100):
        taken = [t.name for t in templates() if t.accepts(Gemm(m, 64, 64, "w4g32"), HOST)]
        assert taken == ([NAME] if m else [])


@given(st.sampled_from([4, 8]), st.integers(0, 512))
def test_the_name_of_a_coding(bits: int, group: int) -> None:
    coding = Coding(bits, group)
    assert coding_of(coding.text) == coding
    assert is_coded(coding.text)
    workload = Gemm(1, 2, 3, coding.text)
    assert from_text(to_text(workload)) == workload


def test_other_arithmetic_is_no_coding() -> None:
    assert not any(is_coded(name) for name in ("float32", "u8s8x4", "s16x2", "w5", "w4g"))
    with pytest.raises(ValueError, match="w5"):
        coding_of("w5")
