"""The order in which layers are changed: greedily, what loses least for what it saves comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlcomp.compress.search.levels import Level
from dlcomp.compress.search.stopwatch import Timing

_TINY = 1e-12


@dataclass(frozen=True)
class Trial:
    """What a layer is like when it alone is changed.

    Attributes
    ----------
    loss : float
        Of the whole network: relative entropy, or the error of its outputs.
    saved_bytes : int
    timing : Timing or None
        Of the layer alone; None where it was not measured.
    """

    layer: str
    level: Level
    loss: float
    saved_bytes: int
    saved_macs: int
    timing: Timing | None

    def gain(self, goal: str) -> float:
        """Seconds or bytes that it saves; nothing where it is not measured to be faster."""
        if goal == "size":
            return float(self.saved_bytes)
        return self.timing.saved if self.timing is not None and self.timing.faster else 0.0


@dataclass(frozen=True)
class Step:
    """One layer to its next level, and what all steps so far lose and gain if losses add up."""

    layer: str
    level: Level
    loss: float
    gain: float


def path(trials: Mapping[str, Sequence[Trial]], goal: str) -> list[Step]:
    """Steps from the network as it is to all layers at the last level that pays.

    Every step is the one of all layers with the least loss for its gain; a level that another one of the
    layer beats in both (or on the way to which) is jumped over.
    """
    fronts = {layer: _front(some, goal) for layer, some in trials.items()}
    at = dict.fromkeys(fronts, 0)
    steps: list[Step] = []
    loss = gain = 0.0
    while True:
        prices = {
            layer: _slope(front[at[layer]], front[at[layer] + 1])
            for layer, front in fronts.items()
            if at[layer] + 1 < len(front)
        }
        if not prices:
            return steps
        layer = min(prices, key=lambda name: prices[name])
        old, new = fronts[layer][at[layer] : at[layer] + 2]
        at[layer] += 1
        loss, gain = loss + new.loss - old.loss, gain + new.gain - old.gain
        assert new.level is not None
        steps.append(Step(layer, new.level, loss, gain))


@dataclass(frozen=True)
class _Point:
    loss: float
    gain: float
    level: Level | None


def _front(trials: Sequence[Trial], goal: str) -> list[_Point]:
    """The lower convex hull of losses over gains, from nothing on: along it a gain only becomes dearer."""
    points = [_Point(0.0, 0.0, None)]
    some = [_Point(max(0.0, trial.loss), trial.gain(goal), trial.level) for trial in trials]
    for new in sorted(some, key=lambda point: (point.loss, -point.gain)):
        if new.gain <= points[-1].gain:
            continue
        while len(points) > 1 and _slope(points[-1], new) <= _slope(points[-2], points[-1]):
            points.pop()
        points.append(new)
    return points


def _slope(old: _Point, new: _Point) -> float:
    return (new.loss - old.loss) / max(new.gain - old.gain, _TINY)
