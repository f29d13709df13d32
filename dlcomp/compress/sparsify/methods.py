"""The methods, by name: how a matrix loses weights, and how the weights that stay make up for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcomp.compress.refit import TINY, error_of
from dlcomp.compress.sparsify.admm import admm
from dlcomp.compress.sparsify.obs import obs
from dlcomp.compress.sparsify.patterns import Pattern

# (weights (O, K), hessian (K, K), pattern, sparsity) to sparse weights (O, K), all float64; only magnitude
# does without a Hessian.
Method = Callable[[np.ndarray, Any, Pattern, float], np.ndarray]


def magnitude(weights: np.ndarray, hessian: object, pattern: Pattern, sparsity: float) -> np.ndarray:
    """The smallest weights go (Han et al., "Learning both weights and connections", 2015)."""
    return np.where(pattern.kept_mask(weights**2, sparsity), weights, 0.0)


def wanda(weights: np.ndarray, hessian: np.ndarray, pattern: Pattern, sparsity: float) -> np.ndarray:
    """Those go that are small for the inputs they see: |w| ||x|| (Sun et al., "Wanda", 2024, section 3).

    Compared over the whole matrix, and not within each output. By the covariance, x is without its mean,
    which the bias makes up for.
    """
    return np.where(pattern.kept_mask(weights**2 * np.diag(hessian), sparsity), weights, 0.0)


METHODS: Mapping[str, Method] = {"magnitude": magnitude, "wanda": wanda, "obs": obs, "admm": admm}


def scores(method: str, weights: np.ndarray, hessian: np.ndarray | None) -> np.ndarray:
    """What the loss of each weight of ``(O, K)`` costs by itself, comparable between layers.

    Magnitudes are compared as they are. Of the others, it is the share of the outputs' energy that the
    removal of the weight puts wrong: without (Wanda) or with (OBS) the help of the others of its row.
    """
    squared = weights**2
    if method == "magnitude" or hessian is None:
        return np.asarray(squared)
    energy = max(error_of(weights, hessian), TINY)
    if method == "wanda":
        return np.asarray(squared * np.diag(hessian) / energy)
    return np.asarray(squared / np.diag(np.linalg.inv(hessian)) / energy)
