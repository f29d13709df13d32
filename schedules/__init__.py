"""TensorIR schedules, by target then operator, and the dispatch over them.

``select`` asks the templates in order which of them takes a workload; ``schedule`` turns a fused
function into a ``tvm.s_tir.Schedule`` by the template that its block names, or by the default.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, s_tir

from dlcomp.schedules import anchor as anchors
from dlcomp.schedules.cpu import default, transpose
from dlcomp.schedules.cpu.conv2d import DirectConv2d
from dlcomp.schedules.cpu.conv2d_sparse import SparseConv2d
from dlcomp.schedules.cpu.conv2d_sparse_integers import SparseIntegerConv2d
from dlcomp.schedules.cpu.depthwise_int8 import IntegerDepthwise
from dlcomp.schedules.cpu.gemm import DirectBatchMatmul, PackedGemm
from dlcomp.schedules.cpu.gemm_blocked import BlockedMatmul
from dlcomp.schedules.cpu.gemm_coded import CodedGemm
from dlcomp.schedules.cpu.gemm_sparse import SparseGemm
from dlcomp.schedules.cpu.gemm_sparse_integers import SparseIntegerGemm
from dlcomp.schedules.cpu.gemm_unstructured import UnstructuredGemm
from dlcomp.schedules.cpu.im2col import Im2colConv2d
from dlcomp.schedules.cpu.open_gemm import OpenGemm, OpenMatmul
from dlcomp.schedules.cpu.open_shapes import OpenConv2d, OpenWindow2d
from dlcomp.schedules.cpu.open_winograd import OpenWinogradConv2d
from dlcomp.schedules.cpu.strassen import StrassenMatmul
from dlcomp.schedules.cpu.window2d import DirectWindow2d
from dlcomp.schedules.cpu.winograd import WinogradConv2d
from dlcomp.schedules.rewrite import UnknownExpression
from dlcomp.schedules.template import Knobs, Template
from dlcomp.schedules.workload import ANNOTATION, KNOBS, Workload, from_text, to_text
from dlcomp.target import Target

TEMPLATES: tuple[Template, ...] = (
    DirectConv2d(),
    WinogradConv2d(),
    Im2colConv2d(),
    PackedGemm(),
    SparseConv2d(),
    SparseIntegerConv2d(),
    SparseGemm(),
    SparseIntegerGemm(),
    UnstructuredGemm(),
    CodedGemm(),
    DirectBatchMatmul(),
    BlockedMatmul(),
    StrassenMatmul(),
    DirectWindow2d(),
    IntegerDepthwise(),
    OpenConv2d(),
    OpenWinogradConv2d(),
    OpenGemm(),
    OpenMatmul(),
    OpenWindow2d(),
)

# Taken only where that was asked for: one that loses digits, and the baseline of convolutions.
ON_REQUEST = frozenset({"matmul.strassen", "conv2d.im2col"})

# Those that lose digits.
WINOGRAD = ("conv2d.winograd", "conv2d.open_winograd")

# Those that skip zeros of stored weights.
SPARSE = (
    "conv2d.block_sparse",
    "conv2d.block_sparse_integers",
    "gemm.block_sparse",
    "gemm.block_sparse_integers",
    "gemm.unstructured",
)

# What a database says: for a workload's text, names of templates and their knobs, best first.
Records = Mapping[str, Sequence[tuple[str, Knobs]]]

_ADDED: list[Template] = []


def templates() -> tuple[Template, ...]:
    """All templates: those of dlcomp, then those that :func:`register` added."""
    return (*TEMPLATES, *_ADDED)


def register(template: Template) -> None:
    """Add a template of one's own; it competes with the others in this process."""
    _ADDED.append(template)


@dataclass(frozen=True)
class Scheduled:
    """A scheduled function, who did it, for what workload, and in how many operations.

    The label is ``template{knobs}``, with the arithmetic if it is not float32 and the share of the
    multiplications that is left if zeros are skipped, followed by `` tuned`` if a database chose it; else
    ``default``.
    """

    schedule: Any
    label: str
    workload: Workload | None = None
    flops: int = 0


def select(
    workload: Workload, target: Target, without: Collection[str] = ON_REQUEST, records: Records | None = None
) -> tuple[Template, Knobs] | None:
    """The template and the knobs for ``workload``: by ``records``, else those that the estimates like best.

    Templates named in ``without`` are not asked, and a record that is no longer in its template's
    space does not count.
    """
    asked = [t for t in templates() if t.name not in without and t.accepts(workload, target)]
    if records and (recorded := records.get(to_text(workload))):
        by_name = {t.name: t for t in asked}
        for name, knobs in recorded:
            for setting in by_name[name].space(workload, target) if name in by_name else ():
                if setting == knobs:
                    return by_name[name], setting
    chosen = [(t, t.choose(workload, target)) for t in asked]
    if not chosen:
        return None
    return min(chosen, key=lambda choice: choice[0].estimate(workload, choice[1], target))


def schedule(func: Any, target: Target, records: Records | None = None) -> Scheduled:
    """The schedule of a fused function; ``records`` are those that :func:`select` was given.

    Extern calls and loops that were written by hand (sorts, scatters) have no blocks to schedule; they
    stay as they are.
    """
    if not _has_blocks(func):
        whole = s_tir.Schedule(IRModule({"main": func}))
        if ANNOTATION in func.attrs:  # a kernel that was written for its workload
            written = from_text(str(func.attrs[ANNOTATION]))
            return Scheduled(whole, str(func.attrs[KNOBS]), written, written.flops)
        return Scheduled(whole, "none")
    found = anchors.find(func)
    if found is not None:
        knobs = json.loads(found.knobs)
        name = knobs.pop("template")
        template = next(t for t in templates() if t.name == name)
        workload = from_text(found.workload)
        try:
            settings = ",".join(f"{k}={v}" for k, v in knobs.items())
            kind = getattr(workload, "arithmetic", "float32")
            settings += "" if kind == "float32" else f",{kind}"
            flops = template.flops(workload, knobs)
            settings += "" if flops == workload.flops else f",density={flops / workload.flops:.2f}"
            tuned = " tuned" if records and (name, knobs) in records.get(found.workload, ()) else ""
            made = template.schedule(found, workload, knobs, target)
            return Scheduled(made, f"{name}{{{settings}}}{tuned}", workload, flops)
        except UnknownExpression:
            pass  # an epilogue that cannot be taken apart: the operator's definition still runs
    crossing = transpose.find(func)
    turned = transpose.schedule(func, crossing, target) if crossing else None
    if turned is not None:
        return Scheduled(turned, "transpose.tiled")
    return Scheduled(default.schedule(func, target), "default")


def _has_blocks(func: Any) -> bool:
    return isinstance(func.body, s_tir.SBlockRealize) and func.body.block.name_hint == "root"
