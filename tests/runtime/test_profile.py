"""A profile adds up, and its trace is one that Perfetto reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dlcomp.errors import UsageError
from dlcomp.report.json_report import report
from dlcomp.runtime import peaks
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.profile import ProfileResult, profile


@pytest.fixture(scope="module")
def result(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> ProfileResult:
    return profile(artifact, runs=5, warmup_s=0.01, threads=1, trace=trace_file(tmp_path_factory))


def trace_file(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "trace.json"


def test_every_kernel_is_there_and_the_shares_add_up(result: ProfileResult) -> None:
    assert {kernel.name for kernel in result.kernels} == {"matmul", "add", "relu"}
    assert sum(kernel.share for kernel in result.kernels) == pytest.approx(1)
    assert result.kernel_s == pytest.approx(sum(kernel.seconds for kernel in result.kernels))
    assert result.gap_s == pytest.approx(result.wall_s - result.kernel_s)
    assert result.kernels[0].seconds >= result.kernels[-1].seconds > 0


def test_rates_come_from_the_kernels_account(result: ProfileResult, artifact: Artifact) -> None:
    info = artifact.kernels[0]
    kernel = next(kernel for kernel in result.kernels if kernel.name == info.name)
    assert kernel.flops_rate == pytest.approx(info.flops / kernel.seconds)
    assert kernel.bytes_rate == pytest.approx(info.bytes / kernel.seconds)
    assert kernel.bound in ("compute", "memory")
    assert kernel.peak == pytest.approx(
        max(kernel.flops_rate / result.peaks.flops, kernel.bytes_rate / result.peaks.bytes)
    )


def test_a_kernel_without_an_account_has_a_time_only(result: ProfileResult) -> None:
    kernel = next(kernel for kernel in result.kernels if kernel.name == "add")
    assert kernel.calls == 1
    assert kernel.bound == ""


def test_observing_ends_with_the_profile(artifact: Artifact, result: ProfileResult) -> None:
    before = len(result.events)
    artifact.run({"x": np.zeros((4, 64), np.float32)})
    assert len(result.events) == before


def test_the_trace_is_chromes_json(result: ProfileResult, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = json.loads(trace_file(tmp_path_factory).read_text())
    complete = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert {event["name"] for event in complete if event["cat"] == "kernel"} == {"matmul", "add", "relu"}
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in complete)


def test_json_has_the_machine_and_no_trace(result: ProfileResult) -> None:
    found = json.loads(json.dumps(report([result], {"best": 1})))
    assert found["machine"]["versions"]["tvm"]
    assert found["summary"] == {"best": 1}
    assert "events" not in found["rows"][0]


def test_the_peaks_are_of_the_order_of_a_processor() -> None:
    found = peaks.measure(1)
    assert 1e9 < found.flops < 1e12
    assert 1e8 < found.bytes < 1e12
    assert peaks.measure(1) is found


def test_runs_must_be_positive(artifact: Artifact) -> None:
    with pytest.raises(UsageError):
        profile(artifact, runs=0)
