"""How long a run takes, and how that compares: in one process, in turn, with the spread beside the median."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcomp.errors import UsageError
from dlcomp.runtime import openvino, peer
from dlcomp.runtime import threads as pool
from dlcomp.runtime.inputs import complete, ordered

if TYPE_CHECKING:
    from dlcomp.runtime.artifact import Artifact

Runner = Callable[[], Any]

# A side's turn lasts at least this long, so that a change of sides is a small part of it.
_TURN_S = 0.02
_MAX_RUNS = 1_000_000


@dataclass(frozen=True)
class Latency:
    """Statistics of the time of one run, in seconds.

    Attributes
    ----------
    spread : float
        Interquartile range over the median: what to distrust a difference below.
    throughput : float
        Runs a second, one after the other.
    """

    count: int
    min: float
    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    spread: float
    throughput: float

    @staticmethod
    def of(seconds: list[float]) -> Latency:
        """The statistics of measured times."""
        times = np.asarray(seconds)
        low, median, high, p90, p95, p99 = np.percentile(times, [25, 50, 75, 90, 95, 99]).tolist()
        mean = float(times.mean())
        return Latency(
            len(times), float(times.min()), median, mean, p90, p95, p99, (high - low) / median, 1 / mean
        )


@dataclass(frozen=True)
class Ratio:
    """The peer's median time over ours, turn by turn: above 1, ours is the faster.

    Attributes
    ----------
    median, low, high : float
        Median and quartiles over the turns.
    turns : tuple of float
        The ratio of each turn.
    """

    median: float
    low: float
    high: float
    turns: tuple[float, ...]

    @staticmethod
    def of(turns: list[float]) -> Ratio:
        """The quartiles of ratios."""
        low, median, high = np.percentile(turns, [25, 50, 75]).tolist()
        return Ratio(median, low, high, tuple(turns))


@dataclass(frozen=True)
class BenchResult:
    """What :func:`bench` measured."""

    name: str
    target: str
    threads: int
    latency: Latency
    peer: str = ""
    peer_latency: Latency | None = None
    ratio: Ratio | None = None

    def to_json(self) -> dict[str, Any]:
        """In the types of JSON; times in seconds."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.name}: {self.latency.median * 1e3:.3f} ms, {self.threads} threads"
        if self.peer_latency and self.ratio:
            text += f"; {self.peer} {self.peer_latency.median * 1e3:.3f} ms, ratio {self.ratio.median:.2f}"
        return text


def bench(
    artifact: Artifact,
    inputs: Mapping[str, Any] | None = None,
    *,
    warmup_s: float = 0.2,
    min_time_s: float = 1.0,
    min_runs: int = 20,
    threads: int | None = None,
    compare: Artifact | str | None = None,
    model: Any = None,
) -> BenchResult:
    """Measure the latency of ``artifact``.

    Parameters
    ----------
    artifact : Artifact
    inputs : mapping, optional
        Random ones where there is none.
    warmup_s : float
        Seconds of runs that are not counted.
    min_time_s, min_runs : float, int
        Runs are counted until there are at least so many, taking at least so long (of each side).
    threads : int, optional
        For both sides.
    compare : "onnxruntime", "openvino" or Artifact, optional
        Measured in turn with ``artifact``, in the same process.
    model : path, bytes, onnx.ModelProto or Model, optional
        The ONNX model for the peer, where the artifact does not know its file.
    """
    if min_runs < 1 or min_runs > _MAX_RUNS or min_time_s < 0 or warmup_s < 0:
        raise UsageError("min_runs must be at least 1 and times not negative")
    if artifact.manifest.border is not None:
        raise UsageError("the network works on strings; its parts on the host are not measured")
    feed = complete(artifact.signature, inputs)
    count = pool.check(artifact.threads if threads is None else threads)
    # The peer first: should its name or model be wrong, nothing has been measured in vain.
    label, other = _peer(artifact, feed, count, compare, model)
    ours = _staged(artifact, feed, count)
    name, target = artifact.manifest.name, str(artifact.target)
    if other is None:
        _warm_up(ours, warmup_s)
        (turns,) = _take_turns([ours], min_time_s, min_runs)
        return BenchResult(name, target, count, Latency.of([seconds for turn in turns for seconds in turn]))
    latency, theirs, ratio = in_turn(ours, other, warmup_s=warmup_s, min_time_s=min_time_s, min_runs=min_runs)
    return BenchResult(name, target, count, latency, label, theirs, ratio)


def in_turn(
    ours: Runner, theirs: Runner, *, warmup_s: float = 0.2, min_time_s: float = 1.0, min_runs: int = 20
) -> tuple[Latency, Latency, Ratio]:
    """Time two functions in turn, in one process; the options are those of :func:`bench`."""
    sides = [ours, theirs]
    for side in sides:
        _warm_up(side, warmup_s)
    turns = _take_turns(sides, min_time_s, min_runs)
    first, second = (Latency.of([seconds for turn in side for seconds in turn]) for side in turns)
    ratios = [float(np.median(b) / np.median(a)) for a, b in zip(*turns, strict=True)]
    return first, second, Ratio.of(ratios)


def _staged(artifact: Artifact, feed: Mapping[str, Any], count: int) -> Runner:
    return artifact.session().staged(ordered(feed, artifact.signature), count)


def _peer(
    artifact: Artifact, feed: Mapping[str, Any], count: int, compare: Artifact | str | None, model: Any
) -> tuple[str, Runner | None]:
    if compare is None:
        return "", None
    if not isinstance(compare, str):
        return compare.manifest.name, _staged(compare, feed, count)
    if compare == "openvino":
        return openvino.runner(peer.network(artifact, model), feed, count)
    if compare != "onnxruntime":
        raise UsageError(
            f"cannot compare with {compare!r}", hint="onnxruntime, openvino, or another artifact"
        )
    version = peer.runtime().__version__
    session = peer.session(peer.network(artifact, model), count)
    return f"onnxruntime {version}", peer.runner(session, feed)


def _warm_up(run: Runner, seconds: float) -> None:
    end = time.perf_counter() + seconds
    run()
    while time.perf_counter() < end:
        run()


def _take_turns(sides: list[Runner], min_time_s: float, min_runs: int) -> list[list[list[float]]]:
    """Seconds of every counted run, by side and turn.

    A turn starts with a run that is not counted, so that no side pays for caches and threads that the
    other has left behind; with one side only, this costs nothing but those runs.
    """
    found: list[list[list[float]]] = [[] for _ in sides]
    spent, runs = [0.0] * len(sides), [0] * len(sides)
    while min(runs) < min_runs or min(spent) < min_time_s:
        for number, side in enumerate(sides):
            turn = _turn(side)
            found[number].append(turn)
            spent[number] += sum(turn)
            runs[number] += len(turn)
        if max(runs) >= _MAX_RUNS:
            break
    return found


def _turn(run: Runner) -> list[float]:
    clock = time.perf_counter
    times: list[float] = []
    run()
    begin = now = clock()
    while not times or now - begin < _TURN_S:
        start = now
        run()
        now = clock()
        times.append(now - start)
    return times
