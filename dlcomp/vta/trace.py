"""Times of a program as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing show."""

from __future__ import annotations

from typing import Any

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
