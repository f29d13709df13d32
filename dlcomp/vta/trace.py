"""Times of a program as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlcomp.errors import UsageError
from dlcomp.vta.assembly import disassemble_one
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import CycleResult
from dlcomp.vta.program import Program
from dlcomp.vta.schedule import STAGES


def events(result: CycleResult, program: Program, config: VtaConfig) -> dict[str, Any]:
    """The trace in Chrome's JSON format, one row a stage, one microsecond a cycle."""
    code = program.instructions(config)
    rows: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": name}}
        for number, name in enumerate(STAGES)
    ]
    for span in result.spans:
        text = disassemble_one(code[span.index])
        rows.append(
            {
                "name": text.split()[0],
                "ph": "X",
                "pid": 0,
                "tid": span.stage,
                "ts": span.start,
                "dur": span.end - span.start,
                "args": {"index": span.index, "text": text},
            }
        )
    return {"traceEvents": rows, "otherData": {"cycles": result.cycles, "target": config.target}}


def write(result: CycleResult, program: Program, config: VtaConfig, path: Path) -> Path:
    """Write :func:`events` to ``path``; UsageError where that cannot be."""
    try:
        path.write_text(json.dumps(events(result, program, config)), encoding="utf-8")
    except OSError as err:
        raise UsageError(f"cannot write the trace: {err.strerror}", where=str(path)) from err
    return path
