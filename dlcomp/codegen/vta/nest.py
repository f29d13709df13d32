"""Loop nests for GEMM and ALU: which of the loops the instruction counts, and which become micro-ops.

An instruction has two loops with a constant step each; all other loops are written out as micro-ops. Of the
forms below the cheapest is taken: few instructions (each fills and drains the pipeline) against few
micro-ops (each is fetched from DRAM once a kernel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcomp.vta.config import VtaConfig

Pairs = Sequence[tuple[int, int]]
# Cycles to start and end an instruction, and to fetch a micro-op, of the pipelined core on a 64-bit bus.
_START = 8.0
_FETCH = 0.5


@dataclass(frozen=True)
class Loop:
    """``extent`` iterations; the steps are in elements of acc, of the source, and of wgt."""

    extent: int = 1
    dst: int = 0
    src: int = 0
    wgt: int = 0

    def __post_init__(self) -> None:
        # A loop of one iteration takes no step, and its step need not encode.
        if self.extent == 1:
            for name in ("dst", "src", "wgt"):
                object.__setattr__(self, name, 0)

    def rows(self) -> npt.NDArray[np.int64]:
        """Offsets ``(extent, 3)``."""
        step = np.array([[self.dst, self.src, self.wgt]], np.int64)
        offsets: npt.NDArray[np.int64] = np.arange(self.extent, dtype=np.int64)[:, None] * step
        return offsets


@dataclass(frozen=True, eq=False)
class Call:
    """One instruction: micro-ops ``(U, 3)`` of dst, src, wgt inside two loops."""

    uops: npt.NDArray[np.int64]
    outer: Loop = Loop()
    inner: Loop = Loop()

    @property
    def steps(self) -> int:
        """Micro-ops executed."""
        return len(self.uops) * self.outer.extent * self.inner.extent

    def destinations(self) -> npt.NDArray[np.int64]:
        """Accumulators in the order in which they are written."""
        out, inside = (np.arange(loop.extent) * loop.dst for loop in (self.outer, self.inner))
        nest: npt.NDArray[np.int64] = out[:, None, None] + inside[None, :, None] + self.uops[None, None, :, 0]
        return nest.ravel()


@dataclass(frozen=True)
class Window:
    """The taps of one axis of a tile: ``pairs`` of (tap, output), steps of output and tap in the source."""

    pairs: tuple[tuple[int, int], ...]
    source: tuple[int, ...]

    @property
    def taps(self) -> list[int]:
        """Taps that meet any data."""
        return sorted({tap for tap, _ in self.pairs})


@dataclass(frozen=True)
class Steps:
    """Distances in scratchpad elements.

    Attributes
    ----------
    dst_oc, dst_row : int
        Between accumulators of channel blocks, and of rows; pixels of a row are neighbours.
    src_ic, src_row : int
        The same of the data.
    src_oc : int
        Between the data of channel blocks of the result, where each reads its own; else 0.
    wgt_oc, wgt_ic, wgt_row : int
        Between weight tiles; the taps of a kernel row are neighbours.
    """

    dst_oc: int
    dst_row: int
    src_ic: int
    src_row: int
    wgt_oc: int
    wgt_ic: int
    wgt_row: int
    src_oc: int = 0


def convolution(
    rows: Window,
    columns: Window,
    oc: int,
    ic: int,
    steps: Steps,
    bases: tuple[int, int, int],
    junk: int,
    config: VtaConfig,
    reuse: float = 8.0,
) -> list[Call]:
    """GEMM calls of a tile: every valid (tap, output) of both axes, all blocks of channels.

    Parameters
    ----------
    bases : (acc, inp, wgt)
        First elements of the tile.
    junk : int
        First of :func:`junk_size` accumulators that may be written with anything.
    reuse : float
        How often the micro-ops will be used again.
    """
    origin = np.array([bases])
    row_steps = (steps.dst_row, steps.src_row, steps.wgt_row)
    vertical = _offsets(rows, row_steps)
    channels_in = Loop(ic, 0, steps.src_ic, steps.wgt_ic)
    channels_out = Loop(oc, steps.dst_oc, steps.src_oc, steps.wgt_oc)
    horizontal = _offsets(columns, (1, 1, 1))
    limit = config.depth("uop") // 2
    forms = [
        _split(Call(_product(origin, vertical, horizontal), channels_in, channels_out), limit),
        _by_tap(origin, columns, (1, 1, 1), vertical, channels_out, channels_in),
        _by_tap(origin, columns, (1, 1, 1), vertical, channels_in, channels_out),
        _by_tap(origin, rows, row_steps, horizontal, channels_out, channels_in),
        _by_tap(origin, rows, row_steps, horizontal, channels_in, channels_out),
    ]
    fitting = [form for form in forms if all(len(call.uops) <= limit for call in form)]
    for form in sorted(fitting, key=lambda form: _cost(form, reuse)):
        if all(apart(call, config.hazard_distance) for call in form):
            return form
    everything = Call(_product(origin, channels_out.rows(), vertical, horizontal), channels_in)
    # Fillers at most double them and a few.
    parts = _split(everything, limit // (2 * config.hazard_distance + 2))
    return [Call(spaced(part.uops, junk, config.hazard_distance), part.outer) for part in parts]


def _split(call: Call, limit: int) -> list[Call]:
    """The same micro-ops in as many instructions as the scratchpad needs."""
    return [
        Call(call.uops[at : at + limit], call.outer, call.inner) for at in range(0, len(call.uops), limit)
    ]


def _cost(form: Sequence[Call], reuse: float) -> float:
    return sum(_START + _FETCH * len(call.uops) / reuse for call in form)


def _offsets(window: Window, steps: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """(tap, output) pairs as offsets, tap by tap; ``steps`` of an output, a source element and a tap."""
    pairs = zip(window.pairs, window.source, strict=True)
    rows = [(out * steps[0], at * steps[1], tap * steps[2]) for (tap, out), at in pairs]
    return np.array(rows, np.int64).reshape(-1, 3)


def _by_tap(
    origin: npt.NDArray[np.int64],
    window: Window,
    steps: tuple[int, int, int],
    others: npt.NDArray[np.int64],
    unrolled: Loop,
    counted: Loop,
) -> list[Call]:
    """One call a row or column of the kernel: the outputs along that axis are a loop."""
    calls = []
    for tap in window.taps:
        pairs = zip(window.pairs, window.source, strict=True)
        found = [(out, at) for (t, out), at in pairs if t == tap]
        first, second = found[0], found[min(1, len(found) - 1)]
        # A tap of a transposed convolution meets every so many outputs.
        outs, step = second[0] - first[0], second[1] - first[1]
        base = origin + np.array([[first[0] * steps[0], first[1] * steps[1], tap * steps[2]]])
        uops = _product(base, unrolled.rows(), others)
        calls.append(Call(uops, counted, Loop(len(found), outs * steps[0], step * steps[1], 0)))
    return calls


def _product(*axes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sums of one row of each, the last fastest."""
    total = axes[0]
    for axis in axes[1:]:
        total = (total[:, None, :] + axis[None, :, :]).reshape(-1, 3)
    return total


def apart(call: Call, distance: int) -> bool:
    """Whether between two writes of an accumulator lie at least ``distance`` others."""
    flat = call.destinations()
    return all(not (flat[gap:] == flat[:-gap]).any() for gap in range(1, min(distance, len(flat) - 1) + 1))


def spaced(uops: npt.NDArray[np.int64], junk: int, distance: int) -> npt.NDArray[np.int64]:
    """``uops`` with fillers where an accumulator would be written again too soon, also from end to start."""
    if distance == 0:
        return uops
    rows: list[tuple[int, int, int]] = []
    lanes = junk_size(distance)
    fill = [(junk + lane, int(uops[0, 1]), int(uops[0, 2])) for lane in range(lanes)]
    for dst, src, wgt in uops.tolist():
        while any(row[0] == dst for row in rows[-distance:]):
            rows.append(fill[len(rows) % lanes])
        rows.append((dst, src, wgt))
    head = {row[0] for row in rows[:distance]}
    while head & {row[0] for row in rows[-distance:]}:
        rows.append(fill[len(rows) % lanes])
    return np.array(rows, np.int64)


def junk_size(distance: int) -> int:
    """Fillers that neither meet each other within ``distance`` nor, at the end, those of the start."""
    return 2 * distance + 1 if distance else 0


def vector(start: int, count: int, source: int | None = None, weight: int = 0, wgt_step: int = 0) -> Call:
    """``count`` neighbours from ``start``, each with its own source, and one weight tile for all."""
    first = start if source is None else source
    return Call(np.array([[start, first, weight]]), Loop(), Loop(count, 1, 1, wgt_step))
