"""The database: whole records only, whatever happened to its bytes, and never those of another machine."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcomp.errors import UsageError
from dlcomp.schedules import TEMPLATES, select
from dlcomp.schedules.cpu.gemm import PackedGemm
from dlcomp.schedules.workload import Gemm, to_text
from dlcomp.target import Target
from dlcomp.tune.candidates import candidates, choices, version_of
from dlcomp.tune.database import Database, ranked
from dlcomp.tune.records import Record, parse_line, target_key, template_version

HOST = Target.host()
WORKLOAD = Gemm(33, 48, 20)


def record(number: int = 0, **changes: object) -> Record:
    plain = Record(to_text(WORKLOAD), target_key(HOST), "v", "gemm.packed", {"rows": number}, seconds=1e-3)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


RECORDS = st.builds(
    Record,
    workload=st.text(max_size=20),
    target=st.text(max_size=20),
    version=st.text(max_size=5),
    template=st.text(max_size=10),
    knobs=st.dictionaries(st.text(max_size=5), st.integers(-(2**40), 2**40), max_size=4),
    status=st.sampled_from(["ok", "build", "timeout", "crash", "wrong", "invalid"]),
    seconds=st.floats(0, 1e6),
    spread=st.floats(0, 10),
    confirmed=st.booleans(),
    time=st.floats(0, 1e10),
    message=st.text(),
)


@given(RECORDS)
def test_a_line_gives_its_record_back(written: Record) -> None:
    line = written.to_line()
    assert line.count(b"\n") == 1
    assert parse_line(line) == written


@given(RECORDS, st.data())
def test_a_changed_byte_is_no_other_record(written: Record, data: st.DataObject) -> None:
    line = bytearray(written.to_line())
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    assert parse_line(bytes(line)) in (None, written)


@given(RECORDS, st.data())
def test_a_part_of_a_line_is_no_record(written: Record, data: st.DataObject) -> None:
    line = written.to_line().rstrip()
    assert parse_line(line[: data.draw(st.integers(0, len(line) - 1))]) is None
    assert parse_line(line[data.draw(st.integers(1, len(line))) :]) is None


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(content: bytes) -> None:
    assert parse_line(content) is None


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(0, 400))
def test_a_torn_tail_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    database = Database(tmp_path_factory.mktemp("torn"))
    for number in range(3):
        database.append(record(number))
    content = database.file.read_bytes()
    database.file.write_bytes(content[: len(content) - 1 - cut])
    before = database.records()
    database.append(record(9))
    assert database.records() == [*before, record(9)]
    assert before == [record(n) for n in range(3)][: len(before)]
    assert len(before) >= 3 - 1 - cut // len(record(0).to_line())


_WRITER = """
import sys
from dlcomp.tune.database import Database
from dlcomp.tune.records import Record
database = Database(sys.argv[1])
for number in range(10**9):
    database.append(Record("w", "t", "v", sys.argv[2], {"n": number}, message="x" * 2000))
    print(number, flush=True)
"""


def _kill_writers(folder: Path, times: int, seed: int = 0) -> None:
    """Two writers at once, killed at random moments; what they reported as written must be there."""
    rng = random.Random(seed)
    promised = set()
    for turn in range(times):
        names = [f"{turn}-{side}" for side in "ab"]
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(folder), name], stdout=subprocess.PIPE, text=True
            )
            for name in names
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
        time.sleep(rng.random() * 0.05)
        for name, writer in zip(names, writers, strict=True):
            writer.send_signal(signal.SIGKILL)
            output = "0\n" + writer.communicate()[0]
            # A number without its newline may itself be torn.
            promised |= {(name, int(line)) for line in output[: output.rfind("\n")].split("\n")}
    found = {(r.template, r.knobs["n"]) for r in Database(folder).records()}
    assert promised <= found
    assert len(promised) > 2 * times


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    _kill_writers(tmp_path, 2)


@pytest.mark.slow
def test_fifty_killed_writers_lose_nothing(tmp_path: Path) -> None:
    _kill_writers(tmp_path, 50)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    database = Database(tmp_path)
    os.symlink("/dev/full", database.file)
    with pytest.raises(UsageError, match="cannot write"):
        database.append(record())


def test_merge_adds_nothing_twice(tmp_path: Path) -> None:
    one, two = Database(tmp_path / "one"), Database(tmp_path / "two")
    for number in range(3):
        one.append(record(number, time=float(number)))
    two.append(record(1, time=1.0))
    two.append(record(7, time=0.5))
    assert one.merge([two]) == 1
    assert one.merge([two, one]) == 0
    assert [r.knobs["rows"] for r in one.records()] == [0, 1, 2, 7]


def test_prune_keeps_what_is_accepted_and_drops_damage(tmp_path: Path) -> None:
    database = Database(tmp_path)
    for number in range(4):
        database.append(record(number))
    with database.file.open("ab") as file:
        file.write(b"damage\n")
    assert database.damaged() == 1
    assert database.prune(lambda r: r.knobs["rows"] != 2) == 2
    assert [r.knobs["rows"] for r in database.records()] == [0, 1, 3]
    assert database.damaged() == 0


def test_the_last_confirmed_record_ranks_first() -> None:
    records = [
        record(1, seconds=1.0, time=1, confirmed=True),
        record(2, seconds=3.0, time=3, confirmed=True),
        record(3, seconds=0.5, time=4),
        record(4, status="crash", seconds=0.0, time=5),
    ]
    assert [r.knobs["rows"] for r in ranked(records)] == [2, 1, 3]


def _second_best() -> tuple[str, dict[str, int]]:
    candidate = candidates(WORKLOAD, HOST)[1]
    return candidate.template, candidate.knobs


def test_records_choose_the_kernel(tmp_path: Path) -> None:
    name, knobs = _second_best()
    database = Database(tmp_path)
    database.append(record(template=name, knobs=knobs, version=version_of(name)))
    chosen = select(WORKLOAD, HOST, records=choices(database, HOST))
    assert chosen is not None
    assert (chosen[0].name, chosen[1]) == (name, knobs)


@pytest.mark.parametrize(
    "change",
    [
        {"target": target_key(Target.parse("x86_64-linux-gnu:haswell"))},
        {"version": "1-000000000000"},
        {"status": "wrong"},
        {"knobs": {"rows": 97, "width": 3, "chunk": 1}},
        {"template": "gone"},
    ],
    ids=["foreign", "stale", "failed", "outside the space", "unknown"],
)
def test_records_that_are_not_used(tmp_path: Path, change: dict[str, object]) -> None:
    name, knobs = _second_best()
    database = Database(tmp_path)
    good = record(template=name, knobs=knobs, version=version_of(name))
    database.append(dataclasses.replace(good, **change))  # type: ignore[arg-type]
    assert select(WORKLOAD, HOST, records=choices(database, HOST)) == select(WORKLOAD, HOST)


def test_a_template_that_is_not_asked_is_not_used(tmp_path: Path) -> None:
    name, knobs = _second_best()
    database = Database(tmp_path)
    database.append(record(template=name, knobs=knobs, version=version_of(name)))
    chosen = select(WORKLOAD, HOST, without=(name,), records=choices(database, HOST))
    assert chosen is None or chosen[0].name != name


def test_foreign_records_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(tmp_path)
    database.append(record(target="elsewhere"))
    assert choices(database, HOST) == {}
    assert "of other targets" in caplog.text


def test_every_feature_and_cache_is_part_of_the_key() -> None:
    base = target_key(HOST)
    for change in ({"l2_bytes": 1}, {"cores": 99}, {"cpu": "other"}, {"features": ("x",)}):
        assert target_key(dataclasses.replace(HOST, **change)) != base  # type: ignore[arg-type]


def test_versions_are_of_the_templates_own_code() -> None:
    versions = {t.name: template_version(type(t)) for t in TEMPLATES}
    assert versions["conv2d.direct"] != versions["window2d.direct"]
    assert versions["gemm.packed"] == template_version(PackedGemm)


def test_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tuning database"):
        Database.open(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="directory"):
        Database(tmp_path / "file")


def test_lines_are_json(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.append(record(3))
    (line,) = database.file.read_text().splitlines()
    assert json.loads(line)["record"]["knobs"] == {"rows": 3}
