"""Channel pruning: a network of fewer channels, and not one in which some are zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcomp.compress.channels.budget import widths_for
from dlcomp.compress.channels.cells import Cell, cells_of, costs_of
from dlcomp.compress.channels.choose import CHOICES, Reader
from dlcomp.compress.channels.shrink import keeps, shrink
from dlcomp.compress.channels.trace import Linked, Trace, trace
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import check_expressions, check_names, layers_of, weight_of
from dlcomp.compress.matrices import to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.reconstruct import Fit, reconstruct
from dlcomp.compress.refit import TINY
from dlcomp.compress.second_order import second_order
from dlcomp.errors import ModelError, UsageError

__all__ = ["PruneChannels"]


@dataclass(frozen=True)
class PruneChannels:
    """Layers with fewer output channels, and what reads them with fewer inputs.

    Attributes
    ----------
    macs : float
        The share of the network's multiply-accumulates that is to be left, above 0 to 1.
    widths : mapping of str to int, or None
        How many channels stay of those that the named layers make (``a + b`` for channels that are made by
        both), in place of ``macs``; others keep theirs.
    method : str
        ``magnitude`` (of the filters), ``lasso`` or ``obs`` (what the readers of a channel lose).
    multiple : int
        Widths are multiples of it: a vector that is half empty takes as long as a full one.
    repair : bool
        Fit every layer behind the first that shrank to what it made before, by least squares.
    damping : float
        Added to the diagonal of Hessians, of its mean.
    keep : tuple of str
        Regular expressions: layers whose name one is found in keep their channels.

    Inputs and outputs of the network keep their shapes.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    macs: float = 0.7
    method: str = "obs"
    multiple: int = 8
    repair: bool = True
    damping: float = 0.01
    keep: tuple[str, ...] = ()
    widths: Mapping[str, int] | None = None
    name: str = "channels"

    def __post_init__(self) -> None:
        if not 0 < self.macs <= 1:
            raise UsageError(f"macs is the share that is left, above 0 and at most 1, not {self.macs}")
        if self.method not in CHOICES:
            raise UsageError(f"there is no method {self.method!r}", hint=", ".join(CHOICES))
        if not 1 <= self.multiple <= 1024:
            raise UsageError(f"widths are multiples of 1 to 1024, not of {self.multiple}")
        if not 0 < self.damping <= 1:
            raise UsageError(f"the damping is above 0 and at most 1, not {self.damping}")
        check_expressions(self.keep)

    @property
    def needs_data(self) -> bool:
        return self.repair or self.method != "magnitude"

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Shrink ``network``; the account of the widths, of the MACs and of the bytes."""
        traced = trace(network)
        cells = cells_of(traced, self.keep)
        if self.widths is not None:
            check_names(self.widths, {cell.name for cell in cells}, "channels")
            cells = [cell for cell in cells if cell.name in self.widths]
        if self.widths is None and not any(len(cell.roots) > self.multiple for cell in cells):
            raise ModelError(
                f"it has no {self.multiple + 1} channels that only layers inside it see", where="channels"
            )
        before = network.copy()
        orders, curves = self._orders(traced, cells, data)
        costs, rest = costs_of(traced, cells)
        sizes = [len(cell.roots) for cell in cells]
        if self.widths is None:
            widths = widths_for(cells, curves, costs, rest, self.macs, self.multiple)
        else:
            widths = _given(self.widths, cells)
        gone = {
            int(root)
            for cell, order, width in zip(cells, orders, widths, strict=True)
            for root in cell.roots[order[: len(order) - width]]
        }
        shrink(traced, gone)
        if self.repair and data is not None:
            reconstruct(before, network, _fits(before, traced, gone), data, self.damping)
        network.drop_unread()
        return {
            "channels": {c.name: [n, w] for c, n, w in zip(cells, sizes, widths, strict=True) if w < n},
            "macs": [round(rest + sum(cost.macs(w) for cost in costs)) for w in (sizes, widths)],
            "bytes": [sum(array.nbytes for array in made.weights.values()) for made in (before, network)],
        }

    def _orders(
        self, traced: Trace, cells: Sequence[Cell], data: Calibration | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """In which order each cell's channels go, and what each prefix costs."""
        readers: list[list[Reader]] = [[] for _ in cells]
        if self.method != "magnitude" and data is not None:
            readers = self._readers(traced, cells, data)
        found = [
            CHOICES[self.method](reads, _norms(traced, cell))
            for cell, reads in zip(cells, readers, strict=True)
        ]
        return [order for order, _ in found], [curve for _, curve in found]

    def _readers(self, traced: Trace, cells: Sequence[Cell], data: Calibration) -> list[list[Reader]]:
        """The matrices that read each cell, with their Hessians, all of which are held."""
        network = traced.network
        members = {int(root) for cell in cells for root in cell.roots}
        reading = {
            linked.layer.output: (linked.layer, traced.roots(linked.inputs))
            for linked in traced.layers
            if linked.inputs is not None and not linked.depthwise
        }
        layers = [layer for layer, roots in reading.values() if not members.isdisjoint(roots.tolist())]
        found: list[list[Reader]] = [[] for _ in cells]
        for layer, moments in second_order(network, layers, data):
            _, roots = reading[layer.output]
            matrices = to_matrices(layer, weight_of(network, layer)).astype(np.float64)
            hessians = moments.damped(layer.node.op_type != "MatMul", self.damping)
            for part, matrix, hessian in zip(
                roots.reshape(len(matrices), -1), matrices, hessians, strict=True
            ):
                taps = np.tile(part, matrix.shape[1] // len(part))
                for place, cell in enumerate(cells):
                    columns = [np.flatnonzero(taps == root) for root in cell.roots]
                    if any(len(own) for own in columns):
                        found[place].append(Reader(matrix, hessian, columns))
        return found


def _given(widths: Mapping[str, int], cells: Sequence[Cell]) -> list[int]:
    """The width of each cell."""
    for cell in cells:
        most = len(cell.roots)
        if not 1 <= widths[cell.name] <= most:
            raise UsageError(
                f"{cell.name} can have 1 to {most} channels, not {widths[cell.name]}", where="channels"
            )
    return [widths[cell.name] for cell in cells]


def _norms(traced: Trace, cell: Cell) -> np.ndarray:
    """Squared norms of the filters that make each channel, as shares of each layer's: (n,)."""
    places = {int(root): i for i, root in enumerate(cell.roots)}
    norms = np.zeros(len(places))
    for linked in traced.layers:
        roots = traced.roots(linked.outputs).tolist()
        if places.keys().isdisjoint(roots):
            continue
        weight = weight_of(traced.network, linked.layer).astype(np.float64)
        own = (np.moveaxis(weight, linked.layer.axis, 0).reshape(len(roots), -1) ** 2).sum(axis=1)
        for root, norm in zip(roots, own / max(own.sum(), TINY), strict=True):
            if root in places:
                norms[places[root]] += norm
    return norms


def _fits(before: Network, traced: Trace, gone: set[int]) -> list[Fit]:
    """Every layer from the first that lost inputs on."""
    old = {layer.output: layer for layer in layers_of(before)}
    fits: list[Fit] = []
    for linked in traced.layers:
        if fits or _lost(traced, linked, gone):
            outputs = keeps(traced, linked.outputs, gone)
            fits.append(Fit(old[linked.layer.output], linked.layer, outputs))
    return fits


def _lost(traced: Trace, linked: Linked, gone: set[int]) -> bool:
    return linked.inputs is not None and not bool(keeps(traced, linked.inputs, gone).all())
