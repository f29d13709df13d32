"""Objects come out of a compilation without any tool, in the target's own format."""

from __future__ import annotations

import pytest
from small_programs import dense

from dlcomp.codegen.program import Program
from dlcomp.target import Target

# e_machine of the ELF header.
_MACHINES = {"x86_64-linux-gnu:x86-64-v3": 62, "aarch64-linux-gnu:cortex-a72": 183, "riscv64-linux-gnu": 243}


@pytest.mark.parametrize("spec", list(_MACHINES))
def test_objects_are_the_targets(
    spec: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    program = dense(target=Target.parse(spec))
    assert set(program.objects) == {"lib0.o", "vm.o"}
    for data in program.objects.values():
        assert data[:4] == b"\x7fELF"
        assert int.from_bytes(data[18:20], "little") == _MACHINES[spec]
    assert capfd.readouterr().out == "", "stdout is for results"


def test_equal_programs_give_equal_objects(program: Program) -> None:
    assert dense().objects == program.objects
