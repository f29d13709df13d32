"""Channels that are chosen among: those that the same layers make, and what a width of theirs costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.channels.trace import Linked, Trace
from dlcomp.compress.layers import weight_of
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import count_macs


@dataclass(frozen=True)
class Cell:
    """Channels that are made by the same layers, so that each of these has a multiple of its width.

    Attributes
    ----------
    name : str
        The layers that make them.
    roots : (n,) int64
        Numbers that stand for them, see ``trace.py``.
    """

    name: str
    roots: np.ndarray


@dataclass(frozen=True)
class Cost:
    """MACs of a layer: ``fixed`` channels and ``per`` channel of each cell, in and out, times ``unit``."""

    unit: float
    fixed_in: int
    per_in: Mapping[int, int]
    fixed_out: int
    per_out: Mapping[int, int]

    def macs(self, widths: Sequence[int]) -> float:
        inputs = self.fixed_in + sum(n * widths[cell] for cell, n in self.per_in.items())
        outputs = self.fixed_out + sum(n * widths[cell] for cell, n in self.per_out.items())
        return self.unit * inputs * outputs


def cells_of(trace: Trace, keep: Sequence[str] = ()) -> list[Cell]:
    """The cells whose channels may go; layers that one of ``keep`` is found in keep theirs."""
    stays = trace.stays()
    makers: dict[int, list[str]] = {}
    for linked in trace.layers:
        roots = dict.fromkeys(trace.roots(linked.outputs).tolist())
        if any(re.search(pattern, linked.layer.name) for pattern in keep):
            stays.update(roots)
        for root in roots:
            makers.setdefault(root, []).append(linked.layer.name)
    found: dict[tuple[str, ...], list[int]] = {}
    for root, names in makers.items():
        if root not in stays:
            found.setdefault(tuple(names), []).append(root)
    return [Cell(" + ".join(names), np.array(roots)) for names, roots in found.items()]


def costs_of(trace: Trace, cells: Sequence[Cell]) -> tuple[list[Cost], float]:
    """The MACs of each layer by the widths of cells, and of what no width changes."""
    cell_of = {root: i for i, cell in enumerate(cells) for root in cell.roots.tolist()}
    sizes = [len(cell.roots) for cell in cells]
    costs = []
    for linked in trace.layers:
        fixed_out, per_out = _shares(trace, linked.outputs, cell_of, sizes)
        fixed_in, per_in = 1, dict[int, int]()
        if linked.inputs is not None and not linked.depthwise:
            fixed_in, per_in = _shares(trace, linked.inputs, cell_of, sizes)
        cost = Cost(1.0, fixed_in, per_in, fixed_out, per_out)
        costs.append(Cost(_macs(trace, linked) / cost.macs(sizes), fixed_in, per_in, fixed_out, per_out))
    total = count_macs(inferred(trace.network.proto)) or 0
    return costs, max(0.0, total - sum(cost.macs(sizes) for cost in costs))


def _shares(
    trace: Trace, numbers: np.ndarray, cell_of: Mapping[int, int], sizes: Sequence[int]
) -> tuple[int, dict[int, int]]:
    """How many of ``numbers`` are in no cell, and how many each channel of a cell stands for."""
    counts: dict[int, int] = {}
    fixed = 0
    for root in trace.roots(numbers).tolist():
        if root in cell_of:
            counts[cell_of[root]] = counts.get(cell_of[root], 0) + 1
        else:
            fixed += 1
    return fixed, {cell: count // sizes[cell] for cell, count in counts.items()}


def _macs(trace: Trace, linked: Linked) -> float:
    """Of one layer as it is: elements of its output by weights of one output channel."""
    layer = linked.layer
    weight = weight_of(trace.network, layer)
    elements = float(np.prod(trace.shapes.get(layer.node.output[0], (weight.shape[layer.axis],))))
    return float(elements * weight.size / weight.shape[layer.axis])
