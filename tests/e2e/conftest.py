"""The helper that writes networks lies with the tests of the graph passes, the real networks with the
benchmarks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "graph"))


@pytest.fixture(scope="session")
def models() -> Any:
    """The module that fetches real networks."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        return importlib.import_module("models")
    finally:
        sys.path.pop(0)
