"""Which candidates of one workload to measure next.

First what the estimate likes best, each template's favourite among it; then by the cost model, a few at
random so that it cannot fool itself (epsilon-greedy, as in Chen et al. 2018); in the last third of the
trials the neighbours of the best one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from dlcomp.schedules.workload import Workload
from dlcomp.tune.candidates import Candidate, neighbours
from dlcomp.tune.cost_model import CostModel

_EPSILON = 0.125


class Search:
    """The space of one workload, and what of it has been proposed.

    Parameters
    ----------
    workload : Workload
    space : sequence of Candidate
        Best estimate first.
    trials : int
        How many will be measured at most.
    tried : iterable of keys
        Candidates that earlier runs have measured: not proposed again.
    """

    def __init__(
        self,
        workload: Workload,
        space: Sequence[Candidate],
        trials: int,
        tried: Iterable[Any] = (),
        seed: int = 0,
    ) -> None:
        self.workload = workload
        self.space = list(space)
        self._seen = set(tried)
        self.trials = min(trials, sum(c.key not in self._seen for c in self.space))
        self.proposed = 0
        self._random = random.Random(seed)

    @property
    def left(self) -> int:
        """Trials that are still to come."""
        return self.trials - self.proposed

    def take(self, candidate: Candidate) -> None:
        """``candidate`` is measured anyway: if it was still to come, that is one of the trials."""
        if candidate.key not in self._seen:
            self._seen.add(candidate.key)
            self.proposed += min(1, self.left)

    def propose(self, count: int, model: CostModel, best: Candidate | None) -> list[Candidate]:
        """At most ``count`` new candidates."""
        count = min(count, self.left)
        free = [c for c in self.space if c.key not in self._seen]
        if not free or count < 1:
            return []
        if self.proposed <= 1:
            order = self._first(free)
            if model.trained:  # by other shapes: half of the batch is theirs
                order = [c for pair in zip(order, self._ranked(free, model), strict=False) for c in pair]
                order += free
        elif best is not None and 3 * self.proposed >= 2 * self.trials:
            near = [c for c in neighbours(best, self.space) if c.key not in self._seen]
            # Half of the way by nearness, half by what is expected of them.
            order = self._ranked(near[: 3 * count], model) + self._ranked(free, model)
        else:
            order = self._ranked(free, model)
            for place in range(count):
                if self._random.random() < _EPSILON:
                    order.insert(place, self._random.choice(free))
        batch = list({c.key: c for c in order}.values())[:count]
        self._seen |= {c.key for c in batch}
        self.proposed += len(batch)
        return batch

    def _first(self, free: list[Candidate]) -> list[Candidate]:
        favourites: dict[str, Candidate] = {}
        for candidate in free:
            favourites.setdefault(candidate.template, candidate)
        return [*favourites.values(), *free]

    def _ranked(self, some: list[Candidate], model: CostModel) -> list[Candidate]:
        if not some:
            return []
        costs = model.predict(self.workload, some)
        return [some[i] for i in costs.argsort(kind="stable")]
