"""Kernels of open sizes that share their work only where there is enough of it, which the run knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import IRModule, s_tir, tirx

from dlcomp.schedules.cpu.emit import Expr, const
from dlcomp.schedules.parallel import LEAST_BYTES


def is_large(buffers: Sequence[Any]) -> Expr:
    """Whether moving ``buffers`` repays waking the other cores: a constant where their fixed sizes decide."""
    known, rest = 0, []
    for buffer in buffers:
        item = np.dtype(str(buffer.dtype)).itemsize
        total = const(max(1, item))
        for extent in buffer.shape:
            total = total * extent
        if isinstance(total, tirx.IntImm):
            known += int(total)
        else:
            rest.append(total)
    if known >= LEAST_BYTES or not rest:
        return tirx.const(known >= LEAST_BYTES, "bool")
    moved: Any = const(known)
    for total in rest:
        moved = moved + total
    return moved >= const(LEAST_BYTES)


def either(shared: Any, alone: Any) -> Any:
    """One schedule out of two of a function: the first where its parameters are large, else the second."""
    first, second = shared.mod["main"], alone.mod["main"]
    condition = is_large([p for p in first.params if hasattr(p, "shape")])
    # TVM takes what both branches compute of sizes out of them, and cannot analyse it where it is a float, as
    # the ratios of a resized image are.
    if isinstance(condition, tirx.IntImm) or not shares(shared) or 'Cast("float' in str(first):
        return shared
    roots = [func.body.block for func in (first, second)]
    buffers: list[Any] = []
    for buffer in (b for root in roots for b in root.alloc_buffers):
        if not any(buffer.same_as(b) for b in buffers):
            buffers.append(buffer)
    body = tirx.IfThenElse(condition, *(root.body for root in roots))
    block = s_tir.SBlock([], [], [], "root", body, alloc_buffers=buffers)
    root = s_tir.SBlockRealize([], True, block)
    func = tirx.PrimFunc(first.params, root, first.ret_type, first.attrs)
    return s_tir.Schedule(s_tir.transform.ConvertSSA()(IRModule({"main": func})))


def shares(schedule: Any) -> bool:
    """Whether a loop of a schedule is shared among the cores."""
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    loops = [schedule.get(loop) for block in blocks for loop in schedule.get_loops(block)]
    return any(loop.kind == tirx.ForKind.PARALLEL for loop in loops)
