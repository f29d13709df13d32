"""Deterministic damage to a .dlc file: mutation number N is always the same."""

from __future__ import annotations

import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rewrite


def mutate(data: bytes, seed: int) -> tuple[str, bytes]:
    """The kind of mutation number ``seed``, and the file after it."""
    random_ = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    return kind.__name__, kind(data, random_)


def flip_a_byte(data: bytes, rnd: random.Random) -> bytes:
    return _flip(data, rnd, rnd.randrange(len(data)))


def flip_in_the_headers(data: bytes, rnd: random.Random) -> bytes:
    """In the zip's own records, where most bytes matter."""
    starts = [i for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for i in _all(data, mark)]
    return _flip(data, rnd, min(len(data) - 1, rnd.choice(starts) + rnd.randrange(60)))


def flip_many(data: bytes, rnd: random.Random) -> bytes:
    for _ in range(rnd.randrange(2, 200)):
        data = _flip(data, rnd, rnd.randrange(len(data)))
    return data


def truncate(data: bytes, rnd: random.Random) -> bytes:
    return data[: rnd.randrange(len(data))]


def cut_out(data: bytes, rnd: random.Random) -> bytes:
    start = rnd.randrange(len(data))
    return data[:start] + data[start + rnd.randrange(1, 2000) :]


def insert(data: bytes, rnd: random.Random) -> bytes:
    start = rnd.randrange(len(data))
    return data[:start] + rnd.randbytes(rnd.randrange(1, 300)) + data[start:]


def append(data: bytes, rnd: random.Random) -> bytes:
    return data + rnd.randbytes(rnd.randrange(1, 300))


def drop_a_member(data: bytes, rnd: random.Random) -> bytes:
    return _members(data, lambda content: content.pop(rnd.choice(list(content))))


def swap_two_members(data: bytes, rnd: random.Random) -> bytes:
    def change(content: rewrite.Members) -> None:
        first, second = rnd.sample(list(content), 2)
        content[first], content[second] = content[second], content[first]

    return _members(data, change)


def damage_a_member(data: bytes, rnd: random.Random) -> bytes:
    """With a correct CRC, so that only the SHA-256 can tell."""

    def change(content: rewrite.Members) -> None:
        name = rnd.choice(list(content))
        content[name] = _flip(content[name], rnd, rnd.randrange(len(content[name])))

    return _members(data, change)


def edit_the_manifest(data: bytes, rnd: random.Random) -> bytes:
    """One value of it becomes another, or goes, as in a text editor: its hash no longer fits."""

    def change(content: rewrite.Members) -> None:
        content["manifest.json"] = json.dumps(_edit(content, rnd)).encode()

    return _members(data, change)


def forge_the_manifest(data: bytes, rnd: random.Random) -> bytes:
    """The same with its hash made right: what it says may then be anything."""
    return _members(data, lambda content: rewrite.put_manifest(content, _edit(content, rnd)))


def _edit(content: rewrite.Members, rnd: random.Random) -> Any:
    manifest = json.loads(content["manifest.json"])
    place, key = rnd.choice(_spots(manifest))
    if rnd.random() < 0.2:
        del place[key]
    else:
        place[key] = rnd.choice(
            [None, -1, 0, 1, 64, 2**63, 1e308, "", "x", [], {}, True, [[]], "../x", "float32"]
        )
    return manifest


def resize_a_member(data: bytes, rnd: random.Random) -> bytes:
    """Weights or test vector of another length, with hashes made right."""

    def change(content: rewrite.Members) -> None:
        name = rnd.choice(["weights.bin", "check.npz"])
        content[name] = rnd.choice([b"", content[name][: rnd.randrange(len(content[name]))]])
        manifest = json.loads(content["manifest.json"])
        rewrite.rehash(content, manifest)
        rewrite.put_manifest(content, manifest)

    return _members(data, change)


KINDS: list[Callable[[bytes, random.Random], bytes]] = [
    flip_a_byte,
    flip_in_the_headers,
    flip_many,
    truncate,
    cut_out,
    insert,
    append,
    drop_a_member,
    swap_two_members,
    damage_a_member,
    edit_the_manifest,
    forge_the_manifest,
    resize_a_member,
]


def _flip(data: bytes, rnd: random.Random, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << rnd.randrange(8))]) + data[place + 1 :]


def _all(data: bytes, mark: bytes) -> list[int]:
    found, start = [], data.find(mark)
    while start >= 0:
        found.append(start)
        start = data.find(mark, start + 1)
    return found


def _members(data: bytes, change: Callable[[rewrite.Members], object]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    with tempfile.TemporaryDirectory() as folder:
        return rewrite.write(Path(folder) / "m.dlc", content).read_bytes()


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every container in ``value`` with every key or index in it."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [(value, key) for key in keys] + [spot for key in keys for spot in _spots(value[key])]
