"""The tuning of tasks: batches are built side by side, then each candidate is timed in turn with the best.

MetaSchedule's search mutates traces of sampling instructions; these templates are spaces of a few hundred
settings that write TensorIR directly, so a trace has nothing to replay, and a ranking of the whole
space replaces evolution. Its builder and runner are replaced for the reasons told in
:mod:`dlcomp.tune.pool`; the model is XGBoost, as there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate, current, version_of
from dlcomp.tune.cost_model import CostModel
from dlcomp.tune.database import Database, ranked
from dlcomp.tune.pool import Outcome, Pool
from dlcomp.tune.records import Record, target_key
from dlcomp.tune.search import Search
from dlcomp.tune.state import Progress, TaskState
from dlcomp.tune.tasks import Task

_TURNS = 5
# A duel decides which of two becomes the best; the challenger must win three of four turns.
_DUEL_TURNS = 15
_QUARTILE = 75
# In the end so many that came nearest to the best meet it again, in more turns and loaded several times.
_PLAYOFF, _PLAYOFF_TURNS, _PLAYOFF_LOADS, _NEAR, _CLEARLY = 4, 9, 5, 1.1, 0.99
# Built and measured together; a new batch is chosen by a model that knows the last one.
_BATCH = 8
_LEAST_TRIALS = 4


@dataclass(frozen=True)
class Budget:
    """How much to measure.

    Attributes
    ----------
    trials : int
        Measurements a task on average; tasks get from 4 to twice that many by their share of the time.
    seconds : float or None
        Of the whole tuning.
    """

    trials: int = 32
    seconds: float | None = None

    def planned(self, tasks: Sequence[Task]) -> list[int]:
        """Trials of each task."""
        total, most, least = self.trials * len(tasks), 2 * self.trials, min(_LEAST_TRIALS, self.trials)
        if len(tasks) == 1:
            most = self.trials
        whole = sum(task.share for task in tasks) or 1.0
        wanted = [max(least, min(most, round(total * task.share / whole))) for task in tasks]
        return [min(count, len(task.space)) for count, task in zip(wanted, tasks, strict=True)]


class Tuner:
    """Tunes ``tasks`` for ``target`` and writes what it measures into ``database``.

    Parameters
    ----------
    tasks : sequence of Task
    target : Target
        The machine that this runs on.
    database : Database
    pool : Pool
    budget : Budget
    resume : bool
        Whether earlier measurements count: their candidates are not measured again, the best of them is
        where this starts, and all of them teach the cost model.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        target: Target,
        database: Database,
        pool: Pool,
        budget: Budget,
        resume: bool = True,
        seed: int = 0,
    ) -> None:
        self._target, self._database, self._pool, self._budget = target, database, pool, budget
        self._key = target_key(target)
        self._known = database.of_target(target) if resume else []
        self._model = CostModel(target)
        self._model.fit(self._known)
        self.progress = Progress([TaskState(task) for task in tasks])
        self._searches: list[Search] = []
        self._paths = [""] * len(tasks)
        self._measured: list[dict[Candidate, float]] = [{} for _ in tasks]
        for state, trials in zip(self.progress.states, budget.planned(tasks), strict=True):
            mine = [r for r in self._known if r.workload == state.task.text and current(r)]
            tried = {_key(record) for record in mine}
            # The default and the best known are measured anew, as the base that others are compared with.
            search = Search(state.task.workload, state.task.space, max(0, trials - len(tried)), tried, seed)
            self._searches.append(search)
            state.planned = search.trials
            if not search.trials:
                _recall(state, mine)

    def run(self, shown: Callable[[Progress], None] = lambda progress: None) -> Progress:
        """Tune until the budget is spent; ``shown`` is called after every measurement.

        Ctrl-C ends it early: the result says ``interrupted``, and every record is in the database.
        """
        progress = self.progress
        progress.begin = time.monotonic()
        try:
            while (number := self._next()) is not None:
                self._round(number, shown)
        except KeyboardInterrupt:
            progress.interrupted = True
        progress.seconds = progress.elapsed()
        shown(progress)
        return progress

    def _out_of_time(self) -> bool:
        limit = self._budget.seconds
        return limit is not None and self.progress.elapsed() >= limit

    def _next(self) -> int | None:
        """The task whose remaining trials stand for the largest share of the network's time."""
        if self._out_of_time():
            return None
        open_tasks = [
            (state.task.share * search.left / max(1, search.trials), -number)
            for number, (state, search) in enumerate(zip(self.progress.states, self._searches, strict=True))
            if search.left
        ]
        return -max(open_tasks)[1] if open_tasks else None

    def _round(self, number: int, shown: Callable[[Progress], None]) -> None:
        state, search = self.progress.states[number], self._searches[number]
        if not self._paths[number]:
            self._base(number)
            shown(self.progress)
        batch = search.propose(_BATCH, self._model, state.best)
        text = state.task.text
        for candidate, (path, built) in zip(batch, self._pool.build(text, batch), strict=True):
            if self._out_of_time():
                return
            self._measure(number, candidate, path, built)
            shown(self.progress)
        self._model.fit(self._known)
        if not search.left:
            self._playoff(number)
            shown(self.progress)

    def _playoff(self, number: int) -> None:
        """Those nearest to the best against it once more: on a busy machine a few turns decide nothing."""
        state, text = self.progress.states[number], self.progress.states[number].task.text
        found = sorted(self._measured[number].items(), key=lambda item: item[1])
        near = [c for c, seconds in found if c != state.best and seconds < _NEAR * state.best_s][:_PLAYOFF]
        for candidate, (path, built) in zip(near, self._pool.build(text, near), strict=True):
            if built.status != "ok" or self._out_of_time():
                self._pool.forget(path)
                continue
            duel = self._pool.run(text, path, self._paths[number], _PLAYOFF_TURNS, _PLAYOFF_LOADS)
            if duel.status != "ok":
                self._pool.forget(path)
                continue
            seconds, spread, _ = _compared(duel.value, state.best_s)
            if seconds < _CLEARLY * state.best_s:
                record = replace(self._record(state, candidate, duel), seconds=seconds, spread=spread)
                self._settle(number, candidate, path, record, won=True)
            else:
                self._pool.forget(path)

    def _base(self, number: int) -> None:
        """Measure the default, and the best that is known from before, which others have to beat."""
        state, search = self.progress.states[number], self._searches[number]
        task = state.task
        default = task.space[0]
        first = [default]
        mine = [r for r in self._known if r.workload == task.text and current(r)]
        by_key = {c.key: c for c in task.space}
        known = next((by_key[_key(r)] for r in ranked(mine) if _key(r) in by_key), None)
        if known is not None and known.key != default.key:
            first.append(known)
        search.take(default)
        for candidate, (path, built) in zip(first, self._pool.build(task.text, first), strict=True):
            self._measure(number, candidate, path, built, trial=False)
        if not self._paths[number]:
            self._paths[number] = "-"  # both failed: the first that runs becomes the base

    def _measure(
        self, number: int, candidate: Candidate, path: str, built: Outcome, trial: bool = True
    ) -> None:
        state = self.progress.states[number]
        incumbent = self._paths[number].strip("-")
        outcome = built
        if built.status == "ok":
            outcome = self._pool.run(state.task.text, path, incumbent, _TURNS)
        state.trials += 1
        if not trial:
            state.planned = max(state.planned, state.trials)
        record = self._record(state, candidate, outcome)
        if outcome.status != "ok":
            state.failures[outcome.status] += 1
            state.messages.setdefault(outcome.status, f"{candidate}: {outcome.message}")
            self._keep(record, number)
            self._pool.forget(path)
            return
        seconds, spread, _ = _compared(outcome.value, state.best_s)
        won = not incumbent
        if incumbent and seconds < state.best_s:
            duel = self._pool.run(state.task.text, path, incumbent, _DUEL_TURNS)
            if duel.status == "ok":
                seconds, spread, won = _compared(duel.value, state.best_s)
        if candidate.key == state.task.space[0].key:
            state.default_s = seconds
        self._measured[number][candidate] = seconds
        self._settle(number, candidate, path, replace(record, seconds=seconds, spread=spread), won)

    def _record(self, state: TaskState, candidate: Candidate, outcome: Outcome) -> Record:
        return Record(
            workload=state.task.text,
            target=self._key,
            version=version_of(candidate.template),
            template=candidate.template,
            knobs=candidate.knobs,
            status=outcome.status,
            message=outcome.message,
            time=time.time(),
        )

    def _settle(self, number: int, candidate: Candidate, path: str, record: Record, won: bool) -> None:
        """Keep a measurement; a winner is what the next ones are compared with."""
        state, incumbent = self.progress.states[number], self._paths[number].strip("-")
        record = replace(record, confirmed=won)
        if won:
            self._pool.forget(incumbent) if incumbent else None
            self._paths[number], state.best, state.best_s = path, candidate, record.seconds
        else:
            self._pool.forget(path)
        self._keep(record, number)

    def _keep(self, record: Record, number: int) -> None:
        self._database.append(record)
        self._known.append(record)
        state = self.progress.states[number]
        if state.best_s:
            state.curve.append((state.trials, self.progress.elapsed(), state.best_s))


def _recall(state: TaskState, mine: Sequence[Record]) -> None:
    """Fill in what earlier runs found for a task that has no trials left."""
    by_key = {c.key: c for c in state.task.space}
    for record in ranked(mine)[::-1]:
        candidate = by_key.get(_key(record))
        if candidate is None:
            continue
        state.best, state.best_s = candidate, record.seconds
        if candidate.key == state.task.space[0].key:
            state.default_s = record.seconds


def _key(record: Record) -> tuple[str, tuple[tuple[str, int], ...]]:
    return record.template, tuple(sorted(record.knobs.items()))


def _compared(turns: list[list[float]], best_s: float) -> tuple[float, float, bool]:
    """Seconds as if measured when the incumbent was, their spread, and whether the incumbent lost.

    The ratio to the incumbent in the same turn is free of what slows the whole machine down.
    """
    values = np.array(turns[0])
    if len(turns) == 2:
        values = values / np.array(turns[1]) * best_s
    low, median, high = np.percentile(values, [25, 50, _QUARTILE])
    return float(median), float((high - low) / median), bool(len(turns) == 2 and high < best_s)
