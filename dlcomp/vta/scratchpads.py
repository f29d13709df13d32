"""Scratchpads and DRAM of the functional simulator, with a shadow that finds reads of nothing and races.

For every element the shadow holds the number of the instruction that last wrote it and that last read it, in
the order of the writing and the reading stage. An access is safe if all accesses by the other stage that it
conflicts with surely ended before it began (its vector clock covers them); else their order is luck.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.vta.config import VtaConfig
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.schedule import STAGES, Step

Index = npt.NDArray[np.int64] | slice
_NEVER = 0


class Shadow:
    """Last write and last reads of ``count`` elements by each stage."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self._write = np.zeros((3, count), np.int32)
        self._read = np.zeros((3, count), np.int32)
        self._writers: set[int] = set()
        self._readers: set[int] = set()

    def read(self, where: Index, step: Step) -> None:
        """Note a read; ProgramFault if another stage's write may still be under way."""
        self._conflict(self._write, self._writers, where, step, "reads", "writes")
        self._read[step.stage][where] = step.number
        self._readers.add(step.stage)

    def write(self, where: Index, step: Step) -> None:
        """Note a write; ProgramFault if another stage's read or write may still be under way."""
        self._conflict(self._read, self._readers, where, step, "overwrites", "reads")
        self._conflict(self._write, self._writers, where, step, "overwrites", "writes")
        self._write[step.stage][where] = step.number
        self._writers.add(step.stage)

    def _conflict(
        self, table: npt.NDArray[np.int32], stages: set[int], where: Index, step: Step, mine: str, theirs: str
    ) -> None:
        for stage in stages - {step.stage}:
            touched = table[stage][where]
            if not touched.size or int(touched.max()) <= step.clock[stage]:
                continue
            at = int(np.argmax(touched))
            element = at + where.start if isinstance(where, slice) else int(where[at])
            raise ProgramFault(
                "race",
                f"the {STAGES[step.stage]} stage {mine} {self.name} element {element} that number "
                f"{int(touched[at])} of the {STAGES[stage]} stage {theirs}, and no token orders them",
                step.index,
                hint="push a token after the one and pop it before the other",
            )


class Scratchpad:
    """One on-chip memory: ``data`` of ``(depth, ...)``, which elements hold something, and the shadow."""

    def __init__(self, name: str, depth: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.name = name
        self.depth = depth
        self.data = np.zeros((depth, *shape), dtype)
        self.valid = np.zeros(depth, np.bool_)
        self.shadow = Shadow(name, depth)

    def check_range(self, low: int, high: int, step: Step) -> None:
        """ProgramFault unless ``low`` <= ... < ``high`` lies inside."""
        if low < 0 or high > self.depth:
            message = f"{self.name} element {high - 1} is out of range: it holds {self.depth}"
            raise ProgramFault("range", message, step.index)

    def check_valid(self, where: Index, step: Step) -> None:
        """ProgramFault for an element that nothing has been written to."""
        good = self.valid[where]
        if not good.all():
            at = int(np.argmin(good))
            element = at + where.start if isinstance(where, slice) else int(where[at])
            kind = "stale" if self.name == "out" else "uninitialised"
            why = " (only GEMM without reset and ALU write it)" if self.name == "out" else ""
            raise ProgramFault(
                kind, f"reads {self.name} element {element}, which nothing has written{why}", step.index
            )


def scratchpads(config: VtaConfig) -> dict[str, Scratchpad]:
    """The five on-chip memories of ``config``."""
    batch, block = config.batch, config.block
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "uop": ((3,), np.int64),
        "inp": ((batch, block), np.int8),
        "wgt": ((block, block), np.int8),
        "acc": ((batch, block), np.int32),
        "out": ((batch, block), np.int8),
    }
    return {name: Scratchpad(name, config.depth(name), *shapes[name]) for name in shapes}
