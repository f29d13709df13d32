"""What no template claims: element-wise chains, data movement and reductions.

Intermediate element-wise blocks are inlined, the outer loops are shared among the cores where the
work repays it, and the innermost contiguous loop is vectorized. A reduction along the contiguous
axis gets a vector of partial results; one across it keeps the contiguous axis innermost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import IRModule, s_tir, tirx

from dlcomp.schedules.cpu.open_small import either
from dlcomp.schedules.cpu.tile import lanes_of
from dlcomp.schedules.parallel import parallel_bytes
from dlcomp.schedules.rewrite import UnknownExpression, loads
from dlcomp.target import Target

_SPATIAL, _REDUCE = 0, 2
# An odd number larger than twice the width of any vector.
_OPEN = 1021


def schedule(func: Any, target: Target) -> Any:
    """``func`` with every block vectorized and parallelised as far as it goes, as a Schedule.

    Of open sizes, the run decides whether the cores share the work.
    """
    shared = _scheduled(func, target)
    if target.cores == 1 or not any(_is_open(param) for param in func.params):
        return shared
    return either(shared, _scheduled(func, replace(target, cores=1)))


def _is_open(param: Any) -> bool:
    return hasattr(param, "shape") and not all(isinstance(extent, tirx.IntImm) for extent in param.shape)


def _scheduled(func: Any, target: Target) -> Any:
    sch = s_tir.Schedule(IRModule({"main": func}))
    _inline(sch)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        try:
            _block(sch, block, target)
        except s_tir.ScheduleError:
            continue  # a block of a form that cannot be vectorized stays a plain loop nest
    return sch


def _inline(sch: Any) -> None:
    """Inlines cheap element-wise producers into their consumers, first to last."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        node = sch.get(block)
        if any(int(v.iter_type) != _SPATIAL for v in node.iter_vars):
            continue
        consumers = sch.get_consumers(block)
        if not consumers or (len(consumers) > 1 and _is_costly(node)):
            continue
        reduces = any(int(v.iter_type) == _REDUCE for c in consumers for v in sch.get(c).iter_vars)
        if reduces and _is_costly(node):
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            continue


def _is_costly(block: Any) -> bool:
    """Whether evaluating the block's expression twice would hurt: it calls a function or reads much."""
    store = block.body
    if not isinstance(store, tirx.BufferStore):
        return True
    text = str(store.value)
    if "exp" in text or "reinterpret" in text or "erf" in text or "/" in text or "pow" in text:
        return True
    try:
        return sum(1 for _ in loads(store.value)) > 3
    except UnknownExpression:
        return True


def _block(sch: Any, block: Any, target: Target) -> None:
    node = sch.get(block)
    kinds = [int(v.iter_type) for v in node.iter_vars]
    if any(k not in (_SPATIAL, _REDUCE) for k in kinds):
        return
    loops = sch.get_loops(block)
    if len(loops) != len(kinds):
        return
    # An open extent counts as large, and as one that no vector divides.
    extents = [int(e) if isinstance(e := v.dom.extent, tirx.IntImm) else _OPEN for v in node.iter_vars]
    size = 4 * _product(extents)
    if _REDUCE in kinds:
        _reduction(sch, block, loops, kinds, extents, size, target)
    else:
        _spatial(sch, loops, extents, size, target)


def _spatial(sch: Any, loops: list[Any], extents: list[int], size: int, target: Target) -> None:
    if not loops:
        return
    lanes = 2 * lanes_of(target)
    inner = loops[-1]
    outer = loops[:-1]
    if extents[-1] % lanes == 0 and extents[-1] > lanes:
        head, inner = sch.split(inner, [None, lanes])
        outer = [*outer, head]
    elif extents[-1] > 4 * lanes and not outer:
        head, inner = sch.split(inner, [None, 16 * lanes])
        outer = [head]
        if parallel_bytes(size, target):
            sch.parallel(head)
        return
    if outer and parallel_bytes(size, target):
        _share(sch, outer, extents)
    if extents[-1] > 1 and (extents[-1] <= 2 * lanes or extents[-1] % lanes == 0):
        sch.vectorize(inner)


def _share(sch: Any, outer: list[Any], extents: list[int]) -> None:
    """Shares the outer loops among the cores: fused, or one of them if their extents are open."""
    if _OPEN not in extents[: len(outer)]:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
        return
    # The first is often a batch of one.
    sch.parallel(outer[min(1, len(outer) - 1)])


def _reduction(
    sch: Any, block: Any, loops: list[Any], kinds: list[int], extents: list[int], size: int, target: Target
) -> None:
    lanes = lanes_of(target)
    spatial = [(lp, e) for lp, k, e in zip(loops, kinds, extents, strict=True) if k == _SPATIAL]
    reduce = [(lp, e) for lp, k, e in zip(loops, kinds, extents, strict=True) if k == _REDUCE]
    share = parallel_bytes(size, target)
    contiguous_is_reduced = _last_read_axis_is_reduced(sch.get(block))
    if not contiguous_is_reduced and spatial and spatial[-1][1] > 1:
        *outer, (channel, extent) = spatial
        width = next((w for w in (4 * lanes, 2 * lanes, lanes) if extent % w == 0), 0)
        order = [lp for lp, _ in outer]
        if width:
            head, vector = sch.split(channel, [None, width])
            order.append(head)
        else:
            vector = channel
        sch.reorder(*order, *[lp for lp, _ in reduce], vector)
        if order and share:
            _share(sch, order, [e for _, e in spatial])
        init = sch.decompose_reduction(block, reduce[0][0])
        if width:
            sch.vectorize(vector)
            sch.vectorize(sch.get_loops(init)[-1])
        return
    order = [lp for lp, _ in spatial]
    if any(e in (0, _OPEN) for _, e in reduce):
        # The result of no terms must be set too: not within the loop over them.
        sch.reorder(*order, *[lp for lp, _ in reduce])
        sch.decompose_reduction(block, reduce[0][0])
    if order and share:
        _share(sch, order, [e for _, e in spatial])
    last, extent = reduce[-1]
    width = next((w for w in (2 * lanes, lanes) if extent % w == 0 and extent > w), 0)
    if not width or not contiguous_is_reduced or 0 in [e for _, e in reduce]:
        return
    _, vector = sch.split(last, [None, width])
    partial = sch.rfactor(vector, 0)
    outer_of_final = sch.get_loops(block)
    spatial_count = len(outer_of_final) - 1
    if spatial_count:
        sch.compute_at(partial, outer_of_final[spatial_count - 1])
    partial_loops = sch.get_loops(partial)
    # rfactor put the vector among the spatial loops of the partial block; bring it innermost.
    extents_of_partial = [(lp, sch.get(lp).extent) for lp in partial_loops[spatial_count:]]
    lane_loop = next(lp for lp, e in extents_of_partial if isinstance(e, tirx.IntImm) and int(e) == width)
    reduce_loops = [lp for lp in partial_loops[spatial_count:] if not sch.get(lp).same_as(sch.get(lane_loop))]
    if reduce_loops:
        sch.reorder(*reduce_loops, lane_loop)
        init = sch.decompose_reduction(partial, reduce_loops[0])
        sch.vectorize(sch.get_loops(init)[-1])
    sch.vectorize(lane_loop)


def _last_read_axis_is_reduced(block: Any) -> bool:
    """Whether the fastest axis of what is reduced is itself reduced."""
    reduced = [v.var for v in block.iter_vars if int(v.iter_type) == _REDUCE]
    for region in block.reads:
        if region.region and any(region.region[-1].min.same_as(v) for v in reduced):
            return True
    return False


def _product(values: list[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
