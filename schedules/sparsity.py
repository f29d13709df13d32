"""How many zeros a stored weight has, as a workload says it: vectors that are left, by their width.

A vector is ``width`` neighbouring outputs at one input; one that is all zeros need not be stored or
multiplied. ``1:7200 8:900 16:500`` says that 7200 weights are left, in 900 vectors of 8 or in 500 of 16.
Instructions for integers take a group of neighbouring inputs at once: ``16:500 16x4:200`` says that the 500
vectors lie in 200 such groups of four.
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


def left_in_groups(matrix: np.ndarray, group: int) -> str:
    """What is left of integers ``(inputs, outputs)``, of which an instruction takes ``group`` inputs.

    Single weights do not count: no kernel skips them.
    """
    if not matrix.size or np.count_nonzero(matrix) > (1 - _LEAST_ZEROS) * matrix.size:
        return ""
    parts = []
    for size in sorted({1, group}):
        for width in WIDTHS[1:]:
            kept = vectors(matrix, width, size)
            if kept.sum() <= (1 - _LEAST_ZEROS) * kept.size:
                parts.append(f"{width}:{kept.sum()}" if size == 1 else f"{width}x{size}:{kept.sum()}")
    return " ".join(parts)


def example(inputs: int, outputs: int, stored: str, rng: np.random.Generator) -> np.ndarray:
    """A random matrix ``(inputs, outputs)`` of which about what ``stored`` says is left, at random places."""
    width, count = max(counts(stored).items())
    blocks = -(-outputs // width)
    kept = np.zeros(inputs * blocks, bool)
    kept[_places(inputs, blocks, width, count, groups(stored), rng)] = True
    mask = np.repeat(kept.reshape(inputs, blocks), width, axis=1)[:, :outputs]
    return rng.standard_normal((inputs, outputs), dtype=np.float32) * mask


def _places(
    inputs: int,
    blocks: int,
    width: int,
    count: int,
    grouped: Mapping[tuple[int, int], int],
    rng: np.random.Generator,
) -> np.ndarray:
    """``count`` of the ``inputs * blocks`` vectors: any, or those of as many groups as there are to be."""
    sizes = [(size, number) for (other, size), number in grouped.items() if other == width]
    if not sizes:
        return rng.permutation(inputs * blocks)[:count]
    ((size, number),) = sizes
    chosen = rng.permutation(inputs // size * blocks)[:number]
    # The vectors of a group, one of which is in any case.
    rows = chosen // blocks * size + np.array([rng.permutation(size) for _ in chosen]).reshape(-1, size).T
    places = rows * blocks + chosen % blocks
    rest = rng.permutation(places[1:].reshape(-1))[: max(0, count - number)]
    return np.concatenate([places[0], rest])


def vectors(matrix: np.ndarray, width: int, group: int = 1) -> np.ndarray:
    """Of ``(inputs, outputs)`` which vectors are not all zeros: bool ``(inputs, ceil(outputs / width))``.

    Those of ``group`` neighbouring inputs count as one: ``group`` divides the inputs.
    """
    kept = np.logical_or.reduceat(matrix != 0, np.arange(0, matrix.shape[1], width), axis=1)
    return np.asarray(kept.reshape(len(matrix) // group, group, -1).any(axis=1))


def counts(stored: str) -> Mapping[int, int]:
    """What :func:`left` said: the vectors that are left, by their width."""
    return {int(kind): count for kind, count in _parts(stored) if "x" not in kind}


def groups(stored: str) -> Mapping[tuple[int, int], int]:
    """What :func:`left_in_groups` said of groups that are left, by width and size."""
    found = {}
    for kind, count in _parts(stored):
        if "x" in kind:
            width, size = kind.split("x")
            found[int(width), int(size)] = count
    return found


def _parts(stored: str) -> list[tuple[str, int]]:
    return [(kind, int(count)) for kind, count in (part.split(":") for part in stored.split())]
