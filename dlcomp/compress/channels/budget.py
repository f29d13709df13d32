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
    widths = [len(cell.roots) for cell in cells]
    before = now = rest + sum(cost.macs(widths) for cost in costs)
    while now > target * before:
        best, chosen = np.inf, -1
        for i, curve in enumerate(curves):
            less = _less(widths[i], multiple)
            if less < multiple:
                continue
            tried = [*widths[:i], less, *widths[i + 1 :]]
            saved = now - rest - sum(cost.macs(tried) for cost in costs)
            gone = len(curve) - widths[i]
            cost_before = float(curve[gone - 1]) if gone else 0.0
            price = (float(curve[len(curve) - less - 1]) - cost_before) / max(saved, 1e-9)
            if price < best:
                best, chosen = price, i
        if chosen < 0:
            raise UsageError(
                f"MACs cannot fall to {target:g} of what they are, only to {now / before:.3f}",
                hint=f"widths end at {multiple}, and channels that reach inputs or outputs stay; "
                "a smaller multiple, or a higher share",
                where="channels",
            )
        widths[chosen] = _less(widths[chosen], multiple)
        now = rest + sum(cost.macs(widths) for cost in costs)
    return widths


def _less(width: int, multiple: int) -> int:
    return (width - 1) // multiple * multiple
