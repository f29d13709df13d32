"""The ``.dlc`` file: a zip whose members are stored, not compressed, and lie on 64-byte boundaries.

Stored and aligned, so that weights are used straight from a private memory map, whose untouched pages all
processes share. Reading trusts nothing: every member must be stored, in bounds, listed once, named
plainly, and free of overlap with the others, before a byte of it is used.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from dlcomp.errors import ArtifactError, UsageError

ALIGNMENT = 64

# A zip record says how it is padded under some id; this one is what Android's zipalign uses for it.
_PADDING_ID = 0xD935
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_MAX_MEMBERS = 4096
_ZIP64_FROM = 1 << 31


def write(path: Path, members: Iterable[tuple[str, Iterable[bytes | memoryview], int]]) -> None:
    """Write ``(name, pieces, size)`` members to ``path``, all or nothing.

    The file is written beside ``path`` and renamed over it, so a reader sees the old or the new one.
    Equal members give equal files: no date and no user is recorded.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, pieces, size in members:
                    _add(archive, file.tell(), name, pieces, size)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _add(
    archive: zipfile.ZipFile, start: int, name: str, pieces: Iterable[bytes | memoryview], size: int
) -> None:
    big = size >= _ZIP64_FROM
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    # Data starts after the header, the name, this padding record, and (big) zipfile's own 20-byte record.
    fixed = start + _LOCAL_HEADER.size + len(name) + 4 + (20 if big else 0)
    padding = -fixed % ALIGNMENT
    entry.extra = struct.pack("<2H", _PADDING_ID, padding) + bytes(padding)
    entry.file_size = size
    with archive.open(entry, "w", force_zip64=big) as out:
        for piece in pieces:
            out.write(piece)


@dataclass(frozen=True)
class Container:
    """The members of an opened file as views of its memory map.

    The views are writable (DLPack has no read-only tensors) but private: what is written through them
    never reaches the file.
    """

    path: str
    members: Mapping[str, memoryview]

    def __getitem__(self, name: str) -> memoryview:
        """The bytes of ``name``."""
        if name not in self.members:
            raise ArtifactError(f"member {name!r} is missing", where=self.path, hint=AGAIN)
        return self.members[name]


AGAIN = "the file is damaged or was changed; compile the model again or copy the file again"


def read(path: Path) -> Container:
    """Map ``path`` and find its members."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ArtifactError("the file is empty", where=str(path), hint=AGAIN)
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            with zipfile.ZipFile(file) as archive:
                return Container(str(path), _members(archive.infolist(), whole))
    except (FileNotFoundError, IsADirectoryError) as err:
        raise UsageError(f"cannot be read: {err.strerror}", where=str(path), hint="check the path") from err
    except OSError as err:
        reason = err.strerror or str(err)
        raise ArtifactError(f"cannot be read: {reason}", where=str(path)) from err
    except zipfile.BadZipFile as err:
        raise ArtifactError(
            f"not a .dlc file, or a damaged one ({err})", where=str(path), hint="`dlcomp compile` makes one"
        ) from err
    except (NotImplementedError, ValueError, struct.error, OverflowError, EOFError, IndexError) as err:
        raise ArtifactError(f"not a valid zip ({err})", where=str(path), hint=AGAIN) from err
    except ArtifactError as err:
        raise ArtifactError(err.message, where=str(path), hint=err.hint or AGAIN) from err


def _members(entries: list[zipfile.ZipInfo], whole: memoryview) -> dict[str, memoryview]:
    if len(entries) > _MAX_MEMBERS:
        raise ArtifactError(f"{len(entries)} members (at most {_MAX_MEMBERS})")
    found: dict[str, memoryview] = {}
    spans: list[tuple[int, int, str]] = []
    for entry in entries:
        begin, end = _span(entry, whole)
        if entry.filename in found:
            raise ArtifactError(f"member {entry.filename!r} is there twice")
        found[entry.filename] = whole[begin:end]
        spans.append((entry.header_offset, end, entry.filename))
    spans.sort()
    for (_, end, first), (begin, _, second) in pairwise(spans):
        if begin < end:
            raise ArtifactError(f"members {first!r} and {second!r} overlap")
    return found


def _span(entry: zipfile.ZipInfo, whole: memoryview) -> tuple[int, int]:
    """Where the data of ``entry`` begins and ends in the file."""
    name = entry.filename
    if not _NAME.fullmatch(name) or name != entry.orig_filename:
        raise ArtifactError(f"member name {name!r} is not a plain path inside the archive")
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ArtifactError(f"member {name!r} is compressed or encrypted; in a .dlc all are stored")
    offset = entry.header_offset
    if offset < 0 or offset + _LOCAL_HEADER.size > len(whole):
        raise ArtifactError(f"member {name!r} lies outside the file")
    header = _LOCAL_HEADER.unpack(whole[offset : offset + _LOCAL_HEADER.size].tobytes())
    name_size, extra_size = header[-2], header[-1]
    begin = offset + _LOCAL_HEADER.size
    local = whole[begin : begin + name_size].tobytes()
    if header[0] != b"PK\x03\x04" or local != name.encode():
        raise ArtifactError(f"the header of member {name!r} is damaged")
    begin += name_size + extra_size
    end = begin + entry.file_size
    if entry.compress_size != entry.file_size or end > len(whole):
        raise ArtifactError(f"member {name!r} claims {entry.file_size} bytes, which the file does not hold")
    return begin, end
