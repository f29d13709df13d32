"""Results render, and say the numbers that people look for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dlcomp.report import tables
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.bench import BenchResult, Latency, Ratio
from dlcomp.runtime.metric import Difference
from dlcomp.runtime.profile import profile
from dlcomp.runtime.verify import VerifyResult


def text(rendered: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rendered)
    return console.export_text()


def test_a_benchmark_shows_both_sides_and_the_ratio() -> None:
    ours, theirs = Latency.of([0.001] * 5), Latency.of([0.002] * 5)
    found = text(
        tables.bench_table(BenchResult("m", "t", 2, ours, "peer 1.0", theirs, Ratio.of([2.0, 2.2, 1.8])))
    )
    for part in ("1.000", "2.000", "peer 1.0 / dlcomp: 2.00", "quartiles 1.90 to 2.10", "2 threads"):
        assert part in found


def test_a_profile_shows_sum_wall_and_gap(artifact: Artifact) -> None:
    found = text(tables.profile_table(profile(artifact, runs=2, warmup_s=0, threads=1)))
    for part in ("matmul", "kernels", "wall", "gap", "GFLOP/s", "% of peak", "peaks measured here"):
        assert part in found


def test_a_verdict_shows_why_it_failed() -> None:
    outputs = {"y": Difference(0.5), "n": Difference(np.inf, problem="NaN at 1 other places")}
    found = text(tables.verify_table(VerifyResult("m", "t", "onnxruntime", 1e-4, outputs)))
    for part in ("FAILED", "too large", "NaN at 1 other places"):
        assert part in found


@pytest.mark.parametrize("dtype", ["float32", "bool", "int64", "float16"])
def test_outputs_of_every_dtype_and_size(dtype: str) -> None:
    outputs = {"y": np.ones((2, 3), dtype), "none": np.zeros((0, 3), dtype), "scalar": np.array(1, dtype)}
    found = text(tables.outputs_table(outputs))
    assert "[2, 3]" in found
    assert dtype in found


def test_outputs_are_saved_by_name(tmp_path: Path) -> None:
    outputs = {"file": np.ones(3, np.float32), "a/b": np.zeros(2, np.int64)}
    tables.save_outputs(outputs, tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as found:
        assert {name: found[name].tolist() for name in found.files} == {"file": [1, 1, 1], "a/b": [0, 0]}
    tables.save_outputs({"y": np.ones(3)}, tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").tolist() == [1, 1, 1]


def test_a_compilation_shows_the_file(artifact: Artifact, saved: Path) -> None:
    found = text(tables.artifact_table(artifact, saved, 1.5))
    for part in ("dense", str(saved), "test vector included"):
        assert part in found.replace("\n", "")
