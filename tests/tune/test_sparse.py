"""Tuning of products by weights with zeros: every template is measured on weights of that kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dlcomp
from dlcomp.schedules import SPARSE
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.sparsity import counts, groups, left, left_in_groups, vectors
from dlcomp.schedules.workload import Conv2d, Gemm
from dlcomp.target import Target
from dlcomp.tune.database import Database
from dlcomp.tune.reference import operands


@pytest.mark.parametrize(
    "workload",
    [
        Gemm(16, 64, 96, stored="1:1536 8:192 16:96"),
        Gemm(16, 60, 96, stored="1:600"),
        Conv2d(1, 6, 6, 16, 6, 6, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, stored="1:640 8:80 16:40"),
    ],
)
def test_operands_have_what_the_workload_says_is_left(workload: Gemm | Conv2d) -> None:
    (_, weight), constant = operands(workload)
    assert constant
    matrix = weight if isinstance(workload, Gemm) else weight.reshape(workload.co, -1).T
    assert counts(left(matrix)) == counts(workload.stored)
    assert np.count_nonzero(matrix) == counts(workload.stored)[1]


def test_sparse_kernels_are_measured(tmp_path: Path) -> None:
    workload = Gemm(16, 64, 96, stored="1:1536 8:192 16:96")
    (state,) = dlcomp.tune(workload, "host", 6, db=tmp_path).states
    records = Database(tmp_path).records()
    assert {r.status for r in records} == {"ok"}
    assert any(r.template == "gemm.block_sparse" for r in records)
    # At a quarter of the weights the best is never a dense one.
    assert state.best is not None
    assert state.best.template in SPARSE


@pytest.mark.parametrize("stored", ["16:96", "8:192 16:96 8x4:80 16x4:40", "16:48 16x4:12"])
def test_integers_have_what_the_workload_says_is_left(stored: str) -> None:
    workload = Gemm(16, 64, 96, "u8s8x4", stored)
    ((_, weight), constant) = operands(workload)
    assert constant
    assert weight.dtype == np.int8
    found = left_in_groups(weight, 4)
    for kind in (counts, groups):
        asked = {key: count for key, count in kind(stored).items() if key in (16, (16, 4))}
        assert asked.items() <= dict(kind(found)).items()


def test_convolutions_of_integers_are_measured_on_what_is_left(tmp_path: Path) -> None:
    name = integer_arithmetic(Target.host(), "int8")
    group = arithmetic_of(name).group
    places = 9 * 32 // group
    kept = places * 4 // 5  # a fifth of four blocks
    text = f"16:{kept * group}" + (f" 16x{group}:{kept}" if group > 1 else "")
    workload = Conv2d(1, 12, 12, 32, 10, 10, 64, 3, 3, 1, 1, 1, 1, 0, 0, 1, name, text)
    weight = operands(workload)[0][1]
    assert vectors(weight.reshape(64, -1).T, 16, group).sum() == kept
    (state,) = dlcomp.tune(workload, "host", 8, db=tmp_path).states
    records = Database(tmp_path).records()
    assert {r.status for r in records} == {"ok"}
    assert any(r.template == "conv2d.block_sparse_integers" for r in records)
    # At a fifth of the weights the best is never a dense one.
    assert state.best is not None
    assert state.best.template in SPARSE


def test_sparse_kernels_of_integers_are_measured(tmp_path: Path) -> None:
    workload = Gemm(16, 64, 96, integer_arithmetic(Target.host(), "int8"), "16:96")
    (state,) = dlcomp.tune(workload, "host", 6, db=tmp_path).states
    records = Database(tmp_path).records()
    assert {r.status for r in records} == {"ok"}
    assert any(r.template == "gemm.block_sparse_integers" for r in records)
    assert state.best is not None
    assert state.best.template in SPARSE
