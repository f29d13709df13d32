"""Canonical polyadic decomposition of convolutions: 1x1, KxK of every channel alone, 1x1.

Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", ICLR 2015,
section 3, with all taps as one mode (Astrid and Lee, "CP-decomposition with tensor power method", 2017): of
the same rank that is never worse, and one pass over the image less. Factors are found by alternating least
squares, each step held near the last by a proximal term (Navasca et al., "Swamp reducing technique for
tensor decomposition", 2008), by which no error grows, and no factors against each other.
"""

from __future__ import annotations

import numpy as np

# Of the size of a step's equations: how near a factor stays to what it was; less with every sweep.
_NEAR, _LEAST_NEAR, _EASING = 1e-2, 1e-8, 0.7
_SWEEPS = 80
# What a sweep must gain of the error for another one.
_GAIN = 1e-4


def parallel_factors(tensor: np.ndarray, rank: int, seed: int = 0) -> list[np.ndarray]:
    """Factors ``(O, rank)``, ``(I, rank)``, ``(T, rank)`` whose sum of products is near ``tensor`` (O, I, T).

    Those of the leading singular vectors of each unfolding begin, random ones where there are no more. The
    error never grows from one sweep to the next; the least there is, is not always found.
    """
    rng = np.random.default_rng(seed)
    factors = [_begin(_unfolded(tensor, mode), rank, rng) for mode in range(3)]
    near, before = _NEAR, np.inf
    size = float((tensor**2).sum()) or 1.0
    for _ in range(_SWEEPS):
        for mode in range(3):
            factors[mode] = _step(tensor, factors, mode, near)
        factors = _balanced(factors)
        error = float(((tensor - composed(factors)) ** 2).sum()) / size
        if before - error <= _GAIN * error and near <= _LEAST_NEAR:
            break
        before, near = error, max(_LEAST_NEAR, near * _EASING)
    return factors


def composed(factors: list[np.ndarray]) -> np.ndarray:
    """The tensor that ``factors`` are together."""
    first, *others = factors
    return np.asarray((first @ _products(*others).T).reshape(*(len(factor) for factor in factors)))


def most_rank(shape: tuple[int, int, int]) -> int:
    """No tensor of ``shape`` needs more."""
    a, b, c = shape
    return min(a * b, a * c, b * c)


def _begin(unfolding: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    left = np.linalg.svd(unfolding, full_matrices=False)[0][:, :rank]
    missing = rank - left.shape[1]
    more = rng.standard_normal((len(left), missing)) / np.sqrt(len(left))
    return np.hstack([left, more])


def _step(tensor: np.ndarray, factors: list[np.ndarray], mode: int, near: float) -> np.ndarray:
    """The factor of ``mode`` that is best for the others, or near to it."""
    others = [factor for number, factor in enumerate(factors) if number != mode]
    gram = np.multiply(*(factor.T @ factor for factor in others))
    pull = near * float(np.trace(gram)) / len(gram)
    right = _unfolded(tensor, mode) @ _products(*others) + pull * factors[mode]
    return np.asarray(np.linalg.solve(gram + pull * np.eye(len(gram)), right.T).T)


def _balanced(factors: list[np.ndarray]) -> list[np.ndarray]:
    """The same products by columns of equal length in all modes."""
    lengths = [np.maximum(np.linalg.norm(factor, axis=0), 1e-150) for factor in factors]
    mean = np.prod(lengths, axis=0) ** (1 / 3)
    return [factor * (mean / length) for factor, length in zip(factors, lengths, strict=True)]


def _products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each column of ``left`` (A, R) with that of ``right`` (B, R): (A * B, R)."""
    return np.asarray((left[:, None] * right[None]).reshape(-1, left.shape[1]))


def _unfolded(tensor: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
