"""``dlcomp vta``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlcomp import vta_targets
from dlcomp.cli import main
from dlcomp.vta import assembly, isa
from dlcomp.vta.program import Program


@pytest.fixture
def program(tmp_path: Path) -> str:
    code = [isa.Gemm(uop_end=3, iter_out=5), isa.Finish()]
    path = tmp_path / "p.vta"
    path.write_bytes(Program.of(vta_targets.load("pynq"), code, []).to_bytes())
    return str(path)


def test_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vta", "targets"]) == 0
    assert "vta:pynq" in capsys.readouterr().out


def test_a_program_is_disassembled(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vta", "disasm", program]) == 0
    assert assembly.assemble(capsys.readouterr().out)[0] == isa.Gemm(uop_end=3, iter_out=5)


def test_cycles_and_trace(program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vta", "stat", program]) == 0
    assert "GEMM utilisation" in capsys.readouterr().out
    out = tmp_path / "t.json"
    assert main(["vta", "trace", program, "-o", str(out), "--preset", "older"]) == 0
    assert len(json.loads(out.read_text())["traceEvents"]) == 5


def test_refusals_have_the_exit_codes_of_all_commands(program: str, tmp_path: Path) -> None:
    assert main(["vta", "stat", program, "-t", "block32"]) == 3
    assert main(["vta", "stat", program, "--preset", "x"]) == 2
    assert main(["vta", "disasm", str(tmp_path / "none")]) == 2
    (tmp_path / "bad").write_bytes(b"nothing")
    assert main(["vta", "disasm", str(tmp_path / "bad")]) == 3
