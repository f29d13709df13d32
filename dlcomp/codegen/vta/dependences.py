"""Which instructions of other stages an instruction must wait for: those whose data it overlaps.

For every element of a scratchpad the latest instruction of each stage that read and that wrote it. DRAM is
tracked by whole buffers, as layers read each other's results whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.vta.config import VtaConfig

_NEVER = -1
STAGES = (0, 1, 2)


@dataclass(frozen=True)
class Access:
    """Elements ``[start, stop)`` of ``inp``, ``wgt`` or ``acc`` (which ``out`` mirrors)."""

    memory: str
    start: int
    stop: int
    write: bool = False


class Dependences:
    """The latest accesses so far, by instruction number."""

    def __init__(self, config: VtaConfig) -> None:
        shape = {memory: (3, config.depth(memory)) for memory in ("inp", "wgt", "acc")}
        self._read = {memory: np.full(size, _NEVER, np.int64) for memory, size in shape.items()}
        self._write = {memory: np.full(size, _NEVER, np.int64) for memory, size in shape.items()}
        self._stored: dict[str, int] = {}

    def before(self, stage: int, accesses: Sequence[Access], buffer: str | None) -> dict[int, int]:
        """For each other stage the latest instruction to wait for; ``buffer`` is what is read from DRAM."""
        found: dict[int, int] = {}
        for access in accesses:
            tables = [self._write, self._read] if access.write else [self._write]
            for table in tables:
                latest = table[access.memory][:, access.start : access.stop].max(axis=1, initial=_NEVER)
                for other in STAGES:
                    if other != stage and latest[other] > found.get(other, _NEVER):
                        found[other] = int(latest[other])
        stored = self._stored.get(buffer, _NEVER) if buffer else _NEVER
        if stored > found.get(2, _NEVER) and stage != 2:
            found[2] = stored
        return found

    def note(self, stage: int, accesses: Sequence[Access], index: int, stored: str | None) -> None:
        """Remember the accesses of instruction ``index``; ``stored`` is the buffer that it writes."""
        for access in accesses:
            table = self._write if access.write else self._read
            table[access.memory][stage, access.start : access.stop] = index
        if stored:
            self._stored[stored] = index
