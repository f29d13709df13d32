"""Three sets of samples that share none: one to observe, one to choose by, one to report on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlcomp.compress.data import Calibration, Feed, how_to_give
from dlcomp.compress.judge import size_of, split
from dlcomp.compress.memory import Memory
from dlcomp.compress.search.budget import Budget
from dlcomp.errors import UsageError
from dlcomp.model import Model

# Sensitivities only order the layers: so many samples are enough for that.
_FEW = 256
# Batches, and the labels of each.
Part = tuple[list[Feed], "list[np.ndarray] | None"]


@dataclass(frozen=True)
class Samples:
    """The three sets, and how many samples each has."""

    observe: Calibration
    choose: Part
    report: Part
    counts: Mapping[str, int]

    @property
    def few(self) -> Part:
        """Some of those to choose by."""
        feeds, labels = self.choose
        count = max(1, _FEW // max(1, size_of(feeds[0])))
        return feeds[:count], None if labels is None else labels[:count]


def samples_of(model: Model, budget: Budget, calibration: Any, labels: Any, evaluate: Any) -> Samples:
    """The samples that a search is given, divided.

    Raises
    ------
    UsageError
        There are too few, or no labels for a limit to the accuracy.
    """
    if calibration is None and evaluate is None:
        raise UsageError(
            "a budget needs inputs to judge by",
            hint=how_to_give(model.signature),
        )
    if budget.max_drop is not None and labels is None:
        raise UsageError(
            "max_drop is about accuracy, which needs labels",
            hint="--labels labels.npy; without labels min_agreement or max_kl",
        )
    known = None if labels is None else _labels(labels)
    if evaluate is not None:
        choose, report = split(Calibration(evaluate, model.signature), known, 2)
        observe = Calibration(calibration if calibration is not None else choose[0], model.signature)
        count = sum(size_of(feed) for feed in observe)
    else:
        (feeds, _), choose, report = split(Calibration(calibration, model.signature), known, 3)
        observe = Calibration(feeds, model.signature)
        count = sum(map(size_of, feeds))
    observe.memory = Memory()
    counts = {
        "observe": count,
        "choose": sum(map(size_of, choose[0])),
        "report": sum(map(size_of, report[0])),
    }
    return Samples(observe, choose, report, counts)


def _labels(labels: Any) -> np.ndarray:
    if isinstance(labels, str | Path):
        try:
            labels = np.load(labels, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no labels can be read: {error}", where=str(labels), hint="a .npy of integers"
            ) from error
    array = np.asarray(labels)
    if array.dtype.kind not in "iub" or array.ndim not in (1, 2):
        raise UsageError(
            f"labels cannot be {array.dtype}{list(array.shape)}",
            hint="integers (N,), or for each class whether it is right, (N, classes)",
        )
    return array
