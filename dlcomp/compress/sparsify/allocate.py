"""How many weights each layer loses: the same share, ERK's, or what one threshold over all layers says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# A layer that loses everything cuts the network in two; one threshold leaves every layer at least this.
_LEAST = 0.01


def alike(sizes: Mapping[str, int], target: float) -> dict[str, float]:
    """The target for every layer."""
    return dict.fromkeys(sizes, target)


def erk(shapes: Mapping[str, Sequence[int]], target: float) -> dict[str, float]:
    """Denser the smaller a layer is: Erdős–Rényi-Kernel (Evci et al., "Rigging the lottery", 2020, 3).

    The density of ``(outputs, inputs, kernel...)`` is proportional to the sum of its dimensions over their
    product; layers for which it would exceed 1 stay dense and the others make up for them.
    """
    sizes = {name: float(np.prod(shape)) for name, shape in shapes.items()}
    wish = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    wanted = (1 - target) * sum(sizes.values())
    dense: set[str] = set()
    while True:
        others = [name for name in shapes if name not in dense]
        room = wanted - sum(sizes[name] for name in dense)
        weight = sum(wish[name] * sizes[name] for name in others)
        factor = room / weight if weight else 0.0
        beyond = {name for name in others if factor * wish[name] > 1}
        if not beyond:
            return {name: 0.0 if name in dense else 1 - factor * wish[name] for name in shapes}
        dense |= beyond


def by_threshold(scores: Mapping[str, np.ndarray], elements: int, target: float) -> dict[str, float]:
    """What is below one threshold in each layer, so that ``target`` of all goes.

    ``scores`` are those of blocks of ``elements`` weights each, comparable between layers.
    """
    names = list(scores)
    flat = []
    for name in names:
        ranked = np.sort(scores[name], axis=None).astype(np.float64) / elements
        spared = max(1, int(np.ceil(_LEAST * ranked.size)))
        ranked[-spared:] = np.inf
        flat.append(ranked)
    owner = np.repeat(np.arange(len(names)), [len(part) for part in flat])
    joined = np.concatenate(flat)
    gone = min(round(target * joined.size), int(np.isfinite(joined).sum()))
    first = np.argsort(joined, kind="stable")[:gone]
    lost = np.bincount(owner[first], minlength=len(names))
    return {name: float(lost[i] / len(flat[i])) for i, name in enumerate(names)}
