"""The benchmark counts what it says, stops when it says, and compares in turn."""

from __future__ import annotations

import builtins
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks_onnx import dense_network

from dlcomp.codegen.program import Program
from dlcomp.errors import ToolMissing, UsageError
from dlcomp.report.json_report import report
from dlcomp.runtime import bench as module
from dlcomp.runtime import threads
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.bench import Latency, Ratio, bench

QUICK: dict[str, Any] = {"warmup_s": 0.0, "min_time_s": 0.02, "min_runs": 5}


def clock(monkeypatch: pytest.MonkeyPatch, step: float) -> list[float]:
    """Replace the clock by one that a run of any side moves by ``step``."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("step", "min_time", "min_runs"), [(0.001, 1.0, 20), (0.5, 1.0, 20), (0.001, 0.0, 5)]
)
def test_it_stops_when_time_and_count_are_both_reached(
    monkeypatch: pytest.MonkeyPatch, step: float, min_time: float, min_runs: int
) -> None:
    now = clock(monkeypatch, step)

    def run() -> None:
        now[0] += step

    (turns,) = module._take_turns([run], min_time, min_runs)
    times = [seconds for turn in turns for seconds in turn]
    assert len(times) >= min_runs
    assert sum(times) >= min_time - 1e-9
    assert len(times) - len(turns[-1]) < min_runs or sum(times) - sum(turns[-1]) < min_time


def test_sides_take_turns_that_start_with_an_uncounted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch, 0)
    order: list[str] = []

    def side(name: str, step: float) -> Any:
        def run() -> None:
            order.append(name)
            now[0] += step

        return run

    turns = module._take_turns([side("a", 0.03), side("b", 0.012)], 0.0, 2)
    assert order[:8] == ["a", "a", "b", "b", "b", "a", "a", "b"]
    assert [len(turn) for turn in turns[0]] == [1, 1]
    assert [len(turn) for turn in turns[1]] == [2, 2]


def test_statistics_are_those_of_numpy() -> None:
    times = [0.001 * n for n in range(1, 101)]
    found = Latency.of(times)
    assert found.count == 100
    assert found.min == 0.001
    assert found.median == pytest.approx(np.median(times))
    assert found.p99 == pytest.approx(np.percentile(times, 99))
    assert found.spread == pytest.approx(np.subtract(*np.percentile(times, [75, 25])) / np.median(times))
    assert found.throughput == pytest.approx(1 / np.mean(times))
    assert Ratio.of([1.0, 2.0, 3.0]).low == 1.5


def test_a_plain_benchmark(artifact: Artifact) -> None:
    found = bench(artifact, **QUICK)
    assert found.latency.count >= 5
    assert 0 < found.latency.min <= found.latency.median <= found.latency.p90 <= found.latency.p99
    assert found.ratio is None
    assert report([found])["rows"][0]["latency"]["count"] == found.latency.count


def test_an_artifact_is_as_fast_as_itself(artifact: Artifact, saved: Path) -> None:
    import dlcomp

    found = bench(artifact, compare=dlcomp.open(saved), min_time_s=0.1, threads=1)
    assert found.ratio is not None
    assert 0.5 < found.ratio.median < 2


def test_onnxruntime_as_the_peer(artifact: Artifact, program: Program) -> None:
    pytest.importorskip("onnxruntime")
    found = bench(artifact, compare="onnxruntime", model=dense_network(program), threads=1, **QUICK)
    assert found.peer.startswith("onnxruntime ")
    assert found.peer_latency is not None
    assert found.peer_latency.count >= 5


def test_the_recorded_model_file_is_used_while_it_is_unchanged(program: Program, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "dense.onnx"
    onnx.save(dense_network(program), path)
    artifact = Artifact.build(program, source=path)
    assert artifact.manifest.source == {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    bench(artifact, compare="onnxruntime", **QUICK)
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(UsageError, match="has changed") as caught:
        bench(artifact, compare="onnxruntime", **QUICK)
    assert "--model" in str(caught.value)
    path.unlink()
    with pytest.raises(UsageError, match="is gone"):
        bench(artifact, compare="onnxruntime", **QUICK)


def test_without_a_model_the_flag_is_named(artifact: Artifact) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match="does not say") as caught:
        bench(artifact, compare="onnxruntime", **QUICK)
    assert "--model" in str(caught.value)


def test_openvino_as_the_peer(artifact: Artifact, program: Program) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    found = bench(artifact, compare="openvino", model=dense_network(program), **QUICK)
    assert found.peer.startswith("OpenVINO ")
    assert found.ratio is not None
    assert found.ratio.low > 0


def test_an_unknown_peer_is_refused(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="'tensorrt'"):
        bench(artifact, compare="tensorrt", **QUICK)


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_peer_names_its_package(
    artifact: Artifact, program: Program, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ToolMissing, match="is not installed") as caught:
        bench(artifact, compare=package, model=dense_network(program), **QUICK)
    assert f"pip install {package}" in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("count", [0, -1, 10_000, True, 1.5])
def test_a_number_of_threads_that_cannot_be_had_is_refused(artifact: Artifact, count: Any) -> None:
    with pytest.raises(UsageError, match="thread"):
        bench(artifact, threads=count, **QUICK)
    with pytest.raises(UsageError, match="thread"):
        artifact.run({"x": np.zeros((4, 64), np.float32)}, threads=count)


def test_the_number_of_threads_changes_after_the_first_run(artifact: Artifact) -> None:
    from tvm_ffi import get_global_func

    x = np.zeros((4, 64), np.float32)
    for count in [*range(1, threads.available() + 1), 1]:
        artifact.run({"x": x}, threads=count)
        assert get_global_func("runtime.NumThreads")() == count


def test_a_generic_target_does_not_ask_for_more_threads_than_there_are(program: Program) -> None:
    artifact = Artifact.build(replace(program, target=replace(program.target, cores=4096)))
    assert artifact.threads == threads.available()
