"""How far along a path of steps a budget allows to go, or asks for: by bisection."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcomp.compress.judge import Score
from dlcomp.compress.search.budget import Budget
from dlcomp.compress.search.levels import Level
from dlcomp.compress.search.path import Step
from dlcomp.errors import CheckFailed
from dlcomp.model import Model
from dlcomp.runtime.artifact import Artifact

_LOG = logging.getLogger(__name__)
# Steps behind the last that is allowed, which are tried one by one.
_MORE = 6


@dataclass(frozen=True)
class Candidate:
    """A network on the way.

    Attributes
    ----------
    choice : mapping of str to Level
        What each layer gets; others are as they were.
    steps : int
        Of the path.
    predicted : float
        Its loss if those of its layers added up.
    ms, before_ms : float or None
        Of a run, measured in turn.
    """

    choice: Mapping[str, Level]
    steps: int
    predicted: float
    model: Model
    score: Score
    bytes: int
    ms: float | None
    before_ms: float | None

    @functools.cached_property
    def artifact(self) -> Artifact:
        """Compiled when it is first asked for."""
        return self.model.compile("host")

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "layers": len(self.choice),
            "predicted": self.predicted,
            "score": self.score.to_json(),
            "bytes": self.bytes,
            "ms": self.ms,
            "before_ms": self.before_ms,
        }


Make = Callable[[Mapping[str, Level], int, float], Candidate]


class Walk:
    """Candidates along ``steps``, each made once."""

    def __init__(self, steps: Sequence[Step], make: Make, budget: Budget, before: Score) -> None:
        self._steps, self._make, self._budget, self._before = steps, make, budget, before
        self.seen: list[Candidate] = []
        self._known: dict[int, Candidate] = {}
        self._made: dict[frozenset[tuple[str, str]], Candidate] = {}

    def at(self, count: int) -> Candidate:
        """After the first ``count`` steps."""
        if count not in self._known:
            choice = {step.layer: step.level for step in self._steps[:count]}
            predicted = self._steps[count - 1].loss if count else 0.0
            self._known[count] = self._tried(choice, count, predicted)
        return self._known[count]

    def found(self) -> Candidate:
        """The one that the budget asks for.

        Raises
        ------
        CheckFailed
            Nothing on the path reaches the cost, or what does loses too much.
        """
        if not self._budget.limits_cost:
            return self._as_far_as_allowed()
        if self._cost(self.at(0)):
            return self._cheap_enough()
        raise CheckFailed(
            "the network as it is costs no more than that",
            hint="a smaller limit to time or bytes, or only one to the loss, to go as far as that allows",
        )

    def _as_far_as_allowed(self) -> Candidate:
        low, high = 0, len(self._steps)
        if not self._lost(self.at(high)):
            return self.at(high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._lost(self.at(middle)) else (middle, high)
        best = self.at(low)
        # What is over the limit is one layer; others behind it may still fit.
        choice = dict(best.choice)
        for step in self._steps[high : high + _MORE]:
            tried = self._tried({**choice, step.layer: step.level}, low, best.predicted)
            if not self._lost(tried):
                best, choice = tried, dict(tried.choice)
        return best

    def _cheap_enough(self) -> Candidate:
        low, high = 0, len(self._steps)
        broken = self._cost(self.at(high))
        if broken:
            raise CheckFailed(
                f"with all {high} steps it still has {broken}",
                hint="a larger limit, or another pass before this one",
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._cost(self.at(middle)) else (low, middle)
        found = self.at(high)
        lost = self._lost(found)
        if lost:
            raise CheckFailed(
                f"what costs as little as is wanted loses too much: {lost}",
                hint="a larger limit to the cost or to the loss",
            )
        return found

    def _tried(self, choice: Mapping[str, Level], count: int, predicted: float) -> Candidate:
        # What is tried behind a limit may be what bisection came across.
        key = frozenset((layer, level.name) for layer, level in choice.items())
        if key in self._made:
            return self._made[key]
        made = self._make(choice, count, predicted)
        self.seen.append(made)
        self._made[key] = made
        lost = self._lost(made) or "within the limits"
        _LOG.info("%d layers, %s bytes: kl %.4g, agreement %.4g; %s", len(choice), f"{made.bytes:,}",
                  made.score.kl, made.score.agreement, lost)  # fmt: skip
        return made

    def _lost(self, made: Candidate) -> str:
        return self._budget.lost(made.score, self._before)

    def _cost(self, made: Candidate) -> str:
        return self._budget.cost(made.ms, made.bytes)
