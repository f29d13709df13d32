"""A built candidate, run: judged once against its reference, then timed in turn with the incumbent.

Runs in the runner's process, on the runtime alone (no compiler).
"""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from dlcomp.runtime import native, threads

# A turn lasts at least this long, so that the clock and a change of sides are a small part of it.
_TURN_S = 0.004
# A candidate this many times slower than the other side gets no second turn.
_HOPELESS = 3.0
# Weights are read from so many bytes of copies in turn: a network passes over all of its weights between two
# uses of a kernel's, which therefore come from memory.
_WEIGHT_BYTES = 48 << 20
_MOST_COPIES = 64
# Of the reference's range. Minimal filtering F(4x4,3x3) is off by 5e-6, sums of 1000 products by 1e-6.
_TOLERANCE = 1e-4


class Wrong(Exception):
    """The result differs from the reference."""


class Kernel:
    """A kernel with its operands, ready to be called."""

    def __init__(self, path: str, reference: str) -> None:
        import tvm_ffi

        from dlcomp.runtime.session import aligned_empty

        objects = [p.read_bytes() for p in sorted(Path(path).parent.glob(f"{Path(path).name}.*.o"))]
        self.library = native.load_objects(objects)
        self.function = self.library["kernel"]
        with np.load(reference, allow_pickle=False) as file:
            self.expected = [file[f"result{case}"] for case in range(len(file.files))]
        # Whatever a kernel does not write stays NaN or the least integer, and is seen.
        kind = self.expected[0].dtype
        self.results = [aligned_empty(value.shape, kind) for value in self.expected]
        for result in self.results:
            result.fill(np.nan if kind == np.float32 else np.iinfo(kind).min)
        self.arrays = [*self.results]
        try:
            with np.load(f"{path}.npz", allow_pickle=False) as file:
                given = {name: file[name] for name in file.files}
        except zipfile.BadZipFile as error:
            raise OSError(f"{path}.npz is damaged") from error
        weights = sum(value.nbytes for name, value in given.items() if name.startswith("w"))
        copies = max(1, min(_MOST_COPIES, _WEIGHT_BYTES // weights)) if weights else 1

        def taken(value: np.ndarray) -> Any:
            array = aligned_empty(value.shape, value.dtype)
            array[...] = value
            self.arrays.append(array)
            return tvm_ffi.from_dlpack(array)

        constants = [
            [taken(value) for name, value in given.items() if name.startswith("w")] for _ in range(copies)
        ]
        # For every sample of the sizes the operands and the result, once for each copy of the weights.
        self.cases: list[list[list[Any]]] = []
        for case, result in enumerate(self.results):
            data = [taken(value) for name, value in given.items() if name.endswith(f".{case}")]
            self.cases.append([[*data, *weight, tvm_ffi.from_dlpack(result)] for weight in constants])

    def check(self) -> None:
        """Run once and compare.

        Raises
        ------
        Wrong
            With the error over the range of the reference.
        """
        for feeds, result, expected in zip(self.cases, self.results, self.expected, strict=True):
            self.function(*feeds[0])
            span = float(np.ptp(expected)) or 1.0
            found = result.reshape(expected.shape).astype(np.float64)
            error = float(np.abs(found - expected).max()) / span
            if not error <= _TOLERANCE:
                raise Wrong(f"differs from the reference by {error:.2g} of its range")

    def once(self) -> float:
        """Seconds of one run, over as many as fill a turn; the geometric mean over samples of open sizes."""
        times = [self._seconds(feeds) for feeds in self.cases]
        return times[0] if len(times) == 1 else math.exp(sum(map(math.log, times)) / len(times))

    def _seconds(self, feeds: list[list[Any]]) -> float:
        clock, function = time.perf_counter, self.function
        function(*feeds[-1])
        start = clock()
        function(*feeds[0])
        one = clock() - start
        count = max(1, min(100_000, int(_TURN_S / max(one, 1e-7))))
        turn = list(islice(cycle(feeds), count))
        start = clock()
        for feed in turn:
            function(*feed)
        return (clock() - start) / count


def time_in_turn(sides: Sequence[Kernel], turns: int, count: int) -> list[list[float]]:
    """Seconds a run of each side in each of ``turns`` turns, on ``count`` threads."""
    threads.use(count)
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(turns):
        for number, side in enumerate(sides):
            found[number].append(side.once())
        if len(sides) == 2 and found[0][0] > _HOPELESS * found[1][0]:
            break
    return found
