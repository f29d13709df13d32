"""An artifact's parts to and from its file: which member holds what, and that each is what was saved."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlcomp.errors import ArtifactError, UsageError
from dlcomp.runtime import compat, container
from dlcomp.runtime.manifest import Manifest, Member, Weight, parse

MANIFEST, WEIGHTS, CHECK = "manifest.json", "weights.bin", "check.npz"

# ONNX networks on strings, which the host runs around the program.
BEFORE, AFTER = "text/before.onnx", "text/after.onnx"

# The manifest has the hashes of all other members; its own is here, as sha256sum writes it.
MANIFEST_HASH = "manifest.sha256"

_OWN = frozenset({MANIFEST, MANIFEST_HASH, WEIGHTS})

Files = Mapping[str, bytes | memoryview]


def layout(arrays: Sequence[np.ndarray]) -> tuple[Weight, ...]:
    """Where each weight lies in ``weights.bin``."""
    found, position = [], 0
    for number, array in enumerate(arrays):
        position = math.ceil(position / container.ALIGNMENT) * container.ALIGNMENT
        found.append(Weight(f"weight{number}", array.dtype.name, array.shape, position, array.nbytes))
        position += array.nbytes
    return tuple(found)


def save(path: Path, manifest: Manifest, files: Files, weights: Sequence[np.ndarray]) -> Manifest:
    """Write a ``.dlc`` file, all or nothing; returns the manifest with the hashes."""
    members = {name: Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    if weights:
        digest, size = hashlib.sha256(), 0
        for piece in _pieces(manifest.weights, weights):
            digest.update(piece)
            size += len(piece)
        members[WEIGHTS] = Member(digest.hexdigest(), size)
    manifest = replace(manifest, members=members)
    encoded = manifest.encode()
    line = hash_line(encoded)
    parts: list[tuple[str, Any, int]] = [
        (MANIFEST, [encoded], len(encoded)),
        (MANIFEST_HASH, [line], len(line)),
    ]
    parts += [(name, [data], len(data)) for name, data in files.items()]
    if weights:
        parts.append((WEIGHTS, _pieces(manifest.weights, weights), members[WEIGHTS].bytes))
    try:
        container.write(path, parts)
    except OSError as err:
        raise UsageError(f"cannot be written: {err.strerror}", where=str(path)) from err
    return manifest


def hash_line(manifest: bytes) -> bytes:
    """The content of ``manifest.sha256``."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _pieces(layout: Sequence[Weight], arrays: Sequence[np.ndarray]) -> Iterator[bytes | memoryview]:
    """``weights.bin`` bit by bit: each weight at its offset, gaps filled with zeros."""
    position = 0
    for weight, array in zip(layout, arrays, strict=True):
        yield bytes(weight.offset - position)
        yield array.reshape(-1).view(np.uint8).data
        position = weight.offset + weight.bytes


def load(path: Path, *, check_host: bool) -> tuple[Manifest, dict[str, memoryview], list[np.ndarray]]:
    """Manifest, files and weights of a ``.dlc`` file, each member compared with its SHA-256."""
    archive = container.read(path)
    try:
        encoded = bytes(archive[MANIFEST])
        manifest = parse(encoded)
        if bytes(archive[MANIFEST_HASH]) != hash_line(encoded):
            raise ArtifactError(f"member {MANIFEST!r} is not what was saved (SHA-256)")
        refusal = compat.refusal(manifest) if check_host else None
        if refusal:
            raise refusal
        _verify(archive, manifest)
        blob = archive[WEIGHTS] if manifest.weights else memoryview(b"")
        weights = [_view(blob, weight) for weight in manifest.weights]
    except ArtifactError as err:
        raise ArtifactError(err.message, where=str(path), hint=err.hint or container.AGAIN) from err
    files = {name: data for name, data in archive.members.items() if name not in _OWN}
    return manifest, files, weights


def _verify(archive: container.Container, manifest: Manifest) -> None:
    """Every member is listed, and is what the manifest says."""
    unlisted = set(archive.members) - set(manifest.members) - {MANIFEST, MANIFEST_HASH}
    if unlisted:
        raise ArtifactError(f"member {min(unlisted)!r} is not in the manifest")
    needed = {*manifest.objects} | ({WEIGHTS} if manifest.weights else set())
    needed |= {CHECK} if manifest.check.get("member") == CHECK else set()
    missing = needed - set(manifest.members)
    if missing or not manifest.objects:
        raise ArtifactError(f"member {min(missing, default='objects/')!r} is missing")
    for name, member in manifest.members.items():
        data = archive[name]
        # 200 MB take 0.12 s with the SHA instructions of today's CPUs, so weights are not left out.
        if len(data) != member.bytes or hashlib.sha256(data).hexdigest() != member.sha256:
            raise ArtifactError(f"member {name!r} is not what was saved (SHA-256)")


def _view(blob: memoryview, weight: Weight) -> np.ndarray:
    """The weight itself, in the memory map."""
    if weight.offset % container.ALIGNMENT or weight.offset + weight.bytes > len(blob):
        raise ArtifactError(f"weight {weight.name!r} does not lie within {WEIGHTS}")
    if weight.bytes == 0:
        return np.empty(weight.shape, weight.dtype)
    array: np.ndarray = np.ndarray(weight.shape, weight.dtype, blob, weight.offset)
    return array
