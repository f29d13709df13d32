"""Where the time of a run goes, kernel by kernel, against what this machine can do at most."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcomp.errors import UsageError
from dlcomp.runtime import threads as pool
from dlcomp.runtime.inputs import complete, ordered
from dlcomp.runtime.integer_peak import measure_integers
from dlcomp.runtime.peaks import Peaks, measure

if TYPE_CHECKING:
    from dlcomp.codegen.program import KernelInfo
    from dlcomp.runtime.artifact import Artifact

_BUILTIN = "vm.builtin."

_MAX_EVENTS = 100_000


@dataclass(frozen=True)
class Event:
    """One call: its name, seconds since the run began, and what it spent outside calls of its own."""

    name: str
    start: float
    end: float
    own: float


@dataclass(frozen=True)
class KernelProfile:
    """One kernel over one run.

    Attributes
    ----------
    calls : int
        How often a run calls it.
    seconds : float
        Median over the runs of the time that all its calls take.
    share : float
        Of the sum of all kernels.
    flops_rate, bytes_rate : float
        Operations and (least) bytes a second.
    peak : float
        Least time that the machine's peaks allow over the time taken; above 1 where data comes from a cache.
    bound : str
        Which peak that is: ``compute`` or ``memory``; empty where the kernel's cost is not known.
    """

    name: str
    op: str
    schedule: str
    calls: int
    seconds: float
    share: float
    flops_rate: float
    bytes_rate: float
    peak: float
    bound: str


@dataclass(frozen=True)
class ProfileResult:
    """What :func:`profile` measured.

    Attributes
    ----------
    kernels : tuple of KernelProfile
        Longest first.
    runtime_s : float
        Time in the virtual machine's own functions (allocation, checks), which are no kernels.
    wall_s : float
        Median of runs that were not observed.
    observed_s : float
        Median of the observed runs; observing costs some microseconds a call.
    events : tuple of Event
        Every call of one run.
    """

    name: str
    target: str
    threads: int
    runs: int
    kernels: tuple[KernelProfile, ...]
    runtime_s: float
    wall_s: float
    observed_s: float
    peaks: Peaks
    events: tuple[Event, ...] = field(repr=False)

    @property
    def kernel_s(self) -> float:
        """Sum of the kernels."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def gap_s(self) -> float:
        """Wall time that is in no kernel; slightly negative where observing slows the kernels down."""
        return self.wall_s - self.kernel_s

    def to_json(self) -> dict[str, Any]:
        """In the types of JSON, without the events; times in seconds."""
        found = asdict(self)
        del found["events"]
        return {**found, "kernel_s": self.kernel_s, "gap_s": self.gap_s}

    def __str__(self) -> str:
        top = ", ".join(f"{kernel.name} {kernel.share:.0%}" for kernel in self.kernels[:3])
        return (
            f"{self.name}: wall {self.wall_s * 1e3:.3f} ms, kernels {self.kernel_s * 1e3:.3f} ms, "
            f"gap {self.gap_s * 1e3:.3f} ms; {top}"
        )


def profile(
    artifact: Artifact,
    inputs: Mapping[str, Any] | None = None,
    *,
    runs: int = 20,
    warmup_s: float = 0.2,
    threads: int | None = None,
    trace: str | os.PathLike[str] | None = None,
) -> ProfileResult:
    """Time every kernel of ``artifact``.

    Parameters
    ----------
    artifact : Artifact
    inputs : mapping, optional
        Random ones where there is none.
    runs : int
        Observed runs, each followed by one that is not observed.
    warmup_s : float
        Seconds of runs before.
    threads : int, optional
    trace : path, optional
        Where to write one observed run for Perfetto.
    """
    if runs < 1 or warmup_s < 0:
        raise UsageError("runs must be at least 1 and warmup_s not negative")
    if artifact.manifest.border is not None:
        raise UsageError("the network works on strings; its parts on the host are not measured")
    feed = complete(artifact.signature, inputs)
    count = pool.check(artifact.threads if threads is None else threads)
    # The peaks first: their kernels and the model's must not warm up one another's caches.
    peaks = measure(count)
    if any(_on_integers(kernel) for kernel in artifact.kernels):
        measure_integers(count)
    session = artifact.session()
    once = session.staged(ordered(feed, artifact.signature), count)
    end = time.perf_counter() + warmup_s
    while time.perf_counter() < end:
        once()
    observed, walls, records = [], [], []
    for _ in range(runs):
        recorder = _Recorder()
        session.instrument(recorder)
        try:
            observed.append(_timed(once))
        finally:
            session.instrument(None)
        records.append(recorder.events)
        walls.append(_timed(once))
    kernels, runtime_s = _summary(artifact, records, peaks)
    result = ProfileResult(
        artifact.manifest.name,
        str(artifact.target),
        count,
        runs,
        kernels,
        runtime_s,
        float(np.median(walls)),
        float(np.median(observed)),
        peaks,
        tuple(records[-1][:_MAX_EVENTS]),
    )
    if trace is not None:
        from dlcomp.runtime.trace import write

        write(result, trace)
    return result


def _timed(once: Any) -> float:
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


class _Recorder:
    """What the VM calls before and after each call; keeps as little as it can between the two clocks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._begin = time.perf_counter()
        self._open: list[list[float]] = []  # begin of each call under way, seconds in calls within it

    def __call__(self, _function: Any, name: str, before: bool, *_rest: Any) -> int:
        now = time.perf_counter()
        if not before:
            start, within = self._open.pop()
            self.events.append(Event(name, start - self._begin, now - self._begin, now - start - within))
            if self._open:
                self._open[-1][1] += now - start
        else:
            self._open.append([time.perf_counter(), 0.0])
        return 0


def _summary(
    artifact: Artifact, records: list[list[Event]], peaks: Peaks
) -> tuple[tuple[KernelProfile, ...], float]:
    """The kernels, longest first, and the time in the VM's own functions."""
    totals = [_totals(events) for events in records]
    seconds = {name: float(np.median([total[name][1] for total in totals])) for name in totals[0]}
    calls = {name: found[0] for name, found in totals[0].items()}
    own = sum(time_ for name, time_ in seconds.items() if name.startswith(_BUILTIN))
    whole = sum(seconds.values()) - own
    known = {kernel.name: kernel for kernel in artifact.kernels}
    kernels = [
        _kernel(name, known.get(name), calls[name], spent, spent / whole if whole else 0.0, peaks)
        for name, spent in seconds.items()
        if not name.startswith(_BUILTIN)
    ]
    return tuple(sorted(kernels, key=lambda kernel: -kernel.seconds)), own


def _totals(events: list[Event]) -> dict[str, tuple[int, float]]:
    """Calls and seconds by name."""
    found: dict[str, tuple[int, float]] = {}
    for event in events:
        calls, spent = found.get(event.name, (0, 0.0))
        found[event.name] = (calls + 1, spent + event.own)
    return found


def _on_integers(info: KernelInfo) -> bool:
    """Whether its schedule names an arithmetic on integers."""
    from dlcomp.schedules.cpu.arithmetic import INTEGERS

    return any(f",{kind}" in info.schedule for kind in INTEGERS)


def _kernel(
    name: str, info: KernelInfo | None, calls: int, seconds: float, share: float, peaks: Peaks
) -> KernelProfile:
    if info is None:
        return KernelProfile(name, "", "", calls, seconds, share, 0.0, 0.0, 0.0, "")
    flops, moved = info.flops * calls / seconds, info.bytes * calls / seconds
    compute = flops / (measure_integers(peaks.threads) if _on_integers(info) else peaks.flops)
    memory = moved / peaks.bytes
    bound = "compute" if compute >= memory else "memory"
    return KernelProfile(
        name, info.op, info.schedule, calls, seconds, share, flops, moved, max(compute, memory), bound
    )
