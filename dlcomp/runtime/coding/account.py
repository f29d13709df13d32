"""What every byte of a ``.dlc`` file with coded weights is for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dlcomp.errors import ArtifactError
from dlcomp.runtime import storage
from dlcomp.runtime.coding.tensor import Coded, encode
from dlcomp.runtime.manifest import Weight


@dataclass(frozen=True)
class Account:
    """The bytes of a file.

    Attributes
    ----------
    file : int
        Its size.
    members : mapping of str to int
        The size of each member; the rest of the file is the archive's own.
    weights : sequence of (Weight, Coded)
        Every coded weight and how it is written.
    """

    file: int
    members: Mapping[str, int]
    weights: tuple[tuple[Weight, Coded], ...]

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by purpose; together the whole file."""
        found: dict[str, int] = {}
        for _, coded in self.weights:
            for part, size in coded.parts.items():
                found[f"coded {part}"] = found.get(f"coded {part}", 0) + size
        found["plain weights"] = self.members.get(storage.WEIGHTS, 0)
        found["manifest"] = sum(self.members[name] for name in (storage.MANIFEST, storage.MANIFEST_HASH))
        found["code"] = sum(size for name, size in self.members.items() if name.startswith("objects/"))
        found["check"] = self.members.get(storage.CHECK, 0)
        found["other"] = self.members_size - sum(found.values())
        found["archive"] = self.file - self.members_size
        return {part: size for part, size in found.items() if size}

    @property
    def members_size(self) -> int:
        return sum(self.members.values())

    @property
    def fillers(self) -> int:
        """Zeros that only divide distances, in all coded weights."""
        return sum(coded.fillers for _, coded in self.weights)

    @property
    def weight_bytes(self) -> int:
        """All that the file holds in place of the weights."""
        return sum(self.members.get(name, 0) for name in (storage.WEIGHTS, storage.CODED))


def account(path: str | os.PathLike[str]) -> Account:
    """Open ``path`` and tell what it consists of.

    Raises
    ------
    ArtifactError
        It is damaged.
    """
    where = Path(path)
    manifest, files, weights = storage.load(where, check_host=False)
    members = {name: len(data) for name, data in files.items()}
    members |= {name: member.bytes for name, member in manifest.members.items()}
    encoded = manifest.encode()
    members |= {storage.MANIFEST: len(encoded), storage.MANIFEST_HASH: len(storage.hash_line(encoded))}
    found = []
    for weight, array in zip(manifest.weights, weights, strict=True):
        if weight.coded:
            # Writing is a function of the array: whichever way is the shortest was taken.
            coded = encode(array)
            if len(coded.data) != weight.coded:
                raise ArtifactError(
                    f"weight {weight.name!r} is coded by another dlcomp",
                    where=str(path),
                    hint="save it again",
                )
            found.append((weight, coded))
    return Account(where.stat().st_size, members, tuple(found))
