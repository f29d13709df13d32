"""Descriptions of VTA accelerators, one JSON file each, and their loader."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from dlcomp.errors import UsageError
from dlcomp.vta.config import VtaConfig

_FOLDER = Path(__file__).resolve().parent


@functools.lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Names of the descriptions in this folder, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


@functools.lru_cache(maxsize=64)
def load(name: str) -> VtaConfig:
    """The accelerator called ``name``, or described by the file ``@path.json``.

    Raises
    ------
    UsageError
        An unknown name, an unreadable file, or sizes that cannot be encoded (each rule named).
    """
    path = Path(name[1:]) if name.startswith("@") else _FOLDER / f"{name}.json"
    if not name.startswith("@") and name not in names():
        raise UsageError(f"unknown VTA target {name!r}", hint=f"one of {', '.join(names())}, or @file.json")
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise UsageError(f"cannot read the VTA description: {err}", where=str(path)) from err
    if not isinstance(keys, dict):
        raise UsageError("a VTA description is a JSON object", where=str(path))
    return VtaConfig.of(keys, where=path.name)
