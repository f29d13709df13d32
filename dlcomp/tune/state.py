"""How far the tuning of each task is: what the live table shows and what the result keeps."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dlcomp.tune.candidates import Candidate
from dlcomp.tune.samples import flops_of
from dlcomp.tune.tasks import Task


@dataclass
class TaskState:
    """One task while it is tuned.

    Attributes
    ----------
    default_s, best_s : float
        Seconds of what is used without tuning, and of the best so far; 0 before they are measured.
    best : Candidate or None
    planned, trials : int
        Measurements that are planned, and done (failures included).
    failures : Counter
        By reason.
    curve : list of (trials, seconds since the start, best seconds)
    """

    task: Task
    planned: int = 0
    trials: int = 0
    default_s: float = 0.0
    best_s: float = 0.0
    best: Candidate | None = None
    failures: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def gain(self) -> float:
        """The default's time over the best's; 1 before both are known."""
        return self.default_s / self.best_s if self.best_s and self.default_s else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "workload": self.task.text,
            "count": self.task.count,
            "share": self.task.share,
            "space": len(self.task.space),
            "default": str(self.task.space[0]),
            "default_seconds": self.default_s,
            "best": str(self.best) if self.best else "",
            "best_seconds": self.best_s,
            "flops": flops_of(self.task.workload),
            "trials": self.trials,
            "planned": self.planned,
            "failures": dict(self.failures),
            "messages": self.messages,
            "curve": [list(point) for point in self.curve],
        }


@dataclass
class Progress:
    """All tasks of a tuning, as it goes on and as its result.

    Attributes
    ----------
    peak_flops : float
        Floating-point operations a second of this machine on the target's cores, measured; 0 if not.
    interrupted : bool
        Ended by Ctrl-C; what was measured is kept.
    """

    states: list[TaskState]
    peak_flops: float = 0.0
    begin: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def trials(self) -> int:
        return sum(state.trials for state in self.states)

    @property
    def planned(self) -> int:
        return sum(state.planned for state in self.states)

    @property
    def failures(self) -> Counter[str]:
        """Over all tasks, by reason."""
        return sum((state.failures for state in self.states), Counter())

    def elapsed(self) -> float:
        return time.monotonic() - self.begin

    def eta(self) -> float | None:
        """Seconds to go, at the pace so far; None before the first measurement."""
        left = self.planned - self.trials
        return self.elapsed() / self.trials * left if self.trials else None

    def percent_of_peak(self, state: TaskState) -> float | None:
        if not state.best_s or not self.peak_flops:
            return None
        return float(100 * flops_of(state.task.workload) / state.best_s / self.peak_flops)

    def seconds_of_network(self) -> tuple[float, float]:
        """Seconds a run spends in the tuned operators: by the defaults, and by the best."""
        measured = [s for s in self.states if s.default_s]
        return (
            sum(s.task.count * s.default_s for s in measured),
            sum(s.task.count * (s.best_s or s.default_s) for s in measured),
        )

    def to_json(self) -> dict[str, Any]:
        before, after = self.seconds_of_network()
        return {
            "seconds": self.seconds,
            "trials": self.trials,
            "failures": dict(self.failures),
            "interrupted": self.interrupted,
            "peak_flops": self.peak_flops,
            "default_seconds": before,
            "best_seconds": after,
            "tasks": [state.to_json() for state in self.states],
        }
