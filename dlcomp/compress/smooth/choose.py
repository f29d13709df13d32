"""How much of the range of a layer's inputs goes into its weights (Xiao et al., "SmoothQuant", ICML 2023).

s = max|X|^a / max|W|^(1 - a) for each input, equation 4; of several a, the one with the least error of the
outputs, as rounding of inputs on one grid and of weights by output is expected to make it. An input is a
channel: of a convolution all its taps have one factor. Where each channel has outputs of its own (depthwise)
and each output a scale of its own, a = 1 costs the weights nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ALPHAS = tuple(np.arange(0.3, 1.01, 0.05).round(2).tolist())
# Of a factor: beyond, float32 would lose what it scales.
_LARGEST = 1e4


@dataclass(frozen=True)
class Inputs:
    """What the layers of a group read.

    Attributes
    ----------
    low, high : (C,) float64
        Extremes of each input channel.
    """

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Reader:
    """A layer that reads them, as a product of matrices.

    Attributes
    ----------
    weight : (G, O / G, K)
        K counts taps, then channels of the group.
    second : (G, K, K) float64
        The mean of x x^T.
    """

    weight: np.ndarray
    second: np.ndarray

    def by_input(self, channels: np.ndarray) -> np.ndarray:
        """``(C,)``, a number for each channel, as ``(G, 1, K)``."""
        groups, _, inputs = self.weight.shape
        of_group = channels.reshape(groups, 1, -1)
        return np.tile(of_group, (1, 1, inputs // of_group.shape[-1]))

    def largest(self, count: int) -> np.ndarray:
        """(C,) the largest magnitude of the weights of each of ``count`` channels."""
        groups = len(self.weight)
        found = np.abs(self.weight).max(axis=1).reshape(groups, -1, count // groups).max(axis=1)
        return np.asarray(found.reshape(-1), np.float64)


def choose(
    readers: Sequence[Reader], inputs: Inputs, alpha: float | None, bits: int
) -> tuple[float | None, np.ndarray, float]:
    """The exponent and the factor of each channel, and the error with it over the error without.

    None, ones and 1 where nothing is better than that.

    Parameters
    ----------
    readers : sequence of Reader
        All layers that read the value.
    alpha : float or None
        The exponent, if it is not to be searched.
    """
    none = np.ones(len(inputs.low))
    before = _error(readers, inputs, none, bits)
    tries: list[tuple[float, float | None, np.ndarray]] = [(before, None, none)] if alpha is None else []
    for tried in _ALPHAS if alpha is None else (alpha,):
        factor = _factors(readers, inputs, tried)
        tries.append((_error(readers, inputs, factor, bits), tried, factor))
    error, found, factor = min(tries, key=lambda each: each[0])
    return found, factor, error / before if before else 1.0


def _factors(readers: Sequence[Reader], inputs: Inputs, alpha: float) -> np.ndarray:
    read = np.maximum(np.abs(inputs.low), np.abs(inputs.high))
    held = np.max([reader.largest(len(read)) for reader in readers], axis=0)
    some = (read > 0) & (held > 0)
    made = np.where(some, read, 1.0) ** alpha / np.where(some, held, 1.0) ** (1 - alpha)
    # All of them times a number change nothing; about 1, float32 loses nothing.
    made /= np.exp(np.log(made[some]).mean()) if some.any() else 1.0
    return np.where(some, np.clip(made, 1 / _LARGEST, _LARGEST), 1.0)


def _error(readers: Sequence[Reader], inputs: Inputs, factor: np.ndarray, bits: int) -> float:
    """The mean squared error of all outputs: the inputs' rounding as noise, the weights' as it is."""
    low, high = min(0.0, float((inputs.low / factor).min())), max(0.0, float((inputs.high / factor).max()))
    noise = ((high - low) / 255) ** 2 / 12
    most = 2 ** (bits - 1) - 1
    total = 0.0
    for reader in readers:
        along = reader.by_input(factor)
        scaled = reader.weight.astype(np.float64) * along
        step = np.abs(scaled).max(axis=2, keepdims=True) / most
        step[step == 0] = 1.0
        change = (np.rint(scaled / step) * step - scaled) / along
        total += noise * float(np.square(scaled).sum())
        total += float((np.matmul(change, reader.second) * change).sum())
    return total
