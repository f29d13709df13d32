"""What is said where the package of an extra is not installed."""

from __future__ import annotations

import sys

import pytest

import dlcomp
from dlcomp.errors import ToolMissing


def test_tflite_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ToolMissing, match=r"dlcomp\[tflite\]"):
        dlcomp.load(b"\x1c\0\0\0TFL3")
