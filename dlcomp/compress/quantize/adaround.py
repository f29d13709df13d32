"""Rounding up or down, learned: Nagel et al., "Up or down? Adaptive rounding for post-training quantization",
ICML 2020, sections 3.2 and 3.3.

The error of a layer's outputs is a quadratic form of the rounding, by the Hessian of what the layer reads, so
that its gradient is a product of matrices and no network is run. A descent by single weights ends the search.
"""

from __future__ import annotations

import numpy as np

from dlcomp.compress.rounding import descended

# The sigmoid is stretched beyond 0 and 1, so that both are reached (section 3.3).
_LOW, _HIGH = -0.1, 1.1
_RATE = 0.05
# Of what keeps roundings from staying between up and down, at the end; its exponent falls from first to last.
_PULL = 0.3
_EXPONENTS = (20.0, 2.0)
_LEAST = np.float32(0.05)
# Of the steps, in which nothing pulls yet.
_FREE = 0.2
_DECAYS = (0.9, 0.999)
# Of the descent at the end.
_SWEEPS = 5


def adaptive(
    wanted: np.ndarray, hessian: np.ndarray, start: np.ndarray, low: int, high: int, steps: int
) -> np.ndarray:
    """Integers ``(G, O, K)`` next to ``wanted`` whose outputs are nearest to those of ``wanted``.

    Zeros stay zeros.

    Parameters
    ----------
    wanted : (G, O, K) float64
        Weights in steps of their scale.
    hessian : (G, K, K) float64
    start : (G, O, K) float64
        What a row gets if the search finds nothing better.
    low, high : int
        Integers end there.
    """
    floor = np.clip(np.floor(wanted), low, high - 1).astype(np.float32)
    target = (wanted - floor).astype(np.float32)
    size = np.einsum("gkk->g", hessian) / hessian.shape[1]
    metric = (hessian / np.where(size > 0, size, 1.0)[:, None, None]).astype(np.float32)
    chosen = (floor + (_search(target, metric, steps) >= 0.5)) * (wanted != 0)
    parts = zip(wanted, chosen.astype(np.float64), hessian, strict=True)
    chosen = np.stack([descended(w, c, h, low, high, _SWEEPS) for w, c, h in parts])
    better = _errors(wanted - chosen, hessian) <= _errors(wanted - start, hessian)
    return np.where(better[..., None], chosen, start)


def _search(target: np.ndarray, metric: np.ndarray, steps: int) -> np.ndarray:
    """How far up each weight goes, about 0 or 1, by Adam on the logits of it."""
    share = (np.clip(target, 0.01, 0.99) - _LOW) / (_HIGH - _LOW)
    logits = np.log(share / (1 - share))
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    up = target
    for step in range(1, steps + 1):
        sigmoid = 1 / (1 + np.exp(-logits))
        up = sigmoid * (_HIGH - _LOW) + _LOW
        inside = (up > 0) & (up < 1)
        up = np.clip(up, 0, 1)
        slope = 2 * np.matmul(up - target, metric)
        done = (step / steps - _FREE) / (1 - _FREE)
        if done > 0:
            exponent = _EXPONENTS[1] + (_EXPONENTS[0] - _EXPONENTS[1]) * (1 + np.cos(np.pi * done)) / 2
            side = 2 * up - 1
            # Powers of less would be denormal numbers, which take a hundred times as long.
            pull = np.exp(np.float32(exponent - 1) * np.log(np.maximum(np.abs(side), _LEAST)))
            slope -= np.float32(2 * _PULL * exponent) * np.sign(side) * pull
        slope *= inside * (_HIGH - _LOW) * sigmoid * (1 - sigmoid)
        first = _DECAYS[0] * first + (1 - _DECAYS[0]) * slope
        second = _DECAYS[1] * second + (1 - _DECAYS[1]) * slope**2
        root = np.sqrt(second / (1 - _DECAYS[1] ** step)) + 1e-8
        logits -= (_RATE / (1 - _DECAYS[0] ** step) * first / root).astype(np.float32)
    return up


def _errors(change: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """(G, O): the mean squared error of each output."""
    return np.asarray((np.matmul(change, hessian) * change).sum(axis=-1))
