"""Change a .dlc file member by member, as a tool that knows the format would."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlcomp.runtime import container, storage

Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: Members) -> Path:
    """Store ``content`` as it is."""
    container.write(path, [(name, [data], len(data)) for name, data in content.items()])
    return path


def edited(source: Path, path: Path, change: Callable[[Members, dict[str, Any]], None]) -> Path:
    """``source`` after ``change(members, manifest)``, at ``path``; only the manifest itself is rehashed."""
    content = members(source)
    manifest = json.loads(content["manifest.json"])
    change(content, manifest)
    if "manifest.json" in content:
        put_manifest(content, manifest)
    return write(path, content)


def put_manifest(content: Members, manifest: dict[str, Any]) -> None:
    """Replace the manifest and its hash."""
    content["manifest.json"] = json.dumps(manifest).encode()
    content["manifest.sha256"] = storage.hash_line(content["manifest.json"])


def rehash(content: Members, manifest: dict[str, Any]) -> None:
    """Make the hashes of ``manifest`` those of ``content``."""
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in content.items()
        if not name.startswith("manifest.")
    }
