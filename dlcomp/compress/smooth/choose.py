"""How much of the range of a layer's inputs goes into its weights (Xiao et al., "SmoothQuant", ICML 2023).

s = max|X|^a / max|W|^(1 - a) for each input, equation 4; of several a, the one with the least error of the
outputs, as rounding of inputs on one grid and of weights by output is expected to make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ALPHAS = tuple(np.arange(0.3, 0.91, 0.05).round(2).tolist())
# Of a factor: beyond, float32 would lose what it scales.
_LARGEST = 1e4


@dataclass(frozen=True)
class Inputs:
    """What the layers of a group read.

    Attributes
    ----------
    low, high : (K,) float64
        Extremes of each input.
    second : (K, K) float64
        The mean of x x^T.
    """

    low: np.ndarray
    high: np.ndarray
    second: np.ndarray


def choose(
    weights: Sequence[np.ndarray], inputs: Inputs, alpha: float | None, bits: int
) -> tuple[float | None, np.ndarray]:
    """The exponent and the factor of each input; None and ones where nothing is better than that.

    Parameters
    ----------
    weights : sequence of (O, K)
        Of all layers that read the value.
    alpha : float or None
        The exponent, if it is not to be searched.
    """
    none = np.ones(len(inputs.low))
    tries: list[tuple[float | None, np.ndarray]] = [(None, none)] if alpha is None else []
    tries += [(a, _factors(weights, inputs, a)) for a in (_ALPHAS if alpha is None else (alpha,))]
    return min(tries, key=lambda pair: _error(weights, inputs, pair[1], bits))


def _factors(weights: Sequence[np.ndarray], inputs: Inputs, alpha: float) -> np.ndarray:
    read = np.maximum(np.abs(inputs.low), np.abs(inputs.high))
    held = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0).astype(np.float64)
    some = (read > 0) & (held > 0)
    made = np.where(some, read, 1.0) ** alpha / np.where(some, held, 1.0) ** (1 - alpha)
    # All of them times a number change nothing; about 1, float32 loses nothing.
    made /= np.exp(np.log(made[some]).mean()) if some.any() else 1.0
    return np.where(some, np.clip(made, 1 / _LARGEST, _LARGEST), 1.0)


def _error(weights: Sequence[np.ndarray], inputs: Inputs, factor: np.ndarray, bits: int) -> float:
    """The mean squared error of all outputs: the inputs' rounding as noise, the weights' as it is."""
    low, high = min(0.0, float((inputs.low / factor).min())), max(0.0, float((inputs.high / factor).max()))
    noise = ((high - low) / 255) ** 2 / 12
    most = 2 ** (bits - 1) - 1
    total = 0.0
    for weight in weights:
        scaled = weight.astype(np.float64) * factor
        step = np.abs(scaled).max(axis=1, keepdims=True) / most
        step[step == 0] = 1.0
        change = (np.rint(scaled / step) * step - scaled) / factor
        total += noise * float(np.square(scaled).sum()) + float(((change @ inputs.second) * change).sum())
    return total
