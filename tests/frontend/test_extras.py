"""What is said where the package of an extra is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import dlcomp
from dlcomp.errors import ToolMissing


def test_tflite_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ToolMissing, match=r"dlcomp\[tflite\]"):
        dlcomp.load(b"\x1c\0\0\0TFL3")


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_exported_programs_without_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    if package == "onnxscript":
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\3\4")
    with pytest.raises(ToolMissing, match=rf"package {package}\n.*dlcomp\[torch\]"):
        dlcomp.load(path)
