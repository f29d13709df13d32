"""The learned cost model: gradient-boosted trees on what the analytic estimate gets wrong.

The label is log(measured seconds / estimated cycles), so what is learned on one shape carries over to
others, and without data the ranking is the estimate's. Features in the manner of Chen et al., *Learning
to Optimize Tensor Programs* (2018), but of workload and knobs: the templates fix the loops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlcomp.schedules import templates
from dlcomp.schedules.workload import Workload, from_text
from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate
from dlcomp.tune.records import Record
from dlcomp.tune.samples import flops_of

# Fewer measurements than this say less than the estimate.
_LEAST = 8
_ROUNDS = 80
_PARAMETERS = {
    "max_depth": 5,
    "eta": 0.15,
    "min_child_weight": 2,
    "subsample": 0.9,
    "seed": 0,
    "nthread": 1,
    "verbosity": 0,
}


def features(workload: Workload, candidate: Candidate, target: Target) -> dict[str, float]:
    """What the model sees, by name; sizes as log2, tails as the part of the last tile that is empty."""
    found = {
        "estimate": math.log2(max(candidate.estimate, 1.0)),
        "flops": math.log2(max(flops_of(workload), 1)),
        "cycles a flop": math.log2(max(candidate.estimate, 1.0) / max(flops_of(workload), 1)),
        f"template {candidate.template}": 1.0,
        f"op {type(workload).__name__}": 1.0,
        "lanes": target.lanes(),
        "registers": target.vector_registers,
        "l1": math.log2(max(target.l1_bytes, 1)),
        "l2": math.log2(max(target.l2_bytes, 1)),
        "cores": target.cores,
    }
    extents = {name: value for name, value in vars(workload).items() if isinstance(value, int)}
    for name, value in extents.items():
        found[f"shape {name}"] = math.log2(value + 1)
    for name, knob in candidate.settings:
        found[f"knob {name}"] = knob
        found[f"knob {name} log"] = math.log2(abs(knob) + 1)
        if knob > 1:
            for extent, value in extents.items():
                found[f"tail {name} of {extent}"] = (-value % knob) / knob
    if {"rows", "width"} <= set(candidate.knobs):
        found["registers used"] = candidate.knobs["rows"] * -(-candidate.knobs["width"] // target.lanes())
    return found


class CostModel:
    """Ranks candidates of one target; :meth:`fit` may be called again when there is more to learn from."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._names: dict[str, int] = {}
        self._booster: Any = None

    @property
    def trained(self) -> bool:
        """Whether it knows more than the estimate."""
        return self._booster is not None

    def fit(self, records: Sequence[Record]) -> None:
        """Learn from all good records; failed ones count as three times slower than estimated."""
        rows: list[dict[str, float]] = []
        labels: list[float] = []
        failed: list[dict[str, float]] = []
        by_name = {t.name: t for t in templates()}
        for record in records:
            template = by_name.get(record.template)
            if template is None:
                continue
            try:
                workload = from_text(record.workload)
                cost = float(template.estimate(workload, record.knobs, self._target))
                row = features(workload, _candidate(record, cost), self._target)
            except Exception:
                continue
            if record.status == "ok" and record.seconds > 0:
                rows.append(row)
                labels.append(math.log(record.seconds / max(cost, 1.0)))
            else:
                failed.append(row)
        if len(rows) < _LEAST:
            return
        slow = float(np.median(labels)) + math.log(3)
        rows, labels = rows + failed, labels + [slow] * len(failed)
        import xgboost

        self._names = {name: n for n, name in enumerate(sorted({name for row in rows for name in row}))}
        data = xgboost.DMatrix(self._matrix(rows), label=np.array(labels))
        parameters = {**_PARAMETERS, "base_score": float(np.mean(labels))}
        self._booster = xgboost.train(parameters, data, num_boost_round=_ROUNDS)

    def predict(self, workload: Workload, candidates: Sequence[Candidate]) -> np.ndarray:
        """log(seconds), up to a constant as long as the model is not trained."""
        costs = np.log([max(c.estimate, 1.0) for c in candidates])
        if self._booster is None:
            return np.asarray(costs)
        import xgboost

        rows = [features(workload, c, self._target) for c in candidates]
        return np.asarray(costs + self._booster.predict(xgboost.DMatrix(self._matrix(rows))))

    def _matrix(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Zero where a feature is absent: knobs of other templates, names that were never seen."""
        matrix = np.zeros((len(rows), len(self._names)))
        for number, row in enumerate(rows):
            for name, value in row.items():
                if name in self._names:
                    matrix[number, self._names[name]] = value
        return matrix


def _candidate(record: Record, cost: float) -> Candidate:
    return Candidate(record.template, tuple(record.knobs.items()), cost)
