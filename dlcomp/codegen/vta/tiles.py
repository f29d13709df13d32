"""How a convolution is cut: the tiling, what of it lies in the scratchpads, and which data a tile needs."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from dlcomp.codegen.vta.blocks import Extent, fits_tiles, is_diagonal
from dlcomp.codegen.vta.nest import Window, junk_size
from dlcomp.codegen.vta.operators import Conv
from dlcomp.codegen.vta.stream import Box
from dlcomp.vta.config import VtaConfig


@dataclass(frozen=True)
class Tiling:
    """Sizes of a tile.

    Attributes
    ----------
    oc, ic : int
        Blocks of output channels of a tile, and of input channels that are loaded at a time.
    rows, columns : int
        Outputs.
    channels_first : bool
        Whether all pixels of a tile of channels are computed before the next channels, so that weights stay;
        else data stay.
    contexts : int
        2 to load and store beside computing, 1 to do one after another.
    """

    oc: int
    ic: int
    rows: int
    columns: int
    channels_first: bool = False
    contexts: int = 2


@dataclass(frozen=True)
class Axis:
    """Height or width of a convolution."""

    size: int
    outputs: int
    kernel: int
    stride: int
    pad: int
    dilation: int
    rows: bool
    transposed: bool = False

    @property
    def step(self) -> int:
        """Distance of what is loaded: a kernel of one row passes over those between its strides."""
        return self.stride if self.rows and self.kernel == 1 and not self.transposed else 1

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def span(self, first: int, count: int) -> tuple[int, int]:
        """First datum and how many, ``step`` apart, that ``count`` outputs from ``first`` need."""
        if self.transposed:
            met = [place for _, place in self._met(first, count)]
            return (min(met), max(met) - min(met) + 1) if met else (0, 0)
        places = [self._place(out, tap) for out in (first, first + count - 1) for tap in (0, self.kernel - 1)]
        low, high = min(places), max(places)
        if low < 0:
            # The first place inside that is reached in steps.
            low %= self.step
        high = min(high, self.size - 1)
        return low, max(0, (high - low) // self.step + 1)

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def window(self, first: int, count: int) -> Window:
        """Every (tap, output) of the tile that meets data, and where those are in what is loaded."""
        low, _ = self.span(first, count)
        found = self._met(first, count)
        return Window(tuple(pair for pair, _ in found), tuple((at - low) // self.step for _, at in found))

    def valid(self) -> int:
        """(tap, output) pairs of the whole axis that meet data."""
        return len(self.window(0, self.outputs).pairs)

    def _met(self, first: int, count: int) -> list[tuple[tuple[int, int], int]]:
        """((tap, output), datum) of the tile that meet data, tap by tap."""
        pairs = ((tap, out) for tap in range(self.kernel) for out in range(count))
        if self.transposed:
            # Only every so many outputs meet a datum with a tap.
            apart = (((tap, out), first + out + self.pad - tap * self.dilation) for tap, out in pairs)
            places = ((pair, at // self.stride) for pair, at in apart if at % self.stride == 0)
        else:
            places = ((pair, self._place(first + pair[1], pair[0])) for pair in pairs)
        return [(pair, place) for pair, place in places if 0 <= place < self.size]

    def _place(self, out: int, tap: int) -> int:
        return out * self.stride - self.pad + tap * self.dilation


def axes(conv: Conv) -> tuple[Axis, Axis]:
    """Height and width."""
    kernel = conv.weight.shape[2:]
    height, width = (
        Axis(
            conv.data.shape[2 + a], conv.result.shape[2 + a], kernel[a], conv.strides[a], conv.pads[a],
            conv.dilations[a], rows=a == 0, transposed=conv.transposed,
        )
        for a in (0, 1)
    )  # fmt: skip
    return height, width


def cuts(whole: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the pieces of ``whole``."""
    for first in range(0, whole, size):
        yield first, min(size, whole - first)


class Slots:
    """Places of equal size in a scratchpad, the one that was used longest ago taken next."""

    def __init__(self, base: int, size: int, count: int) -> None:
        self.base = base
        self.size = size
        self._count = count
        self._held: OrderedDict[Hashable, int] = OrderedDict()

    @property
    def end(self) -> int:
        """First element after all slots."""
        return self.base + self.size * self._count

    def place(self, key: Hashable) -> tuple[int, bool]:
        """Where the contents ``key`` are or will be, and whether they are there already."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key], True
        if len(self._held) < self._count:
            at = self.base + len(self._held) * self.size
        else:
            _, at = self._held.popitem(last=False)
        self._held[key] = at
        return at, False


@dataclass(frozen=True)
class Room:
    """Elements that a tiling takes of each scratchpad, slot by slot.

    ``registers`` hold what differs by channel in acc; ``data`` and ``weights`` the sizes of one
    slot, and ``data_slots`` and ``weight_slots`` how many.
    """

    acc: int
    registers: int
    data: int
    data_slots: int
    weights: int
    weight_slots: int
    biases: int
    residual: int

    @property
    def inp(self) -> int:
        """Elements of inp: the constant vector, data, and what is added."""
        return 1 + self.data * self.data_slots + self.residual


def registers_of(conv: Conv, block: int) -> int:
    """Accumulators a block of channels: the amounts of its shifts, and a bias that no weight tile holds."""
    return (conv.extra is not None) + (not fits_tiles(conv.start, block))


def room(conv: Conv, tiling: Tiling, oc: int, ic: int, config: VtaConfig) -> Room | None:
    """What a tiling needs for a convolution of ``oc`` x ``ic`` blocks, or None if it does not fit."""
    height, width = axes(conv)
    kernel = height.kernel * width.kernel
    contexts = tiling.contexts
    pixels = tiling.rows * tiling.columns
    acc = tiling.oc * pixels
    rows = max(height.span(first, count)[1] for first, count in cuts(height.outputs, tiling.rows))
    columns = max(width.span(first, count)[1] for first, count in cuts(width.outputs, tiling.columns))
    deep = tiling.oc if is_diagonal(conv, config.block) else tiling.ic
    data = max(1, deep * rows * columns)
    weights = tiling.ic * tiling.oc * kernel
    residual = contexts * acc if conv.residual else 0
    registers = contexts * tiling.oc * registers_of(conv, config.block)
    inner, outer = -(-ic // tiling.ic), -(-oc // tiling.oc)
    fixed = 1 if conv.residual else 0
    left = config.depth("wgt") - contexts * tiling.oc - fixed
    weight_slots = left // weights
    # All of the weights if they fit, else all of a tile's, else what is loaded and what is used.
    needed = inner * outer if inner * outer <= weight_slots else contexts * inner
    if tiling.contexts == 1 and inner * outer > weight_slots:
        needed = 1
    data_slots = (config.depth("inp") - 1 - residual) // data
    wanted = contexts * inner if outer > 1 and not tiling.channels_first else max(2, contexts)
    if contexts == 1:
        wanted = 1
    found = Room(
        acc,
        registers,
        data,
        min(data_slots, wanted),
        weights,
        min(weight_slots, needed),
        contexts * tiling.oc,
        residual,
    )
    fits = (
        contexts * acc + registers + junk_size(config.hazard_distance) <= config.depth("acc")
        and found.data_slots >= contexts
        and found.weight_slots >= min(contexts, inner * outer)
    )
    return found if fits else None


def box(extent: Extent, image: int, channels: tuple[int, int], rows: tuple[int, int, int],
        columns: tuple[int, int]) -> list[tuple[Box, int]]:  # fmt: skip
    """DRAM boxes of (first, count) channels, (first, count, step) rows and columns, each with its place."""
    first, count = channels
    top, height, step = rows
    left, width = columns
    if extent.channels_last:
        # One column: every pixel is a row of its own.
        apart = step * extent.channels
        places = [(extent.offset(image, first + c, top, left), c * height) for c in range(count)]
        return [(Box(begin, height, 1, apart), at) for begin, at in places]
    if width == extent.width and step == 1:
        plane = extent.height * extent.width
        return [(Box(extent.offset(image, first, top), count, height * width, plane), 0)]
    return [
        (
            Box(extent.offset(image, first + c, top, left), height, width, step * extent.width),
            c * height * width,
        )
        for c in range(count)
    ]
