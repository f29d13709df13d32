"""Which method and which ranks each layer gets: by energy, by EVBMF, or all layers against one budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.lowrank.methods import (
    METHODS,
    STEP,
    chain,
    energy_ranks,
    full_ranks,
    noise_ranks,
    spectrum,
    unfoldings,
)
from dlcomp.compress.lowrank.subject import Stage, Subject

_ENERGIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998)
_HALVINGS = 60
_MOST_SPATIAL = 16
# Ranks that are tried where each takes a search, each so many times the one before.
_LADDER = 1.35


@dataclass(frozen=True)
class Candidate:
    """A way to factor one layer.

    Attributes
    ----------
    error : float
        Of the layer's outputs (of its weight, without data and for svd), over their own size.
    """

    method: str
    ranks: tuple[int, ...]
    parameters: int
    macs: int
    error: float

    def shapes(self, subject: Subject) -> list[tuple[tuple[int, ...], frozenset[int]]]:
        """Shape and axes of each stage's kernel."""
        return _shapes(subject, self.method, self.ranks)

    def stages(self, subject: Subject) -> tuple[list[Stage], np.ndarray]:
        """The layers, and the weight (O, I * K...) that they are together."""
        seen = subject.plain() if self.method == "svd" else subject
        return chain(seen, METHODS[self.method](seen, self.ranks))


def fitting(subject: Subject, method: str) -> tuple[str, ...]:
    """The methods that come into question for a layer when ``method`` was asked for."""
    matrix = "svd" if subject.metric is None else "whitened"
    pointwise = math.prod(subject.taps) == 1
    spatial = len(subject.taps) == 2 and min(subject.taps) > 1
    if method == "auto":
        return (matrix,) if pointwise else (matrix, "tucker2", *(("spatial",) if spatial else ()))
    if method in ("svd", "whitened"):
        return (method,)
    # A layer of one tap has no other form than a product of two matrices.
    return (matrix,) if pointwise else (method,) if method in ("tucker2", "cp") or spatial else ()


def candidates(subject: Subject, method: str, ranks: Sequence[tuple[int, ...]]) -> list[Candidate]:
    """Those of ``ranks``, rounded up to multiples of 8, that take fewer MACs than the layer."""
    rounded = {tuple(-(-max(1, rank) // STEP) * STEP for rank in one) for one in ranks}
    found = [_candidate(subject, method, one) for one in sorted(rounded) if _possible(subject, method, one)]
    return [one for one in found if one is not None]


def by_energy(subject: Subject, method: str, energy: float) -> list[Candidate]:
    """For each fitting method the least ranks that keep ``energy`` of each unfolding."""
    return [
        candidate
        for one in fitting(subject, method)
        for candidate in candidates(subject, one, [energy_ranks(_spectra(subject, one), energy)])
    ]


def by_noise(subject: Subject, method: str, slack: float) -> list[Candidate]:
    """For each fitting method the ranks of EVBMF, and ``slack`` of the way from there to full rank."""
    found = []
    for one in fitting(subject, method):
        full = full_ranks(subject, one)
        kept = noise_ranks(subject, one)
        ranks = tuple(round(rank + slack * (most - rank)) for rank, most in zip(kept, full, strict=True))
        found += candidates(subject, one, [ranks])
    return found


def all_ranks(subject: Subject, method: str) -> list[Candidate]:
    """Candidates of every size."""
    found = []
    for one in fitting(subject, method):
        if one == "tucker2":
            spectra = _spectra(subject, one)
            ranks = [energy_ranks(spectra, energy) for energy in _ENERGIES]
        elif one == "cp":
            ranks = [(rank,) for rank in _ladder(subject)]
        else:
            (full,) = full_ranks(subject, one)
            # Spatial ranks are tried one by one, so only some of them.
            step = STEP * (max(1, full // (STEP * _MOST_SPATIAL)) if one == "spatial" else 1)
            ranks = [(rank,) for rank in range(step, full + 1, step)]
        found += candidates(subject, one, ranks)
    return found


def _ladder(subject: Subject) -> list[int]:
    """Ranks of a chain that takes fewer MACs than the layer, from the largest down."""
    most = full_ranks(subject, "cp")[0] // STEP * STEP
    while most > 0 and subject.macs(_shapes(subject, "cp", (most,))) >= subject.own_macs:
        most -= STEP
    found = []
    while most >= STEP:
        found.append(most)
        most = min(most - STEP, round(most / _LADDER / STEP) * STEP)
    return found


def allocate(
    subjects: Sequence[Subject], options: Sequence[Sequence[Candidate]], target: float, of: str
) -> list[Candidate | None]:
    """One of each layer's ``options``, or none, so that ``target`` of all MACs or ``parameters`` remains.

    The sum of errors is least for a price of each MAC (Lagrange); the price is found by bisection, and
    what it leaves of the budget goes to what it helps most. Where even the smallest are too many, those are
    taken.
    """

    def cost(subject: Subject, candidate: Candidate | None) -> int:
        if of == "parameters":
            return subject.size if candidate is None else candidate.parameters
        return subject.own_macs if candidate is None else candidate.macs

    def error(candidate: Candidate | None) -> float:
        return 0.0 if candidate is None else candidate.error

    def chosen(price: float) -> list[Candidate | None]:
        return [
            min(
                [None, *some],
                key=lambda one: error(one) + price * cost(subject, one),
            )
            for subject, some in zip(subjects, options, strict=True)
        ]

    def total(made: Sequence[Candidate | None]) -> int:
        return sum(cost(subject, one) for subject, one in zip(subjects, made, strict=True))

    wanted = target * total([None] * len(subjects))
    low, high = 0.0, 1e3
    for _ in range(_HALVINGS):
        price = math.sqrt(max(low, 1e-15) * high)
        low, high = (low, price) if total(chosen(price)) <= wanted else (price, high)
    made = chosen(high)
    left = wanted - total(made)
    while better := [
        ((error(old) - error(new)) / more, number, new, more)
        for number, (subject, old, some) in enumerate(zip(subjects, made, options, strict=True))
        for new in [None, *some]
        if 0 < (more := cost(subject, new) - cost(subject, old)) <= left and error(new) < error(old)
    ]:
        _, number, new, more = max(better, key=lambda one: one[0])
        made[number], left = new, left - more
    return made


@functools.lru_cache(maxsize=4)
def _spectra(subject: Subject, method: str) -> list[np.ndarray]:
    """Singular values of each unfolding; of the whole matrix in the metric of the inputs.

    What all parts of a layer lose at the same rank is lost together.
    """
    if subject.parts:
        squares = [_spectra(part, method)[0] ** 2 for part in subject.parts]
        return [np.sqrt(np.sum(squares, axis=0))]
    matrices = unfoldings(subject, method)
    metrics = [subject.metric if method == "whitened" else None] * len(matrices)
    return [spectrum(matrix, metric) for matrix, metric in zip(matrices, metrics, strict=True)]


def _possible(subject: Subject, method: str, ranks: tuple[int, ...]) -> bool:
    return all(rank <= most for rank, most in zip(ranks, full_ranks(subject, method), strict=True))


def _candidate(subject: Subject, method: str, ranks: tuple[int, ...]) -> Candidate | None:
    shapes = _shapes(subject, method, ranks)
    macs = subject.macs(shapes)
    if macs >= subject.own_macs:
        return None
    parameters = subject.copies * sum(math.prod(kernel) for kernel, _ in shapes)
    if method in ("svd", "whitened"):
        # Eckart and Young: what is dropped is the error.
        squares = _spectra(subject, method)[0] ** 2
        error = float(squares[ranks[0] :].sum() / (squares.sum() or 1.0))
        return Candidate(method, ranks, parameters, macs, error)
    made = Candidate(method, ranks, parameters, macs, 0.0)
    _, weight = made.stages(subject)
    return Candidate(method, ranks, parameters, macs, subject.loss(subject.matrix - weight))


def _shapes(
    subject: Subject, method: str, ranks: tuple[int, ...]
) -> list[tuple[tuple[int, ...], frozenset[int]]]:
    """Shape and axes of each stage's kernel, without making it."""
    outputs, channels = subject.weight.shape[:2]
    taps, nowhere = subject.taps, frozenset[int]()
    ones = tuple(1 for _ in taps)
    if method == "tucker2":
        outer, inner = ranks
        core = ((outer, inner, *taps), subject.axes)
        return [((inner, channels, *ones), nowhere), core, ((outputs, outer, *ones), nowhere)]
    (rank,) = ranks
    if method == "cp":
        alone = ((rank, 1, *taps), subject.axes)
        return [((rank, channels, *ones), nowhere), alone, ((outputs, rank, *ones), nowhere)]
    if method == "spatial":
        return [
            ((rank, channels, taps[0], 1), frozenset({0})),
            ((outputs, rank, 1, taps[1]), frozenset({1})),
        ]
    return [((rank, channels, *taps), subject.axes), ((outputs, rank, *ones), nowhere)]
