"""Which tiling a convolution gets: an estimate ranks all that fit, the cycle simulator decides between the best.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from dlcomp.codegen.vta.blocks import Extent
from dlcomp.codegen.vta.convolution import lower_convolution, rectangle_blocks
from dlcomp.codegen.vta.operators import Conv
from dlcomp.codegen.vta.stream import Stream
from dlcomp.codegen.vta.tiles import Tiling, axes, cuts, room
from dlcomp.errors import UsageError
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import simulate
from dlcomp.vta.timing import Timing

# Tilings that are simulated.
_FINALISTS = 8


def choose_tiling(
    conv: Conv, config: VtaConfig, timing: Timing, *, contexts: int = 2, finalists: int = _FINALISTS
) -> Tiling:
    """The fastest tiling of those that fit.

    Parameters
    ----------
    contexts : int
        2 with double buffering, 1 without.
    finalists : int
        How many are simulated; with 1 the estimate alone decides.

    Raises
    ------
    UsageError
        Not even single outputs fit the scratchpads.
    """
    ranked = sorted(_candidates(conv, config, contexts), key=lambda t: (_estimate(conv, t, config, timing), str(t)))
    if not ranked:
        raise UsageError(
            "no tile of this convolution fits the scratchpads: kernel "
            f"{conv.weight.shape[2]}x{conv.weight.shape[3]} takes {conv.weight.shape[2] * conv.weight.shape[3]} "
            f"weight tiles of the {config.depth('wgt')} that wgt holds",
            where=conv.name,
            hint="keep this layer on the host, or take a target with larger scratchpads",
        )
    best = ranked[:finalists]
    if len(best) == 1:
        return best[0]
    return min(best, key=lambda tiling: layer_cycles(conv, tiling, config, timing))


def layer_program(conv: Conv, tiling: Tiling, config: VtaConfig) -> Stream:
    """A program of one layer: buffers ``data``, ``result`` and what is added, by their tensors' names."""
    stream = Stream(config)
    inputs = [conv.data] + ([conv.residual.other] if conv.residual else [])
    for tensor in {t.name: t for t in inputs}.values():
        size = Extent.of(tensor, config).elements * config.element_bytes("inp")
        stream.buffer(tensor.name, "input", size)
    planes = 4 if conv.wide else 1
    size = Extent.of(conv.result, config).elements * config.element_bytes("out")
    stream.buffer(conv.result.name, "output", planes * size)
    lower_convolution(stream, conv, tiling)
    return stream


def layer_cycles(conv: Conv, tiling: Tiling, config: VtaConfig, timing: Timing) -> int:
    """Cycles of one layer by itself."""
    return simulate(layer_program(conv, tiling, config).finish(), config, timing).cycles


def _sizes(whole: int, most: int) -> list[int]:
    """Tile sizes that cut ``whole`` into pieces as equal as can be, at most ``most``, the largest first."""
    return sorted({-(-whole // parts) for parts in range(-(-whole // most), whole + 1)}, reverse=True)


def _candidates(conv: Conv, config: VtaConfig, contexts: int) -> Iterator[Tiling]:
    oc, ic = rectangle_blocks(conv, config.block)
    height, width = axes(conv)
    most = config.depth("acc") // contexts
    orders = (False, True) if oc > 1 else (False,)
    for channels in _sizes(oc, most):
        for columns in _sizes(width.outputs, most)[:4]:
            if channels * columns > most:
                continue
            for rows in _sizes(height.outputs, most // (channels * columns))[:4]:
                for part in _sizes(ic, ic):
                    for order in orders:
                        tiling = Tiling(channels, part, rows, columns, order, contexts)
                        if room(conv, tiling, oc, ic, config) is not None:
                            yield tiling


@functools.lru_cache(maxsize=4096)
def _burst(elements: int, size: int, bus: int, timing: Timing) -> int:
    """Bus cycles of one contiguous row."""
    beats = -(-elements * size // bus)
    return beats + -(-beats // timing.burst_beats) * timing.burst_overhead


def _estimate(conv: Conv, tiling: Tiling, config: VtaConfig, timing: Timing) -> float:
    """Cycles, from sums over tiles: the busiest of compute, reads and writes, plus what nothing hides."""
    oc, ic = rectangle_blocks(conv, config.block)
    height, width = axes(conv)
    bus = config.bus_bits // 8
    needed = room(conv, tiling, oc, ic, config)
    assert needed is not None
    start = timing.dispatch + timing.gemm_drain
    images, total = Extent.of(conv.result, config).images, Extent.of(conv.result, config).channels
    rectangles = -(-total // oc)
    outer, inner = -(-oc // tiling.oc), -(-ic // tiling.ic)
    rows, columns = list(cuts(height.outputs, tiling.rows)), list(cuts(width.outputs, tiling.columns))
    spatial = len(rows) * len(columns) * images
    tiles = spatial * outer * rectangles
    elements = total * height.outputs * width.outputs * images
    passes = 5 if conv.residual is None else 10
    steps = height.valid() * width.valid() * images * oc * ic * rectangles
    calls = 1 if tiling.rows * tiling.columns <= 64 else width.kernel
    compute = (
        steps * timing.gemm_interval
        + elements * (passes * timing.alu_interval)
        + tiles * (passes * start + inner * calls * start)
    )
    # Reads: weights again where they do not stay, data likewise.
    whole = outer * inner <= needed.weight_slots
    stay = whole or (tiling.channels_first and needed.weight_slots >= inner)
    weight_parts = outer * inner * (1 if stay else spatial)
    weights = weight_parts * _burst(needed.weights, config.element_bytes("wgt"), bus, timing)
    data_stay = outer == 1 or (not tiling.channels_first and needed.data_slots >= inner)
    size = config.element_bytes("inp")
    per_tile = 0
    for _, row_count in rows[:1]:
        top, loaded = height.span(rows[min(1, len(rows) - 1)][0], row_count)
        left, across = width.span(columns[0][0], columns[0][1])
        if across == width.size and height.step == 1:
            per_tile += tiling.ic * _burst(loaded * across, size, bus, timing)
        else:
            per_tile += tiling.ic * loaded * _burst(across, size, bus, timing)
    data = spatial * inner * (1 if data_stay else outer) * per_tile
    reads = rectangles * (weights + data) + tiles * tiling.oc * config.element_bytes("wgt") / bus / 8
    width_out = tiling.rows * tiling.columns if tiling.columns == width.outputs else tiling.columns
    count = tiling.oc * tiling.rows * tiling.columns
    write = (count // max(1, width_out)) * _burst(width_out, config.element_bytes("out"), bus, timing) + count
    first = _burst(needed.weights, config.element_bytes("wgt"), bus, timing) + per_tile
    last = write + count * 3
    parts = (compute, reads, tiles * write)
    return (max(parts) if tiling.contexts > 1 else sum(parts)) + first + last
