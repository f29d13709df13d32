"""Whole tunings with tiny budgets: what they find, survive, resume from and hand to a compilation."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from nets import Net

import dlcomp
from dlcomp.errors import UsageError
from dlcomp.report.tuning import origins, save_curve
from dlcomp.schedules import _ADDED
from dlcomp.schedules.workload import Gemm, to_text
from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate
from dlcomp.tune.database import Database, ranked
from dlcomp.tune.pool import Outcome, Pool
from dlcomp.tune.tasks import of_workloads, tasks
from dlcomp.tune.tuner import Budget, Tuner

HOST = Target.host()
WORKLOAD = Gemm(24, 32, 16)


def network() -> dlcomp.Model:
    net = Net()
    image = net.input(1, 3, 12, 12)
    first = net.op("Conv", image, net.weight(16, 3, 3, 3), pads=[1, 1, 1, 1])
    second = net.op("Relu", net.op("Conv", first, net.weight(16, 16, 3, 3), pads=[1, 1, 1, 1]))
    third = net.op("Add", net.op("Conv", second, net.weight(16, 16, 3, 3), pads=[1, 1, 1, 1]), first)
    flat = net.op("Flatten", net.op("GlobalAveragePool", third))
    net.output(net.op("MatMul", flat, net.weight(16, 10)))
    return dlcomp.load(net.model())


@pytest.fixture
def plugins(workers_import_tests: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates registered by a test are gone after it."""
    monkeypatch.setattr("dlcomp.schedules._ADDED", [])
    assert _ADDED == []


FAULTS = {
    "HangsInBuild": "timeout",
    "CrashesInBuild": "crash",
    "RaisesInBuild": "build",
    "HangsInRun": "timeout",
    "CrashesInRun": "crash",
    "Wrong": "wrong",
    "Invalid": "invalid",
}


@pytest.mark.usefixtures("plugins")
def test_failures_are_survived_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers lack the variable that makes the template accept: it then refuses there."""
    names = [f"faulty:{name}" for name in FAULTS]
    real = subprocess.Popen

    def without_variable(*args: object, **options: object) -> object:
        environment = {k: v for k, v in os.environ.items() if k != "DLCOMP_TEST_TUNER"}
        return real(*args, **{**options, "env": environment})  # type: ignore[call-overload]

    monkeypatch.setenv("DLCOMP_TEST_TUNER", "1")
    monkeypatch.setattr("subprocess.Popen", without_variable)
    found = dlcomp.tune(WORKLOAD, HOST, 14, db=tmp_path, templates=names, limits_s=(6.0, 2.0))
    (state,) = found.states
    assert state.failures == Counter(FAULTS.values())
    assert state.best is not None
    assert not state.best.template.startswith("faulty")
    records = Database(tmp_path).records()
    failed = {r.template: r.status for r in records if r.status != "ok"}
    assert sorted(failed.values()) == sorted(FAULTS.values())
    assert sum(r.status == "ok" for r in records) >= 5


def test_resume_measures_only_what_is_new(tmp_path: Path) -> None:
    first = dlcomp.tune(WORKLOAD, HOST, 6, db=tmp_path)
    assert first.trials == 6
    again = dlcomp.tune(WORKLOAD, HOST, 6, db=tmp_path)
    assert again.trials == 0
    assert again.states[0].best == first.states[0].best
    more = dlcomp.tune(WORKLOAD, HOST, 9, db=tmp_path)
    # The default and the best known are measured again as the base.
    assert 3 <= more.trials <= 5
    settings = Counter((r.template, tuple(sorted(r.knobs.items()))) for r in Database(tmp_path).records())
    assert len(settings) == 9


def test_nothing_is_measured_at_effort_0(tmp_path: Path) -> None:
    assert dlcomp.tune(WORKLOAD, HOST, 0, db=tmp_path / "db").trials == 0
    assert not (tmp_path / "db").exists()


def test_time_is_a_limit(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = dlcomp.tune(WORKLOAD, HOST, Budget(1000, seconds=0.5), db=tmp_path)
    assert found.trials < 100
    assert time.monotonic() - begin < 20


def test_tasks_are_those_of_a_compilation() -> None:
    """The same kernels as `compile` makes, each once, the repeated one counted."""
    model = network()
    found = tasks(model, HOST)
    expected = {str(task.space[0]) for task in found}
    compiled = [k.schedule for k in model.compile(HOST).manifest.kernels if "{" in k.schedule]
    assert set(compiled) == expected
    assert sum(task.share for task in found) == pytest.approx(1.0)
    assert max(task.count for task in found) == 2


def test_a_compilation_uses_what_was_measured(tmp_path: Path) -> None:
    model = network()
    found = dlcomp.tune(model, HOST, 4, db=tmp_path, tasks="k3x3")
    assert all(state.trials for state in found.states)
    tuned, plain = model.compile(HOST, db=tmp_path), model.compile(HOST)
    labels = [k.schedule for k in tuned.manifest.kernels]
    assert origins(labels)["tuned"] == origins([k.schedule for k in plain.manifest.kernels])["analytic"] - 1
    assert {str(s.best) for s in found.states} <= {label.removesuffix(" tuned") for label in labels}
    feed = {"x0": np.random.default_rng(0).standard_normal((1, 3, 12, 12), dtype=np.float32)}
    for one, other in zip(tuned.run(feed).values(), plain.run(feed).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_budgets_follow_the_share_of_time() -> None:
    plain = of_workloads(Counter({f'{{"op": "Gemm", "m": {m}, "n": 64, "k": 64}}': 1 for m in (8, 64)}), HOST)
    one = [dataclasses.replace(task, share=share) for task, share in zip(plain, (0.9, 0.1), strict=True)]
    assert Budget(20).planned(one) == [36, 4]
    assert Budget(20).planned(one[:1]) == [20]
    assert Budget(0).planned(one) == [0, 0]
    assert Budget(10**6).planned(one) == [len(task.space) for task in one]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "("}, "cannot read the expression"),
        ({"tasks": "no such"}, "nothing to tune"),
        ({"target": "aarch64-linux-gnu"}, "cannot be measured"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dlcomp.tune(WORKLOAD, db=tmp_path, **options)


_TUNING = """
import sys, dlcomp
from dlcomp.schedules.workload import Gemm, to_text
dlcomp.tune(Gemm(24, 32, 16), "host", 100, db=sys.argv[1], shown=lambda p: print(p.trials, flush=True))
"""


def _kill_tunings(folder: Path, times: int) -> None:
    """Tunings killed at a random trial, each resuming the one before."""
    rng = np.random.default_rng(0)
    promised = 0
    for _ in range(times):
        tuning = subprocess.Popen(
            [sys.executable, "-c", _TUNING, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert tuning.stdout is not None
        before = 0
        for _ in range(int(rng.integers(1, 6))):
            before = int(tuning.stdout.readline() or before)
        time.sleep(rng.random() * 0.1)
        tuning.send_signal(signal.SIGKILL)
        numbers = tuning.communicate()[0].split("\n")[:-1]
        promised += int(numbers[-1]) if numbers else before
        assert len(Database(folder).records()) >= promised
    assert Database(folder).damaged() == 0


def test_a_killed_tuning_loses_no_record(tmp_path: Path) -> None:
    _kill_tunings(tmp_path, 2)


@pytest.mark.slow
def test_fifty_killed_tunings_lose_no_record(tmp_path: Path) -> None:
    _kill_tunings(tmp_path, 50)


def test_ctrl_c_keeps_all(tmp_path: Path) -> None:
    calls = []

    def once(progress: object) -> None:
        calls.append(progress)
        if len(calls) == 4:
            raise KeyboardInterrupt

    found = dlcomp.tune(WORKLOAD, HOST, 20, db=tmp_path, shown=once)
    assert found.interrupted
    assert len(Database(tmp_path).records()) == found.trials > 0


def test_the_curve_is_written(tmp_path: Path) -> None:
    found = dlcomp.tune(WORKLOAD, HOST, 4, db=tmp_path)
    curve = found.states[0].curve
    # A winner of the last comparison is a point more.
    assert list(dict.fromkeys(point[0] for point in curve)) == [1, 2, 3, 4]
    assert curve[-1][2] == found.states[0].best_s
    files = save_curve(found.to_json(), tmp_path / "curve.png")
    assert files[0].name == "curve.json"
    assert all(file.stat().st_size for file in files)


def test_folders_of_killed_tunings_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Pool(HOST) as living:
        abandoned = tmp_path / "dlcomp-tune-dead"
        abandoned.mkdir()
        (abandoned / "lock").touch()
        with Pool(HOST):
            assert len(list(tmp_path.iterdir())) == 2
            assert not abandoned.exists()
        assert Path(living.folder).exists()
    assert not list(tmp_path.iterdir())


class NoisyPool:
    """Short comparisons see no difference; loaded anew, the candidates after the default are the faster."""

    def __init__(self) -> None:
        self.candidates: dict[str, Candidate] = {}

    def build(self, workload: str, batch: Sequence[Candidate]) -> list[tuple[str, Outcome]]:
        paths = [str(len(self.candidates) + number) for number in range(len(batch))]
        self.candidates |= dict(zip(paths, batch, strict=True))
        return [(path, Outcome("ok")) for path in paths]

    def run(self, workload: str, path: str, against: str = "", turns: int = 5, loads: int = 1) -> Outcome:
        faster = loads > 1 and path != "0"
        return Outcome(
            "ok", value=[[0.9 if faster else 1.0] * turns * loads, [1.0] * turns * loads][: 1 + bool(against)]
        )

    def forget(self, path: str) -> None:
        pass


def test_those_nearest_to_the_best_meet_it_again_in_the_end(tmp_path: Path) -> None:
    (task,) = of_workloads(Counter([to_text(WORKLOAD)]), HOST)
    pool = NoisyPool()
    progress = Tuner([task], HOST, Database(tmp_path), cast("Pool", pool), Budget(6)).run()
    (state,) = progress.states
    assert state.best is not None
    assert state.best != task.space[0]
    assert state.trials == 6
    # Four meet it, each faster than the one that won before.
    assert state.best_s == pytest.approx(0.9**4)
    best = ranked([r for r in Database(tmp_path).of_target(HOST) if r.confirmed])[0]
    assert best.knobs == state.best.knobs
