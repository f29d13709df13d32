"""Tuning of products by weights with zeros: every template is measured on weights of that kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dlcomp
from dlcomp.schedules import SPARSE
from dlcomp.schedules.sparsity import counts, left
from dlcomp.schedules.workload import Conv2d, Gemm
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
