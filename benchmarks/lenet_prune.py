"""Pruning without training: the optimal brain surgeon, layer by layer and then in order; for ``lenet.py``.

A weight's removal costs f w^2 / [H^-1]_ii, H being the covariance of the layer's inputs among the weights of
its row that are left (Hassibi and Stork, 1993), and f the Fisher information of the row's output. The rest of
the row is the least-squares solution, at the end from the inputs that the pruned network itself computes, to
what the whole one computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lenet_net import Net, shares

# Shares of weights that remain, one after the other.
DENSITIES = (0.5, 0.4, 0.32, 0.26, 0.21, 0.17, 0.14, 0.115, 0.095, 0.08, 0.065, 0.054, 0.045, 0.037, 0.03,
             0.025, 0.02, 0.016, 0.013, 0.01, 0.008, 0.006)  # fmt: skip
_DAMPING = 1e-3
# Patches of an image that count: their neighbours say much the same.
_EVERY = 7


@dataclass(frozen=True)
class Level:
    """One layer with a share of its weights: which, how far off the answers are, about how many bits."""

    mask: np.ndarray
    loss: float
    bits: float


class Statistics:
    """Means and covariances of the inputs of a layer in two networks."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sums = np.zeros((2, size))
        self.own = np.zeros((size, size))
        self.cross = np.zeros((size, size))

    def add(self, whole: np.ndarray, pruned: np.ndarray) -> None:
        whole, pruned = (part.reshape(-1, part.shape[-1]).astype(np.float64) for part in (whole, pruned))
        if len(self.own) in (25, 500):
            whole, pruned = whole[::_EVERY], pruned[::_EVERY]
        self.count += len(whole)
        self.sums += [whole.sum(axis=0), pruned.sum(axis=0)]
        self.own += pruned.T @ pruned
        self.cross += whole.T @ pruned

    @property
    def means(self) -> np.ndarray:
        return self.sums / self.count

    def covariances(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the pruned network's inputs, damped, and of the whole network's with them."""
        whole, pruned = self.means
        own = self.own / self.count - np.outer(pruned, pruned)
        damping = _DAMPING * np.trace(own) / len(own) * np.eye(len(own))
        # Damped in both, so that weights are drawn to what they were and not to zero.
        return own + damping, self.cross / self.count - np.outer(whole, pruned) + damping


def statistics(whole: Net, pruned: Net, images: np.ndarray, layer: int) -> Statistics:
    """Those of ``layer`` in both networks."""
    found = Statistics(whole.weights[layer][0].size)
    if whole.weights[layer].ndim == 4:
        # Each has hundreds of patches.
        images = images[:1500]
    if layer == 0 or whole is pruned:
        for part in whole.inputs(images, layer):
            found.add(part, part)
        return found
    for first, second in zip(whole.inputs(images, layer), pruned.inputs(images, layer), strict=True):
        found.add(first, second)
    return found


def levels(net: Net, images: np.ndarray, probe: np.ndarray, method: str) -> list[list[Level]]:
    """What each layer can be, alone; ``method`` is ``obs`` or ``magnitude``; the loss is on ``probe``."""
    right = shares(net.logits(probe))
    minded = net.sensitivities(probe)
    found = []
    for layer, weight in enumerate(net.weights):
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        seen = statistics(net, net, images, layer)
        covariance = seen.covariances()[0]
        mean = seen.means[0]
        some = [Level(np.ones(matrix.shape, bool), 0.0, 5.0 * matrix.size)]
        left, mask = matrix, some[0].mask
        for density in DENSITIES:
            count = round(density * matrix.size)
            if method == "magnitude":
                left = matrix
                mask = np.abs(matrix) >= np.sort(np.abs(matrix), axis=None)[-count]
                made = matrix * mask
            else:
                mask = _strongest(left, covariance, mask, count, minded[layer])
                left = made = solved(matrix @ covariance, covariance, mask)
            trial = net.copy()
            trial.weights[layer] = made.reshape(weight.shape).astype(np.float32)
            if method == "obs":
                trial.biases[layer] = (net.biases[layer] + (matrix - made) @ mean).astype(np.float32)
            loss = divergence(right, trial, probe)
            # A weight that stays takes about three bits, and its place about log2(e / density).
            some.append(Level(mask, loss, count * (3 + np.log2(np.e / density))))
        found.append(some)
    return found


def chosen(options: Sequence[Sequence[Level]], price: float) -> list[np.ndarray]:
    """The masks that are best when a bit costs ``price``."""
    return [min(some, key=lambda level: level.loss + price * level.bits).mask for some in options]


def pruned(net: Net, masks: Sequence[np.ndarray], images: np.ndarray, method: str) -> Net:
    """``net`` with the weights of ``masks``; by ``obs`` each layer makes good what those before it lost."""
    made = net.copy()
    for layer, (weight, mask) in enumerate(zip(net.weights, masks, strict=True)):
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        if method == "magnitude":
            made.weights[layer] = (matrix * mask).reshape(weight.shape).astype(np.float32)
            continue
        seen = statistics(net, made, images, layer)
        own, cross = seen.covariances()
        left = solved(matrix @ cross, own, mask)
        whole, now = seen.means
        made.weights[layer] = left.reshape(weight.shape).astype(np.float32)
        made.biases[layer] = (net.biases[layer] + matrix @ whole - left @ now).astype(np.float32)
    return made


def solved(target: np.ndarray, covariance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Rows (O, K) with weights in ``mask`` only that best satisfy W C = ``target``."""
    made = np.zeros(mask.shape)
    if mask.all():
        return np.linalg.solve(covariance, target.T).T
    for row, (wanted, some) in enumerate(zip(target, mask, strict=True)):
        places = np.flatnonzero(some)
        if len(places):
            made[row, places] = np.linalg.solve(covariance[np.ix_(places, places)], wanted[places])
    return made


def divergence(right: np.ndarray, net: Net, images: np.ndarray) -> float:
    """The mean relative entropy of the predictions of ``net`` to the ``right`` ones (N, 10), in nats."""
    return float((right * np.log(right / shares(net.logits(images)))).sum(axis=1).mean())


def _strongest(
    matrix: np.ndarray, covariance: np.ndarray, mask: np.ndarray, count: int, minded: np.ndarray
) -> np.ndarray:
    """The ``count`` weights whose removal would cost most."""
    cost = np.full(matrix.shape, -1.0)
    shared = np.diag(np.linalg.inv(covariance)) if mask.all() else None
    for row, some in enumerate(mask):
        places = np.flatnonzero(some)
        if not len(places):
            continue
        if shared is not None:
            diagonal = shared
        else:
            diagonal = np.diag(np.linalg.inv(covariance[np.ix_(places, places)]))
        cost[row, places] = (minded[row] + 1e-12) * matrix[row, places] ** 2 / diagonal
    least = np.partition(cost, -count, axis=None)[-count] if count else np.inf
    return np.asarray((cost >= least) & mask)
