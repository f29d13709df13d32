"""How a recurrent layer is cut: rows of the batch and hidden units that are computed together."""

from __future__ import annotations

from dataclasses import dataclass

from dlcomp.schedules.cpu.tile import bytes_a_cycle, independent_sums, lanes_of, tile_cycles
from dlcomp.schedules.workload import Recurrence
from dlcomp.target import Target


@dataclass(frozen=True)
class Blocking:
    """``rows`` of the batch at a time, ``width`` hidden units in a block."""

    rows: int
    width: int


def passes(layer: Recurrence) -> tuple[tuple[int, ...], ...]:
    """The gates, by their places in ONNX's order, that are multiplied together.

    A GRU that resets the state before the product needs its gates first.
    """
    if layer.kind == "GRU" and not layer.reset_after:
        return ((0, 1), (2,))
    return (tuple(range(layer.gates)),)


def blocking(layer: Recurrence, target: Target) -> Blocking:
    """Accumulators that fit the registers, and tiles of the batch of which no row is computed in vain."""
    lanes = lanes_of(target)
    gates = max(len(group) for group in passes(layer))
    free = target.vector_registers - 4
    if layer.batch <= 1:
        # Weights are used once; what counts are independent sums.
        vectors = max(1, min(free // gates, -(-independent_sums(target) // gates)))
        blocks = -(-layer.hidden // (vectors * lanes))
        return Blocking(1, _rounded(-(-layer.hidden // blocks), lanes))
    width = _rounded(min(lanes, layer.hidden), lanes)
    most = max(1, min(layer.batch, (free - gates) // gates))
    weights = layer.directions * layer.weights * 4

    def cycles(rows: int) -> float:
        """Of one step of the product, for the whole batch: sums or the stream of weights."""
        stream = gates * width * 4 / bytes_a_cycle(weights, target)
        return -(-layer.batch // rows) * max(tile_cycles(rows, gates * width, target), stream)

    return Blocking(min(range(1, most + 1), key=lambda rows: (cycles(rows), -rows)), width)


def short_width(layer: Recurrence, rows: int, target: Target) -> int:
    """How many numbers of the shortened state, of ``layer.rank``, are computed together for ``rows`` rows."""
    lanes = lanes_of(target)
    free = (target.vector_registers - 4) // (rows + 1)
    vectors = max(1, min(free, -(-independent_sums(target) // rows)))
    blocks = -(-layer.rank // (vectors * lanes))
    return _rounded(-(-layer.rank // blocks), lanes)


def _rounded(units: int, lanes: int) -> int:
    """``units`` up to whole quarters of a vector."""
    step = max(1, lanes // 4)
    return -(-units // step) * step
