"""Loops over extents that only the run knows, by tiles of fixed sizes.

The last tile of a run is moved up so that it is a full one: a few places are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from dlcomp.schedules.cpu.emit import Expr, Stmt, const, open_loop
from dlcomp.schedules.cpu.gemm import unflatten
from dlcomp.target import Target


def runs(
    extent: Expr, sizes: Sequence[int], cost: Callable[[int], float], tile: Callable[[Expr, int], Stmt]
) -> Stmt:
    """``tile(start, size)`` over ``extent`` places, by tiles of whichever size costs the least for so many.

    Parameters
    ----------
    sizes : sequence of int
        Tiles that there is code for; one place is always among them.
    cost : callable
        What a tile of a size costs, in any unit.
    """
    known = sorted({1, *sizes})
    # Whole numbers, as the run compares them.
    costs = {size: max(1, round(cost(size) * 16)) for size in known}

    def by(size: int) -> Stmt:
        if size == 1:
            return open_loop("x", extent, lambda x: tile(x, 1))
        count = tirx.floordiv(extent + (size - 1), const(size))
        return open_loop("t", count, lambda t: tile(tirx.min(t * size, extent - size), size))

    def total(size: int) -> Expr:
        return tirx.floordiv(extent + (size - 1), const(size)) * costs[size]

    if isinstance(extent, tirx.IntImm):
        number = int(extent)
        return by(
            min((s for s in known if s <= max(1, number)), key=lambda s: (-(-number // s) * costs[s], -s))
        )
    result, least = by(1), total(1)
    for size in known[1:]:
        result = tirx.IfThenElse(tirx.And(extent >= const(size), total(size) <= least), by(size), result)
        least = tirx.min(least, total(size))
    return result


def heights(rows: int) -> list[int]:
    """Rows of the tiles that there is code for: few rows, and what is left over, need lower ones."""
    return sorted({rows, -(-rows // 3), 1})


def open_index(index: Expr, shape: Sequence[Any]) -> list[Expr]:
    """The multi-index of a flat ``index`` into a shape with open dimensions."""
    if all(isinstance(d, tirx.IntImm) for d in shape):
        return unflatten(index, [int(d) for d in shape])
    result: list[Expr] = []
    rest = index
    for extent in reversed(shape[1:]):
        if isinstance(extent, tirx.IntImm) and int(extent) == 1:
            result.append(const(0))
            continue
        result.append(tirx.floormod(rest, extent))
        rest = tirx.floordiv(rest, extent)
    return [rest, *reversed(result)]


def shared(target: Target) -> str:
    """The kind of a loop over tasks whose number only the run knows."""
    return "parallel" if target.cores > 1 else "serial"
