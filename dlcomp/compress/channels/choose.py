"""In which order the channels of a cell go, and what each costs the layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.refit import TINY, error_of

# Penalties of the path of the LASSO, from the least to that at which nothing is left.
_PATH = np.geomspace(1e-4, 1.0, 40)
_SWEEPS = 60


@dataclass(frozen=True)
class Reader:
    """A matrix that multiplies channels of a cell.

    Attributes
    ----------
    weights : (O, K) float64
    hessian : (K, K) float64, positive definite
    columns : sequence of int arrays
        The columns that read each channel of the cell; none where the matrix does not read it.
    """

    weights: np.ndarray
    hessian: np.ndarray
    columns: Sequence[np.ndarray]

    @property
    def energy(self) -> float:
        """Of its outputs, in which errors are counted."""
        return max(error_of(self.weights, self.hessian), TINY)


# (readers, squared norms of what makes each channel (n,)) to the order (n,), and each prefix's summed cost.
Choice = Callable[[Sequence[Reader], np.ndarray], tuple[np.ndarray, np.ndarray]]


def by_magnitude(readers: Sequence[Reader], norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the smallest filters first (Li et al., "Pruning filters", 2017, section 3.1)."""
    order = np.argsort(norms, kind="stable")
    return order, np.cumsum(norms[order]) / max(float(norms.sum()), TINY)


def by_obs(readers: Sequence[Reader], norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One after another, that without which the readers' outputs can be repaired best.

    Optimal brain surgeon for groups of columns (Kurtic et al., "ZipLM", 2023, section 3.1): a group S costs
    tr(W_S ([H^-1]_SS)^-1 W_S^T); afterwards the other weights have made up for it, and the inverse is that of
    the columns that are left.
    """
    count = len(norms)
    states = [(reader.weights.copy(), np.linalg.inv(reader.hessian), reader) for reader in readers]
    left = np.ones(count, bool)
    order, costs, total = [], [], 0.0
    for _ in range(count):
        price = np.zeros(count)
        for weights, inverse, reader in states:
            price += _prices(weights, inverse, reader.columns, left) / reader.energy
        price[~left] = np.inf
        chosen = int(price.argmin())
        left[chosen] = False
        total += float(price[chosen])
        order.append(chosen)
        costs.append(total)
        for weights, inverse, reader in states:
            _remove(weights, inverse, reader.columns[chosen])
    return np.array(order), np.array(costs)


def by_lasso(readers: Sequence[Reader], norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those whose factor a growing penalty makes zero first (He et al., "Channel pruning", 2017, 3.1).

    min |Y - sum b_i Z_i|^2 / 2 + p |b|_1, where Z_i is what channel i adds to the outputs, by coordinate
    descent on the Gram matrix of the Z; the cost is the error without repair.
    """
    count = len(norms)
    gram = np.zeros((count, count))
    for reader in readers:
        gram += _gram(reader) / reader.energy
    wanted = gram.sum(axis=1)
    largest = float(np.abs(wanted).max()) or 1.0
    factors = np.ones(count)
    path = []
    for penalty in _PATH * largest:
        factors = _descend(gram, wanted, penalty, factors)
        path.append(np.abs(factors))
    alive = (np.array(path) > 0).sum(axis=0)
    # Of those that end together, the one that was smaller over the path.
    order = np.lexsort((np.array(path).sum(axis=0), alive))
    lost = gram[np.ix_(order, order)]
    return order, np.maximum.accumulate(np.array([lost[: k + 1, : k + 1].sum() for k in range(count)]))


CHOICES: Mapping[str, Choice] = {"magnitude": by_magnitude, "lasso": by_lasso, "obs": by_obs}


def _prices(
    weights: np.ndarray, inverse: np.ndarray, columns: Sequence[np.ndarray], left: np.ndarray
) -> np.ndarray:
    """tr(W_S ([H^-1]_SS)^-1 W_S^T) of each channel that is left, those of equally many columns together."""
    found = np.zeros(len(columns))
    by_size: dict[int, list[int]] = {}
    for channel in np.flatnonzero(left).tolist():
        by_size.setdefault(len(columns[channel]), []).append(channel)
    for size, channels in by_size.items():
        if size:
            places = np.array([columns[channel] for channel in channels])
            blocks = inverse[places[:, :, None], places[:, None, :]]
            parts = weights[:, places].transpose(1, 2, 0)
            found[channels] = (parts * np.linalg.solve(blocks, parts)).sum(axis=(1, 2))
    return found


def _remove(weights: np.ndarray, inverse: np.ndarray, columns: np.ndarray) -> None:
    """Take ``columns`` out of both, in place; the other weights make up for them."""
    if not len(columns):
        return
    rows = np.linalg.solve(inverse[np.ix_(columns, columns)], inverse[columns])
    weights -= weights[:, columns] @ rows
    inverse -= inverse[:, columns] @ rows
    weights[:, columns] = 0.0
    inverse[columns] = 0.0
    inverse[:, columns] = 0.0


def _gram(reader: Reader) -> np.ndarray:
    """tr(W_i H_ij W_j^T) for all channels i, j: (n, n)."""
    product = (reader.weights.T @ reader.weights) * reader.hessian
    member = np.zeros((len(reader.columns), len(product)))
    for channel, columns in enumerate(reader.columns):
        member[channel, columns] = 1.0
    return np.asarray(member @ product @ member.T)


def _descend(gram: np.ndarray, wanted: np.ndarray, penalty: float, factors: np.ndarray) -> np.ndarray:
    found: np.ndarray = factors.copy()
    slope = gram @ found
    for _ in range(_SWEEPS):
        moved = 0.0
        for i in range(len(found)):
            if gram[i, i] <= 0:
                change, found[i] = 0.0, 0.0
                continue
            pull = wanted[i] - slope[i] + gram[i, i] * found[i]
            new = np.sign(pull) * max(0.0, abs(pull) - penalty) / gram[i, i]
            change = new - found[i]
            if change:
                slope += gram[:, i] * change
                found[i] = new
            moved = max(moved, abs(change))
        if moved < 1e-6:
            break
    return found
