"""Minimal filtering F(m, r): m outputs of an r-tap filter in m + r - 1 multiplications.

Matrices by the Cook-Toom construction over chosen points and infinity (Winograd, *Arithmetic Complexity of
Computations*, 1980; Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016, section 4),
exact in fractions: ``y = A^T [(G g) * (B^T d)]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

# Small magnitudes, each with its negative: powers keep the error low, pairs share their sums.
_POINTS = (0, 1, -1, Fraction(1, 2), Fraction(-1, 2), 2, -2)

Expr = Any


@lru_cache
def matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A^T, G, B^T) in float64, of shapes (m, a), (a, r), (a, a) with a = m + r - 1."""
    size = m + r - 1
    points = [Fraction(p) for p in _POINTS[: size - 1]]
    output = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    filters = []
    data = []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        filters.append([point**k / scale for k in range(r)])
        data.append([*_polynomial(others), Fraction(0)])
    filters.append([Fraction(int(k == r - 1)) for k in range(r)])
    data.append(_polynomial(points))
    return _array(output), _array(filters), _array(data)


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of ``x - root``, lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [a - root * b for a, b in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _array(rows: list[list[Fraction]]) -> np.ndarray:
    return np.array([[float(value) for value in row] for row in rows])


def apply(matrix: np.ndarray, inputs: Sequence[Expr], hold: Callable[[Expr], Expr]) -> list[Expr]:
    """``matrix`` times a column of expressions, sharing what two rows or two columns have in common.

    ``hold(expression)`` gives a variable of that value. The points come in pairs of opposite sign: two rows
    of B^T are the sum and the difference of the same two parts, and two columns of A^T multiply the sum and
    the difference of the same two inputs.
    """
    held, matrix = _paired_columns(matrix, list(inputs), hold)
    results: dict[int, Expr] = {}
    for first in range(len(matrix)):
        if first in results:
            continue
        partner = next(
            (r for r in range(first + 1, len(matrix)) if _is_mirror(matrix[first], matrix[r])), None
        )
        if partner is None:
            results[first] = _combination(matrix[first], held)
            continue
        same = np.where(matrix[first] == matrix[partner], matrix[first], 0.0)
        even, odd = _combination(same, held), _combination(matrix[first] - same, held)
        even, odd = hold(even), hold(odd)
        results[first], results[partner] = even + odd, even - odd
    return [results[row] for row in range(len(matrix))]


def _paired_columns(
    matrix: np.ndarray, inputs: list[Expr], hold: Callable[[Expr], Expr]
) -> tuple[list[Expr], np.ndarray]:
    """Columns that differ in sign only, replaced by a sum and a difference of their inputs."""
    columns, used = [], set()
    fresh = []
    for first in range(matrix.shape[1]):
        if first in used:
            continue
        later = [c for c in range(first + 1, matrix.shape[1]) if c not in used]
        partner = next((c for c in later if _is_mirror(matrix[:, first], matrix[:, c])), None)
        # Only where both halves occur: else nothing is saved.
        if partner is None or (matrix[:, first] != 0).sum() < 3:
            columns.append(matrix[:, first])
            fresh.append(inputs[first])
            continue
        used.add(partner)
        same = np.where(matrix[:, first] == matrix[:, partner], matrix[:, first], 0.0)
        columns += [same, matrix[:, first] - same]
        fresh += [hold(inputs[first] + inputs[partner]), hold(inputs[first] - inputs[partner])]
    return fresh, np.stack(columns, axis=1)


def _is_mirror(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for some signs, with both equal and opposite entries."""
    both = bool(((a == b) & (a != 0)).any() and ((a == -b) & (a != 0)).any())
    return both and bool((np.abs(a) == np.abs(b)).all())


def _combination(row: np.ndarray, inputs: Sequence[Expr]) -> Expr:
    """The sum of ``row[i] * inputs[i]``, without multiplications by one and zero."""
    total = None
    for weight, value in sorted(zip(row.tolist(), inputs, strict=True), key=lambda term: -term[0]):
        if weight == 0.0:
            continue
        term = value if abs(weight) == 1.0 else value * abs(weight)
        if total is None:
            total = term if weight > 0 else -term
        else:
            total = total + term if weight > 0 else total - term
    return total
