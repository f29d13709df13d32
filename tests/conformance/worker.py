"""Runs cases one after another: names come in by line, a line of JSON goes out for each.

A process of its own, because a network may crash or hang the one that runs it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from backends import BACKENDS
from cases import Case, load


def verdict(case: Case, backend: str) -> tuple[str, str]:
    """``pass``, ``wrong`` (other outputs) or ``refused`` (an error), and why."""
    try:
        run = BACKENDS[backend](case.model, case.data[0][0])
        found = [run(inputs) for inputs, _ in case.data]
    except Exception as error:
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        return "refused", f"{type(error).__name__}: {text}"[:200]
    for results, (_, expected) in zip(found, case.data, strict=True):
        if reason := different(results, expected, case):
            return "wrong", reason
    return "pass", ""


def different(results: Sequence[Any], expected: Sequence[Any], case: Case) -> str:
    """Why the results are not the expected ones, as ONNX's own runner compares; empty if they are."""
    if len(results) != len(expected):
        return f"{len(results)} outputs, not {len(expected)}"
    for number, (found, right) in enumerate(zip(results, expected, strict=True)):
        if isinstance(right, list) or right is None:
            if not isinstance(found, list) or right is None:
                return f"output {number} is no sequence"
            if reason := different(found, right, case):
                return reason
            continue
        found, right = np.asarray(found), np.asarray(right)
        if found.dtype != right.dtype or found.shape != right.shape:
            return f"output {number}: {found.dtype}{found.shape}, not {right.dtype}{right.shape}"
        if right.dtype == object or right.dtype.kind in "US":
            if not (found == right).all():
                return f"output {number}: other strings"
            continue
        wide = [value.astype("float64") if value.dtype.kind in "fV" else value for value in (found, right)]
        if not np.allclose(*wide, rtol=case.rtol, atol=case.atol, equal_nan=True):
            with np.errstate(all="ignore"):
                gap = np.nanmax(np.abs(wide[0].astype("float64") - wide[1].astype("float64")))
            return f"output {number}: off by {gap:.3g}"
    return ""


def main() -> None:
    backend = sys.argv[1]
    warnings.simplefilter("ignore")
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for line in sys.stdin:
        name = line.strip()
        with np.errstate(all="ignore"):
            try:
                status, reason = verdict(load(name), backend)
            except Exception as error:
                status, reason = "refused", f"the test cannot be loaded: {error}"[:200]
        print(json.dumps([name, status, reason]), file=answers)


if __name__ == "__main__":
    main()
