"""TensorIR schedules, by target then operator, and the dispatch over them.

``select`` asks the templates in order which of them takes a workload; ``schedule`` turns a fused
function into a ``tvm.s_tir.Schedule`` by the template that its block names, or by the default.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, s_tir

from dlcomp.schedules import anchor as anchors
from dlcomp.schedules.cpu import default, transpose
from dlcomp.schedules.cpu.conv2d import DirectConv2d
from dlcomp.schedules.cpu.gemm import DirectBatchMatmul, PackedGemm
from dlcomp.schedules.cpu.gemm_blocked import BlockedGemm, BlockedMatmul
from dlcomp.schedules.cpu.window2d import DirectWindow2d
from dlcomp.schedules.cpu.winograd import WinogradConv2d
from dlcomp.schedules.rewrite import UnknownExpression
from dlcomp.schedules.template import Knobs, Template
from dlcomp.schedules.workload import Workload, from_text
from dlcomp.target import Target

TEMPLATES: tuple[Template, ...] = (
    DirectConv2d(),
    WinogradConv2d(),
    PackedGemm(),
    BlockedGemm(),
    DirectBatchMatmul(),
    BlockedMatmul(),
    DirectWindow2d(),
)


@dataclass(frozen=True)
class Scheduled:
    """A scheduled function, who did it (``template{knobs}`` or ``default``), and for what workload."""

    schedule: Any
    label: str
    workload: Workload | None = None


def select(
    workload: Workload, target: Target, without: Collection[str] = ()
) -> tuple[Template, Knobs] | None:
    """The template and the knobs that the estimates like best among those that accept ``workload``.

    Templates named in ``without`` are not asked.
    """
    asked = [t for t in TEMPLATES if t.name not in without and t.accepts(workload, target)]
    chosen = [(t, t.choose(workload, target)) for t in asked]
    if not chosen:
        return None
    return min(chosen, key=lambda choice: choice[0].estimate(workload, choice[1], target))


def schedule(func: Any, target: Target) -> Scheduled:
    """The schedule of a fused function.

    Extern calls and loops that were written by hand (sorts, scatters) have no blocks to schedule; they
    stay as they are.
    """
    if not _has_blocks(func):
        return Scheduled(s_tir.Schedule(IRModule({"main": func})), "none")
    found = anchors.find(func)
    if found is not None:
        knobs = json.loads(found.knobs)
        name = knobs.pop("template")
        template = next(t for t in TEMPLATES if t.name == name)
        workload = from_text(found.workload)
        try:
            settings = ",".join(f"{k}={v}" for k, v in knobs.items())
            return Scheduled(
                template.schedule(found, workload, knobs, target), f"{name}{{{settings}}}", workload
            )
        except UnknownExpression:
            pass  # an epilogue that cannot be taken apart: the operator's definition still runs
    crossing = transpose.find(func)
    turned = transpose.schedule(func, crossing, target) if crossing else None
    if turned is not None:
        return Scheduled(turned, "transpose.tiled")
    return Scheduled(default.schedule(func, target), "default")


def _has_blocks(func: Any) -> bool:
    return isinstance(func.body, s_tir.SBlockRealize) and func.body.block.name_hint == "root"
