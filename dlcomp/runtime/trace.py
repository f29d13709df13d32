"""A profile as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing show."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dlcomp.errors import UsageError
from dlcomp.runtime.profile import ProfileResult


def events(result: ProfileResult) -> dict[str, Any]:
    """The trace in Chrome's JSON format: times in microseconds, kernels and runtime in two rows."""
    known = {kernel.name: kernel for kernel in result.kernels}
    rows: list[dict[str, Any]] = [
        _named("process_name", 0, f"{result.name} ({result.threads} threads)"),
        _named("thread_name", 0, "kernels"),
        _named("thread_name", 1, "runtime"),
    ]
    for event in result.events:
        kernel = known.get(event.name)
        rows.append(
            {
                "name": event.name,
                "cat": "kernel" if kernel else "runtime",
                "ph": "X",
                "pid": 0,
                "tid": 0 if kernel else 1,
                "ts": event.start * 1e6,
                "dur": (event.end - event.start) * 1e6,
                "args": {"op": kernel.op, "schedule": kernel.schedule} if kernel else {},
            }
        )
    return {"traceEvents": rows, "displayTimeUnit": "ms", "otherData": {"target": result.target}}


def write(result: ProfileResult, path: str | os.PathLike[str]) -> Path:
    """Write the trace of ``result`` to ``path``."""
    where = Path(path)
    try:
        where.write_text(json.dumps(events(result)))
    except OSError as err:
        raise UsageError(f"cannot be written: {err.strerror}", where=str(where)) from err
    return where


def _named(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}
