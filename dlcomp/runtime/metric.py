"""How far one tensor is from another: the error over the range, for equal patterns of NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """The distance of a tensor from its reference.

    Attributes
    ----------
    error : float
        Largest absolute difference over the range (max - min) of the reference, both over its finite values;
        over the largest magnitude where the reference is constant. Infinite if ``problem`` is set.
    exact : bool
        Whether the dtype (integers, booleans) asks for equality.
    problem : str
        What makes the two incomparable (shape, dtype, positions of NaN or infinity), else empty.
    """

    error: float
    exact: bool = False
    problem: str = ""

    def within(self, tolerance: float) -> bool:
        """Whether the difference is acceptable."""
        return not self.problem and self.error <= (0.0 if self.exact else tolerance)

    def __str__(self) -> str:
        return self.problem or f"error {self.error:.2g}" + (" (exact)" if self.exact else "")


def difference(found: np.ndarray, reference: np.ndarray) -> Difference:
    """How far ``found`` is from ``reference``."""
    if found.shape != reference.shape:
        return Difference(np.inf, problem=f"shape {found.shape} instead of {reference.shape}")
    if reference.dtype.kind in "OU" and found.dtype.kind in "OU":
        return _integers(found.astype(object), reference.astype(object))
    if found.dtype != reference.dtype:
        return Difference(np.inf, problem=f"dtype {found.dtype} instead of {reference.dtype}")
    if reference.dtype.kind not in "fV":  # V: bfloat16 and the like, registered by ml_dtypes
        return _integers(found, reference)
    a, b = found.astype(np.float64), reference.astype(np.float64)
    if problem := _special(a, b):
        return Difference(np.inf, problem=problem)
    finite = np.isfinite(b)
    if not finite.any():
        return Difference(0.0)
    a, b = a[finite], b[finite]
    worst = float(np.abs(a - b).max())
    scale = float(b.max() - b.min()) or float(np.abs(b).max())
    return Difference(worst / scale if scale else worst)


def _integers(found: np.ndarray, reference: np.ndarray) -> Difference:
    wrong = found != reference
    if not wrong.any():
        return Difference(0.0, exact=True)
    return Difference(
        float(wrong.mean()), exact=True, problem=f"{int(wrong.sum())} of {wrong.size} values differ"
    )


def _special(a: np.ndarray, b: np.ndarray) -> str:
    """Where NaN and the infinities differ, in words."""
    for name, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        wrong = test(a) != test(b)
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{name} at {int(wrong.sum())} other places, first {place}: {a[place]} instead of {b[place]}"
            )
    return ""
