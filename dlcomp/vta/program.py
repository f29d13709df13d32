"""A program: binary instructions, the DRAM that they address, and what configuration they were made for.

A long stream is several runs: each ends with FINISH, the host starts the next one when the one before has
ended, and DRAM and scratchpads keep what they hold.

On disk: a magic, a SHA-256 of the rest, a JSON header with its length, and the raw bytes of instructions and
DRAM images. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.errors import ArtifactError, UsageError
from dlcomp.vta import isa
from dlcomp.vta.config import ISA_VERSION, VtaConfig

_MAGIC = b"DLCVTA01"
_PAGE = 4096
# Instructions of one run: what the 32 MiB holds that the runtime of the original gives to them.
RUN_INSTRUCTIONS = (1 << 25) // 16
_KINDS = ("input", "output", "constant", "uop", "scratch")


@dataclass(frozen=True)
class Buffer:
    """A range of DRAM.

    Attributes
    ----------
    kind : str
        ``input`` (written by the host before a run), ``output`` (read after), ``constant``, ``uop`` or
        ``scratch`` (left uninitialised).
    address, size : int
        Bytes; addresses are multiples of 4096.
    data : bytes
        Contents of a ``constant`` or ``uop`` buffer, else empty.
    """

    name: str
    kind: str
    address: int
    size: int
    data: bytes = field(default=b"", repr=False)

    @property
    def end(self) -> int:
        """First byte after the buffer."""
        return self.address + self.size


@dataclass(frozen=True)
class Program:
    """An instruction stream ``(N, 2)`` of 64-bit words with its DRAM buffers."""

    config_hash: str
    words: npt.NDArray[np.uint64]
    buffers: tuple[Buffer, ...]
    isa_version: str = ISA_VERSION

    @staticmethod
    def of(config: VtaConfig, instructions: Iterable[isa.Instruction], buffers: Iterable[Buffer]) -> Program:
        """Encode ``instructions`` for ``config``; UsageError names the instruction that does not fit."""
        rows = []
        begin = 0
        for index, instruction in enumerate(instructions):
            if index - begin >= RUN_INSTRUCTIONS:
                message = f"a run of more than {RUN_INSTRUCTIONS} instructions (32 MiB)"
                raise UsageError(message, hint="end it with FINISH before", where=f"instruction {index}")
            if isinstance(instruction, isa.Finish):
                begin = index + 1
            try:
                rows.append(isa.encode(instruction, config))
            except UsageError as err:
                raise UsageError(err.message, hint=err.hint, where=f"instruction {index}") from err
        words = np.array(rows, np.uint64).reshape(-1, 2)
        return Program(config.hash, words, tuple(buffers))._checked()

    def check_for(self, config: VtaConfig) -> None:
        """Refuse (ArtifactError) to be run on another configuration or instruction set."""
        if self.isa_version != ISA_VERSION:
            raise ArtifactError(
                f"the program is of instruction set {self.isa_version}, this is {ISA_VERSION}"
            )
        if self.config_hash != config.hash:
            raise ArtifactError(
                f"the program was made for configuration {self.config_hash}, this accelerator is "
                f"{config.hash} ({config.model_string})",
                hint="compile it for this target",
            )

    def instructions(self, config: VtaConfig) -> tuple[isa.Instruction, ...]:
        """Decode; UsageError names the first instruction that is no legal encoding."""
        self.check_for(config)
        out = []
        for index, (low, high) in enumerate(self.words.tolist()):
            try:
                out.append(isa.decode((low, high), config))
            except UsageError as err:
                raise UsageError(err.message, hint=err.hint, where=f"instruction {index}") from err
        return tuple(out)

    @property
    def dram_bytes(self) -> int:
        """Bytes from address 0 to the end of the last buffer."""
        return max((buffer.end for buffer in self.buffers), default=0)

    def buffer(self, name: str) -> Buffer:
        """The buffer called ``name``."""
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise UsageError(f"no buffer {name!r}", hint=f"buffers: {', '.join(b.name for b in self.buffers)}")

    def to_bytes(self) -> bytes:
        """The file's contents."""
        header = {
            "isa_version": self.isa_version,
            "config_hash": self.config_hash,
            "instructions": len(self.words),
            "buffers": [[b.name, b.kind, b.address, b.size, len(b.data)] for b in self.buffers],
        }
        head = json.dumps(header, separators=(",", ":")).encode()
        body = len(head).to_bytes(8, "little") + head + self.words.astype("<u8").tobytes()
        body += b"".join(buffer.data for buffer in self.buffers)
        return _MAGIC + hashlib.sha256(body).digest() + body

    @staticmethod
    def from_bytes(raw: bytes) -> Program:
        """The inverse of :meth:`to_bytes`; ArtifactError for anything damaged."""
        if raw[: len(_MAGIC)] != _MAGIC:
            raise ArtifactError("not a VTA program (or of another version of the format)")
        digest, body = raw[8:40], raw[40:]
        if hashlib.sha256(body).digest() != digest:
            raise ArtifactError("the VTA program is damaged: its checksum does not match")
        try:
            return _parse(body)._checked()
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as err:
            raise ArtifactError(f"the VTA program's header is malformed: {err}") from err

    def _checked(self) -> Program:
        names = [buffer.name for buffer in self.buffers]
        if len(set(names)) != len(names):
            raise UsageError("two buffers of a VTA program have the same name")
        last = 0
        for buffer in sorted(self.buffers, key=lambda b: b.address):
            held = buffer.kind in ("constant", "uop")
            if buffer.kind not in _KINDS or len(buffer.data) != (buffer.size if held else 0):
                raise UsageError(f"kind {buffer.kind!r} with {len(buffer.data)} bytes", where=buffer.name)
            if buffer.address % _PAGE or buffer.address < last or buffer.size < 1:
                raise UsageError(f"misplaced at {buffer.address}, {buffer.size} bytes", where=buffer.name)
            last = buffer.end
        if last > 1 << 32:
            message = f"the buffers of one program end at {last}, beyond 32-bit addresses"
            raise UsageError(message, hint="compile for fewer images at a time, or smaller ones")
        return self


def _parse(body: bytes) -> Program:
    size = int.from_bytes(body[:8], "little")
    header: Any = json.loads(body[8 : 8 + size])
    at = 8 + size
    count = int(header["instructions"])
    words = np.frombuffer(body, "<u8", count * 2, at).reshape(-1, 2).astype(np.uint64)
    at += count * 16
    buffers = []
    for name, kind, address, length, held in header["buffers"]:
        buffers.append(Buffer(str(name), str(kind), int(address), int(length), body[at : at + int(held)]))
        at += int(held)
    if at != len(body):
        raise ValueError("its lengths do not add up")
    return Program(str(header["config_hash"]), words, tuple(buffers), str(header["isa_version"]))


class DramLayout:
    """Places buffers one after another at page boundaries."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        # Page 0 stays unmapped, so that an address that was never set is found out.
        self._next = _PAGE

    def add(self, name: str, kind: str, contents: int | npt.NDArray[Any]) -> Buffer:
        """Reserve ``contents`` bytes, or the size of an array that is stored as the buffer's data."""
        data = b"" if isinstance(contents, int) else np.ascontiguousarray(contents).tobytes()
        size = contents if isinstance(contents, int) else len(data)
        buffer = Buffer(name, kind, self._next, size, data)
        self._next += math.ceil(size / _PAGE) * _PAGE
        self.buffers.append(buffer)
        return buffer


def read(path: Path) -> Program:
    """The program in a file; ArtifactError for a damaged one, UsageError for an unreadable file."""
    try:
        return Program.from_bytes(path.read_bytes())
    except OSError as err:
        raise UsageError(f"cannot read the program: {err.strerror}", where=str(path)) from err
