"""How long a tiled convolution will about take, from sums over tiles, without building its program.

Compute, reads and writes go on beside each other, so the busiest of them counts, and what nothing hides: the
first load and the last store. The cycle simulator is exact; this ranks hundreds of tilings in milliseconds.
"""

from __future__ import annotations

import math

from dlcomp.codegen.vta.blocks import Extent, fits_tiles, is_diagonal
from dlcomp.codegen.vta.convolution import rectangle_blocks
from dlcomp.codegen.vta.operators import Conv
from dlcomp.codegen.vta.tiles import Axis, Room, Tiling, axes, cuts, room
from dlcomp.errors import InternalError
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.timing import Timing

# Passes over a tile of accumulators: reset, bias, shift, and the two ends of the clip.
_PASSES = 5
# More of them: a shift by register, which takes two cycles, and what follows the addition of a residual.
_REGISTER, _RESIDUAL = 2, 5
# What an instruction costs, and a micro-op that is used this often, in the choice between forms of a kernel.
_START, _REUSED = 8, 16


def estimate(conv: Conv, tiling: Tiling, config: VtaConfig, timing: Timing) -> float:
    """Cycles of a tiling that fits."""
    oc, ic = rectangle_blocks(conv, config.block)
    needed = room(conv, tiling, oc, ic, config)
    if needed is None:
        raise InternalError(f"{tiling} does not fit", where=conv.name)
    result = Extent.of(conv.result, config)
    count = _Count(conv, tiling, config, timing, needed, oc, ic, -(-result.channels // oc), result.images)
    parts = (count.compute(), count.reads(), count.writes())
    beside = max(parts) if tiling.contexts > 1 else sum(parts)
    return beside + count.first_load() + count.last_store()


class _Count:
    """Cycles of one kind of work each; ``rectangles`` parts of ``oc`` x ``ic`` blocks, ``images`` times."""

    def __init__(
        self,
        conv: Conv,
        tiling: Tiling,
        config: VtaConfig,
        timing: Timing,
        needed: Room,
        oc: int,
        ic: int,
        rectangles: int,
        images: int,
    ) -> None:
        self.tiling, self.config, self.timing, self.needed = tiling, config, timing, needed
        self.diagonal = is_diagonal(conv, config.block)
        self.height, self.width = axes(conv)
        self.apart = conv.images_are_pixels
        self.outer, self.inner = -(-oc // tiling.oc), -(-ic // tiling.ic)
        rows, columns = _pieces(self.height, tiling.rows), _pieces(self.width, tiling.columns)
        self.spatial = rows * columns * images
        self.rectangles = rectangles
        self.tiles = self.spatial * self.outer * rectangles
        self.outputs = rectangles * oc * self.height.outputs * self.width.outputs * images
        self.steps = self.height.valid() * self.width.valid() * images * oc * ic * rectangles
        self.passes = _PASSES + (0 if conv.extra is None else _REGISTER)
        self.passes += (_RESIDUAL if conv.residual else 0) + (not fits_tiles(conv.start, config.block))

    def compute(self) -> float:
        """Multiplications, passes over the accumulators, and the start of each instruction."""
        calls, uops = self._kernel()
        start = self.timing.dispatch + self.timing.gemm_drain
        work = self.steps * self.timing.gemm_interval + self.outputs * self.passes * self.timing.alu_interval
        return work + self.tiles * (self.passes + self.inner * calls) * start + self._fetches(calls, uops)

    def _kernel(self) -> tuple[int, int]:
        """Instructions and micro-ops of one part of a tile, in the cheaper of two forms of :mod:`nest`."""
        vertical = self._taps(self.height, self.tiling.rows)
        whole = (1, vertical * self._taps(self.width, self.tiling.columns))
        split = (self.width.kernel, self.width.kernel * vertical * min(self.tiling.oc, self.tiling.ic))
        return min(whole, split, key=lambda form: form[0] * _START + form[1] / _REUSED)

    def _taps(self, axis: Axis, size: int) -> int:
        return len(axis.window(*_middle(axis, size)).pairs)

    def _fetches(self, calls: int, uops: int) -> float:
        """Micro-ops are fetched once for every place that a part of a tile can lie in."""
        tiling, needed = self.tiling, self.needed
        period = math.lcm(tiling.contexts * self.inner, needed.data_slots)
        if self.outer * self.inner <= needed.weight_slots:
            period *= self.outer
        else:
            period = math.lcm(period, needed.weight_slots)
        # Borders have kernels of their own.
        kinds = math.prod(
            min(3 if axis.kernel > 1 else 1, _pieces(axis, size))
            for axis, size in ((self.height, tiling.rows), (self.width, tiling.columns))
        )
        parts = self.tiles * self.inner
        kernels = min(parts, period + (kinds - 1) * self.inner)
        return kernels * (calls * self.timing.dispatch + uops * 32 / self.config.bus_bits)

    def reads(self) -> float:
        """Weights and data, again where they do not stay."""
        whole = self.outer * self.inner <= self.needed.weight_slots
        stay = whole or (self.tiling.channels_first and self.needed.weight_slots >= self.inner)
        weights = self.outer * self.inner * (1 if stay else self.spatial) * self._weight_part()
        first = self.tiling.channels_first
        again = self.diagonal or first or self.needed.data_slots < self.inner
        data = self.spatial * self.inner * (self.outer if again else 1) * self._data_part()
        biases = self.tiles * self.tiling.oc * self._row(1, "wgt") / 8
        return self.rectangles * (weights + data) + biases

    def writes(self) -> float:
        """Stores: each element is read from the scratchpad besides."""
        return float(self.tiles * self._store())

    def first_load(self) -> float:
        """What the first multiplication waits for."""
        return float(self._weight_part() + self._data_part())

    def last_store(self) -> float:
        """That of the last tile, which nothing hides."""
        return float(self._store())

    def _weight_part(self) -> int:
        return self._row(self.needed.weights, "wgt")

    def _data_part(self) -> int:
        _, rows = self.height.span(*_middle(self.height, self.tiling.rows))
        _, columns = self.width.span(*_middle(self.width, self.tiling.columns))
        deep = self.tiling.oc if self.diagonal else self.tiling.ic
        if self.apart:
            return deep * rows * self._row(1, "inp")
        if columns == self.width.size and self.height.step == 1:
            return deep * self._row(rows * columns, "inp")
        return deep * rows * self._row(columns, "inp")

    def _store(self) -> int:
        tiling = self.tiling
        if self.apart:
            return self.needed.acc * (self._row(1, "out") + 1)
        whole = tiling.columns == self.width.outputs
        width = tiling.columns * (tiling.rows if whole else 1)
        return self.needed.acc // width * self._row(width, "out") + self.needed.acc

    def _row(self, elements: int, memory: str) -> int:
        """Bus cycles of neighbours in DRAM."""
        beats = -(-elements * self.config.element_bytes(memory) * 8 // self.config.bus_bits)
        return beats + -(-beats // self.timing.burst_beats) * self.timing.burst_overhead


def _pieces(axis: Axis, size: int) -> int:
    return -(-axis.outputs // size)


def _middle(axis: Axis, size: int) -> tuple[int, int]:
    """The second tile, or the only one: (first, count)."""
    found = list(cuts(axis.outputs, size))
    return found[min(1, len(found) - 1)]
