"""How many zeros a stored weight has, as a workload says it: vectors that are left, by their width.

A vector is ``width`` neighbouring outputs at one input; one that is all zeros need not be stored or
multiplied. ``1:7200 8:900 16:500`` says that 7200 weights are left, in 900 vectors of 8 or in 500 of 16.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Widths that a kernel may store vectors of; 1 are single weights.
WIDTHS = (1, 8, 16, 32)
# A weight with fewer zeros is dense: no kernel is faster for them.
_LEAST_ZEROS = 0.3
# Vectors that store more than this many times what is left are those of another pattern.
_MOST_STORED = 1.5


def left(matrix: np.ndarray) -> str:
    """What is left of ``(inputs, outputs)``; empty if that is about everything."""
    weights = np.count_nonzero(matrix)
    if not matrix.size or weights > (1 - _LEAST_ZEROS) * matrix.size:
        return ""
    parts = []
    for width in WIDTHS:
        kept = vectors(matrix, width)
        count = int(kept.sum())
        if count * width <= _MOST_STORED * weights and count <= (1 - _LEAST_ZEROS) * kept.size:
            parts.append(f"{width}:{count}")
    return " ".join(parts)


def example(inputs: int, outputs: int, stored: str, rng: np.random.Generator) -> np.ndarray:
    """A random matrix ``(inputs, outputs)`` of which about what ``stored`` says is left, at random places."""
    width, count = max(counts(stored).items())
    blocks = -(-outputs // width)
    kept = np.zeros(inputs * blocks, bool)
    kept[rng.permutation(kept.size)[:count]] = True
    mask = np.repeat(kept.reshape(inputs, blocks), width, axis=1)[:, :outputs]
    return rng.standard_normal((inputs, outputs), dtype=np.float32) * mask


def vectors(matrix: np.ndarray, width: int) -> np.ndarray:
    """Of ``(inputs, outputs)`` which vectors are not all zeros: bool ``(inputs, ceil(outputs / width))``."""
    return np.asarray(np.logical_or.reduceat(matrix != 0, np.arange(0, matrix.shape[1], width), axis=1))


def counts(stored: str) -> Mapping[int, int]:
    """What :func:`left` said: the vectors that are left, by their width."""
    return {int(width): int(count) for width, count in (part.split(":") for part in stored.split())}
