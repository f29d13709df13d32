"""Every tutorial runs and prints what its text promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"


def test_the_demo_reads_its_picture() -> None:
    command = [sys.executable, TUTORIALS / "01_compile_and_run.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "Read by a compiled net." in done.stdout
    assert "passed against onnxruntime" in done.stdout
    assert "ratio" in done.stdout


def test_the_ladder_climbs() -> None:
    command = [sys.executable, TUTORIALS / "02_gemm_ladder.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for step in ("1. three loops", "4. vectorized", "8. constant operand packed ahead"):
        assert step in done.stdout
