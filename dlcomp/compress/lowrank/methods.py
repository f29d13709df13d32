"""The ways to write a weight as a chain of smaller ones.

Each gives all stages but the last; that one is the least-squares solution, as outputs are linear in it.

svd, whitened
    The leading right singular vectors of the weight as (O, I * K...), in the metric of the inputs: for
    C = S S^T those of W S, whose dropped values squared are the error (Eckart and Young; Wang et al.,
    "SVD-LLM", ICLR 2025, section 3.1). ``svd`` is the same with C = I (Denton et al., 2014).
tucker2
    1x1 to fewer inputs, KxK, 1x1 to the outputs (Kim et al., "Compression of deep convolutional neural
    networks", ICLR 2016), the inputs' factor first and the rest by reduced-rank regression on what it leaves.
spatial
    Kx1 and 1xK (Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions",
    2014).
cp
    1x1, KxK of every channel alone, 1x1 (:mod:`dlcomp.compress.lowrank.cp`), inputs in the metric of their
    channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.lowrank.cp import most_rank, parallel_factors
from dlcomp.compress.lowrank.evbmf import evbmf_rank
from dlcomp.compress.lowrank.subject import Stage, Subject

# Ranks are multiples of what a vector of float32 holds.
STEP = 8
_SWEEPS = 2


@dataclass(frozen=True)
class Front:
    """All stages but the last.

    Attributes
    ----------
    stages : sequence of Stage
    features : (R, I * K...) float64
        What they compute of the layer's inputs, as the last stage reads it: its weight is (O, R).
    last : shape of the last stage's kernel behind (O,), and its axes
    """

    stages: Sequence[Stage]
    features: np.ndarray
    last: tuple[int, ...]
    axes: frozenset[int]


def chain(subject: Subject, front: Front) -> tuple[list[Stage], np.ndarray]:
    """All stages, and the weight (O, I * K...) that they are together."""
    moved = front.features if subject.metric is None else front.features @ subject.metric
    solved = np.linalg.lstsq(front.features @ moved.T, moved @ subject.matrix.T, rcond=1e-12)[0].T
    kernel = solved.reshape(len(solved), *front.last)
    return [*front.stages, Stage(kernel, front.axes)], solved @ front.features


def by_matrix(subject: Subject, ranks: tuple[int, ...]) -> Front:
    """K..., 1x1."""
    rows = leading(subject.matrix, subject.metric, ranks[0])
    kernel = rows.reshape(len(rows), *subject.weight.shape[1:])
    last = (len(rows), *(1 for _ in subject.taps))
    return Front([Stage(kernel, subject.axes)], rows, last, frozenset())


def by_tucker(subject: Subject, ranks: tuple[int, ...]) -> Front:
    """1x1, K..., 1x1 for ranks (of the outputs, of the inputs)."""
    outer, inner = ranks
    weight, taps = subject.weight, subject.taps
    channels = weight.shape[1]
    metric = None if subject.metric is None else _by_channel(subject.metric, channels)
    basis = leading(_unfold_inputs(weight), metric, inner)
    for _ in range(_SWEEPS if subject.metric is None else 0):
        # What of the weight the outputs' factor keeps decides which inputs are wanted (HOOI).
        seen = np.einsum("oi...,qi->oq...", weight, basis)
        outputs = leading(seen.reshape(len(weight), -1).T, None, outer)
        kept = np.einsum("po,oi...->pi...", outputs, weight)
        basis = leading(_unfold_inputs(kept), None, inner)
    spread = np.kron(basis, np.eye(int(np.prod(taps, dtype=int))))
    moved = spread if subject.metric is None else spread @ subject.metric
    second = moved @ spread.T
    target = np.linalg.lstsq(second, moved @ subject.matrix.T, rcond=1e-12)[0].T
    rows = leading(target, second, outer)
    core = rows.reshape(len(rows), len(basis), *taps)
    ones = tuple(1 for _ in taps)
    stages = [Stage(basis.reshape(*basis.shape, *ones), frozenset()), Stage(core, subject.axes)]
    return Front(stages, rows @ spread, (len(rows), *ones), frozenset())


def by_space(subject: Subject, ranks: tuple[int, ...]) -> Front:
    """Kx1, 1xK."""
    weight = subject.weight
    channels, height, width = weight.shape[1:]
    metric = None
    if subject.metric is not None:
        parts = subject.metric.reshape(channels, height, width, channels, height, width)
        metric = np.einsum("ihwjkw->ihjk", parts).reshape(channels * height, -1) / width
    rows = leading(_unfold_space(weight), metric, ranks[0])
    columns = rows.reshape(-1, channels, height)
    features = np.einsum("rih,wv->rwihv", columns, np.eye(width)).reshape(len(rows) * width, -1)
    stage = Stage(columns[..., None], frozenset({0}))
    return Front([stage], features, (len(rows), 1, width), frozenset({1}))


def by_parallel_factors(subject: Subject, ranks: tuple[int, ...]) -> Front:
    """1x1, K... of every channel alone, 1x1."""
    weight, taps = subject.weight, subject.taps
    channels = weight.shape[1]
    tensor = weight.reshape(len(weight), channels, -1)
    # A few inputs that say the same leave the metric of channels on the edge of what can be inverted.
    root = None if subject.metric is None else _root(_by_channel(subject.metric, channels))
    if root is not None:
        tensor = np.einsum("oit,ij->ojt", tensor, root)
    _, inner, spatial = parallel_factors(tensor, ranks[0])
    if root is not None:
        inner = np.linalg.solve(root.T, inner)
    features = np.einsum("ir,tr->rit", inner, spatial).reshape(ranks[0], -1)
    ones = tuple(1 for _ in taps)
    stages = [
        Stage(inner.T.reshape(*inner.T.shape, *ones), frozenset()),
        Stage(spatial.T.reshape(ranks[0], 1, *taps), subject.axes, groups=ranks[0]),
    ]
    return Front(stages, features, (ranks[0], *ones), frozenset())


def leading(matrix: np.ndarray, metric: np.ndarray | None, rank: int) -> np.ndarray:
    """``rank`` functions (rank, K) of the inputs that keep most of ``matrix`` (O, K) in the ``metric``."""
    if metric is None:
        return np.asarray(np.linalg.svd(matrix, full_matrices=False)[2][:rank])
    root = _root(metric)
    right = np.linalg.svd(matrix @ root, full_matrices=False)[2][:rank]
    return np.asarray(np.linalg.solve(root.T, right.T).T)


def spectrum(matrix: np.ndarray, metric: np.ndarray | None) -> np.ndarray:
    """The singular values of ``matrix`` (O, K) in the ``metric``."""
    seen = matrix if metric is None else matrix @ _root(metric)
    return np.asarray(np.linalg.svd(seen, compute_uv=False))


def _root(metric: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.cholesky(metric))


def _unfold_inputs(weight: np.ndarray) -> np.ndarray:
    return np.asarray(np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]))


def _unfold_space(weight: np.ndarray) -> np.ndarray:
    outputs, channels, height, width = weight.shape
    return np.asarray(weight.transpose(0, 3, 1, 2).reshape(outputs * width, channels * height))


def _by_channel(metric: np.ndarray, channels: int) -> np.ndarray:
    """The second moment of a channel with another, (I, I), over all taps."""
    taps = len(metric) // channels
    parts = metric.reshape(channels, taps, channels, taps)
    return np.asarray(np.einsum("itjt->ij", parts) / taps)


def unfoldings(subject: Subject, method: str) -> list[np.ndarray]:
    """The matrices whose ranks a ``method`` chooses, in the order of its ranks."""
    if method == "tucker2":
        return [subject.matrix, _unfold_inputs(subject.weight)]
    return [_unfold_space(subject.weight) if method == "spatial" else subject.matrix]


def full_ranks(subject: Subject, method: str) -> tuple[int, ...]:
    """Ranks with which nothing is lost."""
    if method == "cp":
        outputs, channels = subject.weight.shape[:2]
        return (most_rank((outputs, channels, int(np.prod(subject.taps, dtype=int)))),)
    return tuple(min(matrix.shape) for matrix in unfoldings(subject, method))


def noise_ranks(subject: Subject, method: str) -> tuple[int, ...]:
    """What EVBMF keeps of each unfolding, of parts the most."""
    if subject.parts:
        return max(noise_ranks(part, method) for part in subject.parts)
    found = unfoldings(subject, method)
    return tuple(evbmf_rank(spectrum(matrix, None), *matrix.shape) for matrix in found)


def energy_ranks(values: Sequence[np.ndarray], energy: float) -> tuple[int, ...]:
    """The least ranks whose squared singular ``values`` are ``energy`` of all, of each unfolding."""
    found = []
    for one in values:
        share = np.cumsum(one**2) / ((one**2).sum() or 1.0)
        found.append(min(len(one), int(np.searchsorted(share, energy * (1 - 1e-12))) + 1))
    return tuple(found)


METHODS: Mapping[str, Callable[[Subject, tuple[int, ...]], Front]] = {
    "svd": by_matrix,
    "whitened": by_matrix,
    "tucker2": by_tucker,
    "spatial": by_space,
    "cp": by_parallel_factors,
}
