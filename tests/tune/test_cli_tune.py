"""``dlcomp tune``, ``dlcomp db`` and ``dlcomp compile --db`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from nets import Net

from dlcomp import cli


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "db"
    report = path.with_name("tune.json")
    words = ["tune", "gemm", "5", "24", "16", "--trials", "4", "-o", str(path), "--json", str(report)]
    assert cli.main(words) == 0
    result = json.loads(report.read_text())
    assert result["trials"] == 4
    assert result["tasks"][0]["task"] == "Gemm 5x24x16"
    assert (path / "curve.json").exists()
    return path


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    capsys.readouterr()
    assert cli.main([*words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_db_lists_and_shows_the_best(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = _json(capsys, "db", "ls", str(database))
    (row,) = listed["rows"]
    assert row | {"target": "", "records": 0} == {
        "target": "",
        "use": "current",
        "workloads": 1,
        "records": 0,
        "failed": 0,
    }
    # Four trials, and the winners of the last comparison.
    assert 4 <= row["records"] <= 8
    (best,) = _json(capsys, "db", "best", str(database))
    assert best["seconds"] > 0
    assert best["schedule"].startswith("gemm.")
    foreign = _json(capsys, "db", "ls", str(database), "--target", "x86_64-linux-gnu:haswell")
    assert foreign["rows"][0]["use"] == "foreign"
    assert _json(capsys, "db", "best", str(database), "--target", "x86_64-linux-gnu:haswell") == []


def test_db_merges_and_prunes(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = str(tmp_path / "copy")
    count = _json(capsys, "db", "ls", str(database))["rows"][0]["records"]
    assert _json(capsys, "db", "merge", copy, str(database)) == {"added": count}
    assert _json(capsys, "db", "prune", copy) == {"removed": 0}
    foreign = ("db", "prune", copy, "--foreign", "--target", "x86_64-linux-gnu:haswell")
    assert _json(capsys, *foreign) == {"removed": count}


def test_compile_says_how_many_kernels_are_tuned(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    net.output(net.op("MatMul", net.op("MatMul", net.input(5, 16), net.weight(16, 24)), net.weight(24, 8)))
    path = tmp_path / "net.onnx"
    onnx.save(net.model(), path)
    words = ["compile", str(path), "-o", str(tmp_path / "net.dlc")]
    assert _json(capsys, *words, "--db", str(database))["kernels"] == {
        "tuned": 1,
        "analytic": 1,
        "default": 0,
    }
    assert _json(capsys, *words)["kernels"] == {"tuned": 0, "analytic": 2, "default": 0}
    assert cli.main([*words, "--db", str(database)]) == 0
    assert "1 tuned, 1 analytic, 0 default" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "gemm", "5", "24"],
        ["tune", "gemm", "5", "24", "0"],
        ["tune", "a.onnx", "b.onnx"],
        ["tune", "gemm", "5", "5", "5", "--effort", "4"],
        ["tune", "gemm", "5", "5", "5", "--target", "cuda:sm_90"],
        ["db", "ls", "/nonexistent"],
        ["db", "nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert "hint" in capsys.readouterr().err
