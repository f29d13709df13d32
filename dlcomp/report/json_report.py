"""Results as JSON for machines: the machine, the rows, and named numbers."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlcomp import detect
from dlcomp.errors import UsageError
from dlcomp.runtime import native, threads
from dlcomp.target import Target


def machine() -> dict[str, Any]:
    """What a measurement depends on: the processor, the system and the versions."""
    from dlcomp import __version__

    host = Target.host()
    return {
        "processor": detect.cpuinfo().get("model name", platform.processor()),
        "cpu": host.cpu,
        "cores": host.cores,
        "threads": threads.available(),
        "vector_bits": host.vector_bits,
        "l2_bytes": host.l2_bytes,
        "l3_bytes": host.l3_bytes,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"dlcomp": __version__, **native.versions(), "onnxruntime": _onnxruntime()},
    }


def report(rows: Sequence[Any], summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``rows`` (results, or mappings) with the machine that they were measured on."""
    plain = [row.to_json() if hasattr(row, "to_json") else dict(row) for row in rows]
    return {"machine": machine(), "rows": plain, "summary": dict(summary or {})}


def write(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write ``content`` to ``path``."""
    where = Path(path)
    try:
        where.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as err:
        raise UsageError(f"cannot be written: {err.strerror}", where=str(where)) from err
    return where


def _onnxruntime() -> str:
    from importlib import metadata

    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return ""
