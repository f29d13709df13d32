"""Helpers of these tests, and of the graph tests, can be imported; workers find them as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

_FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "graph")]
sys.path[:0] = _FOLDERS


@pytest.fixture
def workers_import_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuner's worker processes can import ``faulty``."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([_FOLDERS[0], os.environ.get("PYTHONPATH", "")]))
