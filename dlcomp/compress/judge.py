"""How much a changed network loses, on samples that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from dlcomp.compress.data import Calibration, Feed
from dlcomp.errors import ModelError, UsageError
from dlcomp.model import Model

Run = Callable[[Feed], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Score:
    """What a network loses on some samples.

    Attributes
    ----------
    samples : int
    accuracy : float or None
        The share of samples whose largest output is right; None without labels.
    agreement : float
        The share whose largest output is the one that the network before had.
    kl : float
        Mean relative entropy of the answers (the last axis of the first output, as shares) to those before.
    error : float
        Squared error of all outputs over their squares about their mean.
    """

    samples: int
    accuracy: float | None
    agreement: float
    kl: float
    error: float

    def to_json(self) -> dict[str, Any]:
        """In the types of JSON, which knows no infinity."""
        return {
            key: None if value is None or not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    def deviation(self) -> float:
        """The standard error of the accuracy, of the agreement where there is none."""
        share = self.agreement if self.accuracy is None else self.accuracy
        return float(np.sqrt(share * (1 - share) / max(1, self.samples)))


class Judge:
    """The answers of a network before all changes, to compare others with.

    Parameters
    ----------
    run : function
        Computes the outputs of the network as it was.
    feeds : sequence of feeds
    labels : (batches, ...) or None
        For each feed the class of each sample, or which classes are right ``(N, classes)``.
    """

    def __init__(self, run: Run, feeds: Sequence[Feed], labels: Sequence[np.ndarray] | None) -> None:
        self.feeds = feeds
        self._labels = labels
        self._before = [_floats(run(feed)) for feed in feeds]
        if not self._before[0]:
            raise ModelError("it has no output of floats to judge it by", where="search")
        self.before = self._score(self._before)

    @property
    def gives_classes(self) -> bool:
        """Whether the first output looks like a number for each class, or like shares of them in its rows."""
        first = self._before[0][0]
        return first.ndim > 1 and first.shape[-1] > 1 and (first.ndim == 2 or _are_shares(first))

    def score(self, run: Run) -> Score:
        """What the network that ``run`` computes loses."""
        return self._score([_floats(run(feed)) for feed in self.feeds])

    def _score(self, found: Sequence[Sequence[np.ndarray]]) -> Score:
        right = same = kl = 0.0
        rows = samples = 0
        wrong, spread = 0.0, 0.0
        for number, (now, was) in enumerate(zip(found, self._before, strict=True)):
            answers, before = _rows(now[0]), _rows(was[0])
            rows += len(answers)
            same += float((answers.argmax(axis=-1) == before.argmax(axis=-1)).sum())
            kl += float(_entropy(before, answers).sum())
            samples += len(now[0]) if now[0].ndim else 1
            if self._labels is not None:
                right += float(_right(answers, self._labels[number]).sum())
            for a, b in zip(now, was, strict=True):
                wrong += float(((a - b) ** 2).sum())
                spread += float(((b - b.mean()) ** 2).sum())
        accuracy = None if self._labels is None else right / max(1, samples)
        error = wrong / spread if spread else float(wrong > 0)
        # What is not finite any more is as wrong as can be.
        kl, error = (value if np.isfinite(value) else np.inf for value in (kl / max(1, rows), error))
        return Score(samples, accuracy, same / max(1, rows), float(kl), float(error))


def by_artifact(model: Model) -> Run:
    """Computes a model as dlcomp compiles it."""
    artifact = model.compile("host")
    return lambda feed: list(artifact.run(feed).values())


def by_nodes(proto: onnx.ModelProto) -> Run | None:
    """Computes a network node by node, without compiling it; None where onnxruntime is not installed."""
    from dlcomp.errors import ToolMissing
    from dlcomp.runtime import peer, threads

    try:
        session = peer.session(proto.SerializeToString(), threads.available(), optimize=False)
    except (ToolMissing, UsageError, ValueError):
        return None
    names = [value.name for value in session.get_inputs()]
    return lambda feed: session.run(None, {name: feed[name] for name in names})


def split(
    data: Calibration, labels: np.ndarray | None, parts: int
) -> list[tuple[list[Feed], list[np.ndarray] | None]]:
    """The batches of ``data`` in ``parts`` of the same size that share no sample, drawn by a fixed seed.

    Raises
    ------
    UsageError
        There are fewer batches than parts, or not as many labels as samples.
    """
    feeds = list(data)
    if len(feeds) < parts:
        raise UsageError(
            f"{len(feeds)} batches are too few to choose on some and to report on others",
            hint=f"at least {parts} batches of the network's size",
        )
    cut: list[np.ndarray] | None = None
    if labels is not None:
        sizes = [size_of(feed) for feed in feeds]
        # Samples that fill no batch are not run.
        if not sum(sizes) <= len(labels) < sum(sizes) + max(sizes):
            raise UsageError(
                f"there are {len(labels)} labels for {sum(sizes)} samples", hint="one for each sample"
            )
        cut = np.split(labels, np.cumsum(sizes))[: len(feeds)]
    order = np.random.default_rng(0).permutation(len(feeds))
    return [
        ([feeds[i] for i in order[k::parts]], None if cut is None else [cut[i] for i in order[k::parts]])
        for k in range(parts)
    ]


def size_of(feed: Feed) -> int:
    """Samples of a batch; inputs that are no arrays of samples count as one."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def _floats(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.asarray(array) for array in outputs]
    return [array.astype(np.float64) for array in arrays if array.dtype.kind == "f" and array.size]


def _rows(array: np.ndarray) -> np.ndarray:
    return np.asarray(array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1))


def _right(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    best = np.asarray(answers.argmax(axis=-1))
    if len(labels) != len(best):
        raise UsageError(
            f"the first output has {len(best)} answers for {len(labels)} labels",
            hint="labels are for networks that give a class for each sample",
        )
    if labels.ndim == 1:
        return np.asarray(best == labels)
    found: np.ndarray = labels[np.arange(len(best)), best] != 0
    return found


def _entropy(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Relative entropy of each row; rows that are no shares yet become such by softmax."""
    p, q = _log_shares(before), _log_shares(after)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def _log_shares(rows: np.ndarray) -> np.ndarray:
    if _are_shares(rows):
        return np.asarray(np.log(np.maximum(rows, 1e-12)))
    shifted = rows - rows.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _are_shares(rows: np.ndarray) -> bool:
    return bool(rows.size and rows.min() >= 0 and np.allclose(rows.sum(axis=-1), 1, atol=1e-3))
