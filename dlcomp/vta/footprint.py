"""What an instruction of loops touches, worked out once for all instructions that are alike.

A layer runs the same few instructions over and over, on other data: their indices, the elements that they use
and how they multiply depend on micro-ops and loops alone.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcomp.vta import isa
from dlcomp.vta.arithmetic import indices
from dlcomp.vta.products import Product, products

Indices = npt.NDArray[np.int64]
# Kernels that are remembered; one holds its indices, up to some hundred kilobytes.
_REMEMBERED = 512


@dataclass(frozen=True, eq=False)
class Used:
    """Elements of a scratchpad, from its first on: sorted, as a slice where they are neighbours."""

    where: Indices | slice
    high: int
    count: int

    @staticmethod
    def of(nest: Indices) -> Used:
        """The elements of indices whose least is 0."""
        high = int(nest.max())
        marked = np.zeros(high + 1, np.bool_)
        marked[nest.ravel()] = True
        if marked.all():
            return Used(slice(0, high + 1), high, high + 1)
        where = np.flatnonzero(marked)
        return Used(where, high, len(where))

    def at(self, base: int) -> Indices | slice:
        """The elements where the first one is ``base``."""
        if isinstance(self.where, slice):
            return slice(base, base + self.high + 1)
        return self.where + base


@dataclass(frozen=True, eq=False)
class Footprint:
    """Indices ``(iterations, micro-ops)``, each from 0 on, and what they come to.

    Attributes
    ----------
    parts : list of Product or None
        A GEMM as matrix products, if it is.
    too_close : tuple of (element, steps) or None
        The first accumulator that is written again within the hazard distance.
    once, in_step : bool
        Of an ALU instruction: no element is written twice; source and destination step together.
    """

    dst: Indices
    src: Indices
    wgt: Indices
    used_dst: Used
    used_src: Used
    used_wgt: Used
    parts: list[Product] | None = None
    too_close: tuple[int, int] | None = None
    once: bool = False
    in_step: bool = False


Bases = tuple[int, int, int]


class Footprints:
    """A memory of footprints for one accelerator."""

    def __init__(self, block: int, distance: int) -> None:
        self._block = block
        self._distance = distance
        self._known: dict[Hashable, Footprint] = {}

    def of(self, one: isa.Gemm | isa.Alu, uops: Indices) -> tuple[Footprint, Bases]:
        """The footprint of ``one`` with micro-ops ``(U, 3)``, and the elements that it begins at."""
        base = uops.min(axis=0)
        relative = uops - base
        wgt = (one.wgt_factor_out, one.wgt_factor_in, one.reset) if isinstance(one, isa.Gemm) else None
        dst = (one.dst_factor_out, one.dst_factor_in)
        src = (one.src_factor_out, one.src_factor_in)
        key = (relative.tobytes(), one.iter_out, one.iter_in, dst, src, wgt)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[key] = self._work_out(one, relative)
        return found, (int(base[0]), int(base[1]), int(base[2]))

    def _work_out(self, one: isa.Gemm | isa.Alu, uops: Indices) -> Footprint:
        dst = indices(uops[:, 0], one.dst_factor_out, one.dst_factor_in, one)
        src = indices(uops[:, 1], one.src_factor_out, one.src_factor_in, one)
        used_dst, used_src = Used.of(dst), Used.of(src)
        if not isinstance(one, isa.Gemm):
            once, in_step = used_dst.count == dst.size, np.array_equal(dst, src)
            return Footprint(dst, src, src, used_dst, used_src, used_src, once=once, in_step=in_step)
        wgt = indices(uops[:, 2], one.wgt_factor_out, one.wgt_factor_in, one)
        parts = None if one.reset else products(uops, one, self._block)
        close = _too_close(dst, self._distance)
        return Footprint(dst, src, wgt, used_dst, used_src, Used.of(wgt), parts, close)


def _too_close(dst: Indices, distance: int) -> tuple[int, int] | None:
    flat = dst.ravel()
    for gap in range(1, distance + 1):
        same = flat[gap:] == flat[:-gap]
        if same.any():
            return int(flat[int(np.argmax(same))]), gap
    return None
