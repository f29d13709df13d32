"""Minimal filtering of images of a size that only the run knows, by the code of ``conv2d.winograd``.

The grid of tiles is that of the size of the run, so that a pixel's value does not depend on how the tiles
are shared among tasks; the last group is moved up to be a full one, and an image of fewer tiles than a group
has leaves out the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tvm import tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, open_loop, seq
from dlcomp.schedules.cpu.open_runs import shared
from dlcomp.schedules.cpu.tile import lanes_of
from dlcomp.schedules.cpu.winograd import TileGroup, WinogradConv2d, tiles_along
from dlcomp.schedules.template import Knobs
from dlcomp.schedules.workload import Conv2d, Workload
from dlcomp.target import Target

# What the estimate takes the height and the width of an image for.
_LINE = 64


class OpenWinogradConv2d(WinogradConv2d):
    """A 3x3 convolution of stride 1 over a padded image of open size; knobs as ``conv2d.winograd``'s."""

    name: ClassVar[str] = "conv2d.open_winograd"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return isinstance(workload, Conv2d) and workload.ow == 0 and super().accepts(_sized(workload), target)

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        return super().space(_sized(workload), target)

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        return super().estimate(_sized(workload), knobs, target)

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        tiles = knobs["tiles"]
        _, h, w, _ = anchor.inputs[0].shape
        images, oh, ow, _ = anchor.output.shape
        total = images * tiles_along(oh, knobs["m"]) * tiles_along(ow, knobs["m"])

        def task(index: Expr) -> Stmt:
            first, present = (tirx.Var(name, "int64") for name in ("first", "present"))
            group = TileGroup(anchor, workload, knobs, lanes_of(target), first, (h, w, oh, ow), present)
            start = tirx.max(const(0), tirx.min(index * tiles, total - tiles))
            number = tirx.min(const(tiles), total)
            return seq([tirx.Bind(first, start), tirx.Bind(present, number), group.statement()])

        count = tirx.floordiv(total + (tiles - 1), const(tiles))
        return anchor.schedule_of(open_loop("task", count, task, shared(target)))


def _sized(wl: Conv2d) -> Conv2d:
    """One image of a middle size."""
    return replace(wl, n=1, h=_LINE + wl.kh - 1, w=_LINE + wl.kw - 1, oh=_LINE, ow=_LINE)
