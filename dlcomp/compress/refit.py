"""The weights that are left, fitted again: least squares on a support that is fixed.

Each row of W' minimises (w - w') H (w - w')^T over its own support, which in closed form would be a system of
equations for every row. Conjugate gradients on all rows together are products of matrices instead, and never
make the error larger.
"""

from __future__ import annotations

import numpy as np

_STEPS = 50
# Of the squared residual, relative to that of the start: where a row is done.
_DONE = 1e-12
# Divides in the place of nothing.
TINY = float(np.finfo(np.float64).tiny)


def refit(start: np.ndarray, hessian: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The minimum of w H w^T / 2 - w b^T for each row w, where it may be other than zero.

    Parameters
    ----------
    start : (O, K) float64
        Zero outside ``mask``; what no data say anything about stays as it is here.
    hessian : (K, K) float64
        Symmetric, positive semi-definite.
    wanted : (O, K) float64
        The right-hand sides b: W H for the outputs of the weights W on the same data.
    mask : (O, K) bool
    """
    scale = np.diag(hessian).copy()
    scale[scale <= 0] = 1.0
    weights: np.ndarray = start.copy()
    residual = np.where(mask, wanted - weights @ hessian, 0.0)
    ahead = residual / scale
    energy = (residual * ahead).sum(axis=1)
    first = energy.copy()
    direction = ahead
    for _ in range(_STEPS):
        alive = energy > _DONE * np.maximum(first, TINY)
        if not alive.any():
            break
        pushed = np.where(mask, direction @ hessian, 0.0)
        curvature = (direction * pushed).sum(axis=1)
        alive &= curvature > 0
        step = np.where(alive, energy / np.where(alive, curvature, 1.0), 0.0)
        weights += step[:, None] * direction
        residual = residual - step[:, None] * pushed
        ahead = residual / scale
        after = (residual * ahead).sum(axis=1)
        turn = np.where(alive, after / np.where(energy > 0, energy, 1.0), 0.0)
        direction = ahead + turn[:, None] * direction
        energy = np.where(alive, after, 0.0)
    return weights


def error_of(change: np.ndarray, hessian: np.ndarray | None) -> float:
    """tr(D H D^T): the mean squared error that a change D ``(O, K)`` of the weights makes, of all outputs.

    Without a Hessian it is that of the weights.
    """
    return float(((change if hessian is None else change @ hessian) * change).sum())
