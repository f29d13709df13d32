"""Which cell loses how many channels: greedily, what costs the outputs least for the MACs that it saves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlcomp.compress.channels.cells import Cell, Cost
from dlcomp.errors import UsageError


def widths_for(
    cells: Sequence[Cell],
    curves: Sequence[np.ndarray],
    costs: Sequence[Cost],
    rest: float,
    target: float,
    multiple: int,
) -> list[int]:
    """The width of each cell so that MACs are at most ``target`` of what they are.

    Parameters
    ----------
    curves : for each cell, (n,) float64
        The summed cost of its first 1, 2, ... n channels to go.
    rest : float
        MACs that no width changes.
    multiple : int
        Widths are multiples of it, except those that stay as they are; none goes below it.

    Raises
    ------
    UsageError
        Not even the least widths are enough.
    """
    sizes = [len(cell.roots) for cell in cells]
    # What is lost when a cell has as many channels left.
    losses = [np.concatenate([[0.0], curve])[::-1] for curve in curves]
    widths = list(sizes)

    def macs(tried: Sequence[int]) -> float:
        return rest + sum(cost.macs(tried) for cost in costs)

    def changed(cell: int, width: int) -> list[int]:
        return [*widths[:cell], width, *widths[cell + 1 :]]

    most = target * macs(sizes)
    while (now := macs(widths)) > most:
        prices = {}
        for cell, width in enumerate(widths):
            less = (width - 1) // multiple * multiple
            if less >= multiple:
                saved = max(now - macs(changed(cell, less)), 1e-9)
                prices[cell, less] = (losses[cell][less] - losses[cell][width]) / saved
        if not prices:
            raise UsageError(
                f"MACs cannot fall to {target:g} of what they are, only to {now / macs(sizes):.3f}",
                hint=f"widths end at {multiple}, and channels that reach inputs or outputs stay; "
                "a smaller multiple, or a higher share",
                where="channels",
            )
        widths = changed(*min(prices, key=lambda step: prices[step]))
    # The last steps saved more than was needed: what fits again comes back, the most useful first.
    while True:
        gains = {}
        for cell, width in enumerate(widths):
            more = min(sizes[cell], width + multiple)
            if more > width and macs(changed(cell, more)) <= most:
                gains[cell, more] = losses[cell][width] - losses[cell][more]
        if not gains:
            return widths
        widths = changed(*max(gains, key=lambda step: gains[step]))
