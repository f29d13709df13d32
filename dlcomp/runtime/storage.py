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

MANIFEST, WEIGHTS, CODED, CHECK = "manifest.json", "weights.bin", "weights.coded", "check.npz"

# ONNX networks on strings, which the host runs around the program.
BEFORE, AFTER = "text/before.onnx", "text/after.onnx"

# The manifest has the hashes of all other members; its own is here, as sha256sum writes it.
MANIFEST_HASH = "manifest.sha256"

_OWN = frozenset({MANIFEST, MANIFEST_HASH, WEIGHTS, CODED})
# A weight is coded where that saves at least a quarter of it: reading it costs time.
_WORTH_CODING = 0.75

Files = Mapping[str, bytes | memoryview]


def layout(arrays: Sequence[np.ndarray]) -> tuple[Weight, ...]:
    """Where each weight lies in ``weights.bin``."""
    found, position = [], 0
    for number, array in enumerate(arrays):
        position = math.ceil(position / container.ALIGNMENT) * container.ALIGNMENT
        found.append(Weight(f"weight{number}", array.dtype.name, array.shape, position, array.nbytes))
        position += array.nbytes
    return tuple(found)


def save(
    path: Path, manifest: Manifest, files: Files, weights: Sequence[np.ndarray], *, coded: bool = False
) -> Manifest:
    """Write a ``.dlc`` file, all or nothing; returns the manifest with the hashes.

    With ``coded``, weights of few different values are written in fewer bytes.
    """
    places = layout(weights)
    if coded:
        places, data = _code(weights, places)
        files = {**files, **({CODED: data} if data else {})}
    manifest = replace(manifest, weights=places)
    members = {name: Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    plain = any(not weight.coded for weight in places)
    if plain:
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
    if plain:
        parts.append((WEIGHTS, _pieces(manifest.weights, weights), members[WEIGHTS].bytes))
    try:
        container.write(path, parts)
    except OSError as err:
        raise UsageError(f"cannot be written: {err.strerror}", where=str(path)) from err
    return manifest


def hash_line(manifest: bytes) -> bytes:
    """The content of ``manifest.sha256``."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _code(arrays: Sequence[np.ndarray], places: Sequence[Weight]) -> tuple[tuple[Weight, ...], bytes]:
    """Which weights are coded and where all lie then, and the content of ``weights.coded``."""
    from dlcomp.runtime.coding import encode
    from dlcomp.runtime.coding.tensor import MOST_EXPANSION

    coded, bodies, position = {}, [], 0
    for weight, array in zip(places, arrays, strict=True):
        data = encode(array).data
        if len(data) < _WORTH_CODING * array.nbytes <= _WORTH_CODING * MOST_EXPANSION * len(data):
            coded[weight.name] = replace(weight, offset=position, coded=len(data))
            bodies.append(data)
            position += len(data)
    # The others move together.
    others = iter(layout([a for w, a in zip(places, arrays, strict=True) if w.name not in coded]))
    moved = (coded[w.name] if w.name in coded else replace(next(others), name=w.name) for w in places)
    return tuple(moved), b"".join(bodies)


def _pieces(layout: Sequence[Weight], arrays: Sequence[np.ndarray]) -> Iterator[bytes | memoryview]:
    """``weights.bin`` bit by bit: each weight at its offset, gaps filled with zeros."""
    position = 0
    for weight, array in zip(layout, arrays, strict=True):
        if weight.coded:
            continue
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
        blobs = {name: archive.members.get(name, memoryview(b"")) for name in (WEIGHTS, CODED)}
        weights = [
            _decoded(blobs[CODED], weight) if weight.coded else _view(blobs[WEIGHTS], weight)
            for weight in manifest.weights
        ]
    except ArtifactError as err:
        raise ArtifactError(err.message, where=str(path), hint=err.hint or container.AGAIN) from err
    files = {name: data for name, data in archive.members.items() if name not in _OWN}
    return manifest, files, weights


def _verify(archive: container.Container, manifest: Manifest) -> None:
    """Every member is listed, and is what the manifest says."""
    unlisted = set(archive.members) - set(manifest.members) - {MANIFEST, MANIFEST_HASH}
    if unlisted:
        raise ArtifactError(f"member {min(unlisted)!r} is not in the manifest")
    needed = {*manifest.objects} | {CODED if weight.coded else WEIGHTS for weight in manifest.weights}
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


def _decoded(blob: memoryview, weight: Weight) -> np.ndarray:
    """The weight from its coded form."""
    from dlcomp.runtime.coding import decode

    if weight.offset + weight.coded > len(blob):
        raise ArtifactError(f"weight {weight.name!r} does not lie within {CODED}")
    try:
        return decode(blob[weight.offset : weight.offset + weight.coded], weight.dtype, weight.shape)
    except ArtifactError as err:
        raise ArtifactError(f"weight {weight.name!r}: {err.message}") from err
