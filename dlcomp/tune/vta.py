"""The tuning of an accelerator's layers: tilings as knobs, cycles of the simulator as what is measured.

A simulated cycle is exact, so that nothing is built or run, and one measurement of a candidate is enough.
Half of the trials take the candidates that the estimate likes best, half the neighbours of the best so far.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict

from dlcomp.codegen.vta.choose import candidates, choose_tiling, layer_cycles, sample, workload
from dlcomp.codegen.vta.estimate import estimate
from dlcomp.codegen.vta.operators import Conv
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.schedules.workload import to_text
from dlcomp.target import Target
from dlcomp.tune.candidates import VTA, Candidate, choices, current, neighbours, version_of
from dlcomp.tune.database import Database
from dlcomp.tune.records import Record, target_key
from dlcomp.tune.state import Progress, TaskState
from dlcomp.tune.tasks import Task, name_of
from dlcomp.tune.tuner import Budget
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.timing import preset
from dlcomp.vta_targets import load

_TIMING = preset("pipelined")
# Rows and columns of a tile, the largest first: more of them than a compilation looks at.
_SIZES = 12


def tilings(database: Database, target: Target) -> dict[str, Tiling]:
    """What a compilation uses, by the text of the workload."""
    best = {text: ranked[0] for text, ranked in choices(database, target).items()}
    return {text: tiling_of(knobs) for text, (template, knobs) in best.items() if template == VTA}


def tasks(layers: Iterable[Conv], config: VtaConfig) -> dict[str, tuple[Task, Conv]]:
    """Layers by the texts of their workloads, the largest share of the estimated cycles first."""
    listed = list(layers)
    counts = Counter(to_text(workload(conv, config)) for conv in listed)
    kinds = {to_text(workload(conv, config)): conv for conv in listed}
    spaces = {text: _space(conv, config) for text, conv in kinds.items()}
    costs = {
        text: counts[text] * min(c.estimate for c in space[1:] or space) * _images(kinds[text], config)
        for text, space in spaces.items()
    }
    total = sum(costs.values()) or 1.0
    found = {}
    for text in sorted(costs, key=lambda text: -costs[text]):
        conv, share = kinds[text], costs[text] / total
        kind = workload(conv, config)
        found[text] = (Task(name_of(kind), kind, counts[text], share, spaces[text]), sample(conv, config))
    return found


def _space(conv: Conv, config: VtaConfig) -> tuple[Candidate, ...]:
    """What a compilation chooses without records, then all others by their estimates."""
    few = sample(conv, config)
    space = [
        _candidate(tiling, estimate(few, tiling, config, _TIMING))
        for contexts in (2, 1)
        for tiling in candidates(few, config, contexts, _SIZES)
    ]
    default = _candidate(choose_tiling(conv, config, _TIMING))
    return (default, *sorted((c for c in space if c.key != default.key), key=lambda c: (c.estimate, str(c))))


def _images(conv: Conv, config: VtaConfig) -> float:
    """How many times as many images a layer has as are simulated."""
    few = sample(conv, config)
    return 1.0 if few.images_are_pixels else conv.data.shape[0] / few.data.shape[0]


class VtaTuner:
    """Tunes layers of an accelerator; see :class:`dlcomp.tune.tuner.Tuner` for the parameters."""

    def __init__(
        self,
        layers: Mapping[str, tuple[Task, Conv]],
        target: Target,
        database: Database,
        budget: Budget,
        resume: bool = True,
    ) -> None:
        self._target, self._database, self._budget = target, database, budget
        self._config = load(target.arch)
        self._layers = layers
        self._resume = resume
        self.progress = Progress([TaskState(task) for task, _ in layers.values()])
        # Two operations a multiply-accumulate.
        self.progress.peak_flops = 2e6 * self._config.macs_per_cycle * self._config.clock_mhz
        planned = budget.planned([task for task, _ in layers.values()])
        for state, trials in zip(self.progress.states, planned, strict=True):
            state.planned = trials

    def run(self, shown: Callable[[Progress], None] = lambda progress: None) -> Progress:
        """Tune until the budget is spent; Ctrl-C ends it early, and every record is in the database."""
        progress = self.progress
        progress.begin = time.monotonic()
        try:
            for state in progress.states:
                self._tune(state, shown)
        except KeyboardInterrupt:
            progress.interrupted = True
        progress.seconds = progress.elapsed()
        shown(progress)
        return progress

    def _tune(self, state: TaskState, shown: Callable[[Progress], None]) -> None:
        known = self._known(state.task.text) if self._resume else {}
        for number, candidate in enumerate(self._order(state)):
            limit = self._budget.seconds
            if number >= state.planned or (limit is not None and self.progress.elapsed() >= limit):
                return
            self._measure(state, candidate, known.get(candidate.key))
            shown(self.progress)

    def _order(self, state: TaskState) -> Iterator[Candidate]:
        """The default, then by turns the next by estimate and the nearest to the best; none twice."""
        space = state.task.space
        yield space[0]
        seen, ranked = {space[0].key}, iter(space[1:])
        around, centre = iter(neighbours(space[0], space)), space[0]
        for number in range(len(space)):
            if state.best is not None and state.best.key != centre.key:
                centre = state.best
                around = iter(neighbours(centre, space))
            for source in (around, ranked) if number % 2 else (ranked, around):
                found = next((c for c in source if c.key not in seen), None)
                if found is not None:
                    seen.add(found.key)
                    yield found
                    break

    def _measure(self, state: TaskState, candidate: Candidate, known: float | None) -> None:
        _, conv = self._layers[state.task.text]
        seconds = known
        if seconds is None:
            cycles = layer_cycles(conv, tiling_of(candidate.knobs), self._config, _TIMING)
            # Of all images, where only a few were simulated.
            whole = vars(state.task.workload)["n"]
            scale = 1.0 if conv.images_are_pixels else whole / conv.data.shape[0]
            seconds = cycles * scale / (self._config.clock_mhz * 1e6)
        better = state.best is None or seconds < state.best_s
        if known is None:
            # None is confirmed: cycles of different days are the same, and the least is the best.
            key, version = target_key(self._target), version_of(VTA)
            made = Record(
                state.task.text, key, version, VTA, candidate.knobs, seconds=seconds, time=time.time()
            )
            self._database.append(made)
        state.trials += 1
        if not state.default_s:
            state.default_s = seconds
        if better:
            state.best, state.best_s = candidate, seconds
        state.curve.append((state.trials, self.progress.elapsed(), state.best_s))

    def _known(self, text: str) -> dict[object, float]:
        """Seconds of what was measured before."""
        mine = (r for r in self._database.of_target(self._target) if r.workload == text and current(r))
        return {(r.template, tuple(sorted(r.knobs.items()))): r.seconds for r in mine}


def _candidate(tiling: Tiling, cost: float = 0.0) -> Candidate:
    settings = tuple((name, int(value)) for name, value in asdict(tiling).items())
    return Candidate(VTA, settings, cost)


def tiling_of(knobs: Mapping[str, int]) -> Tiling:
    """The tiling of a candidate's settings."""
    return Tiling(
        knobs["oc"],
        knobs["ic"],
        knobs["rows"],
        knobs["columns"],
        bool(knobs["channels_first"]),
        knobs["contexts"],
    )
