"""Copies that exchange the contiguous axis, with whatever element-wise step is fused behind them.

A square tile is read in vectors along the axis that is contiguous in the source, turned in registers by
log2(size) stages of two-operand shuffles, and stored along the axis that is contiguous in the result: every
cache line is touched once on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, s_tir, tirx
from tvm.ir.expr import TensorLoad

from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, local, loop, seq, vload, vstore
from dlcomp.schedules.cpu.tile import lanes_of
from dlcomp.schedules.parallel import parallel_bytes
from dlcomp.schedules.rewrite import UnknownExpression, loads, rewrite, same_index
from dlcomp.target import Target

# Below this a tile of registers is not worth its shuffles.
_LEAST = 4


@dataclass(frozen=True)
class Transposition:
    """A block that stores ``value`` at its own iteration variables and reads ``load`` across.

    ``across`` is the dimension of the result along which ``load``'s source is contiguous.
    """

    store: Any
    variables: Sequence[Any]
    extents: Sequence[int]
    load: Any
    across: int


def find(func: Any) -> Transposition | None:
    """The transposition that ``func`` is; None if it is anything else."""
    sch = s_tir.Schedule(IRModule({"main": func}))
    blocks = [sch.get(ref) for ref in sch.get_child_blocks(sch.get_sblock("root"))]
    if len(blocks) != 1 or not isinstance(blocks[0].body, tirx.BufferStore):
        return None
    block, store = blocks[0], blocks[0].body
    if any(int(v.iter_type) != 0 for v in block.iter_vars) or not same_index(store.indices, block.iter_vars):
        return None
    if not all(isinstance(v.dom.extent, tirx.IntImm) for v in block.iter_vars):
        return None
    variables, extents = [v.var for v in block.iter_vars], [int(v.dom.extent) for v in block.iter_vars]
    try:
        crossing = [(r, a) for r in loads(store.value) if (a := _across(r, variables)) is not None]
    except UnknownExpression:
        return None
    if len(crossing) != 1 or crossing[0][0].source.dtype != "float32" or store.buffer.dtype != "float32":
        return None
    (load, across), *_ = crossing
    return Transposition(store, variables, extents, load, across)


def _across(load: Any, variables: Sequence[Any]) -> int | None:
    """The dimension of the result that is contiguous in what ``load`` reads; None if that is the last one.

    All indices must be plain: then a step along any dimension is the same everywhere.
    """
    places = []
    for index in load.indices:
        place = next((i for i, v in enumerate(variables) if index.same_as(v)), None)
        if place is None and not isinstance(index, tirx.IntImm):
            return None
        places.append(place)
    last = len(variables) - 1
    if not places or places[-1] in (None, last) or last not in places:
        return None
    return places[-1]


def schedule(func: Any, found: Transposition, target: Target) -> Any | None:
    """``func`` by square tiles, as a Schedule; None if a side is too short."""
    last = len(found.extents) - 1
    side = min(lanes_of(target), *(_power_of_two(found.extents[d]) for d in (found.across, last)))
    if side < _LEAST:
        return None
    others = [d for d in range(last) if d != found.across]
    tasks = 1
    for d in others:
        tasks *= found.extents[d]
    down, along = -(-found.extents[found.across] // side), -(-found.extents[last] // side)

    def task(index: Expr) -> Stmt:
        place: dict[int, Expr] = {}
        rest = index // down
        for d in reversed(others):
            place[d] = rest % found.extents[d]
            rest = rest // found.extents[d]
        place[found.across] = _start(index % down, side, found.extents[found.across])

        def tile(t: Expr) -> Stmt:
            return _tile(found, {**place, last: _start(t, side, found.extents[last])}, side)

        return loop("tile", along, tile)

    size = 8
    for extent in found.extents:
        size *= extent
    kind = "parallel" if parallel_bytes(size, target) else "serial"
    body = loop("task", tasks * down, task, kind)
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    return s_tir.Schedule(IRModule({"main": tirx.PrimFunc(func.params, root, func.ret_type, func.attrs)}))


def _power_of_two(extent: int) -> int:
    return 1 << (extent.bit_length() - 1)


def _start(tile: Expr, side: int, extent: int) -> Expr:
    """Where a tile starts; the last one is moved up to be a full one."""
    return tile * side if extent % side == 0 else tirx.min(tile * side, const(extent - side))


def _tile(found: Transposition, place: dict[int, Expr], side: int) -> Stmt:
    last = len(found.extents) - 1
    statements: list[Stmt] = []

    def hold(value: Expr) -> Expr:
        var = tirx.Var("t", f"float32x{side}")
        statements.append(tirx.Bind(var, value))
        return var

    def at(index: Expr, row: int) -> Expr:
        for d, variable in enumerate(found.variables):
            if index.same_as(variable):
                return place[d] + row if d == last else place[d]
        return index

    rows = [hold(vload(found.load.source, [at(i, r) for i in found.load.indices], side)) for r in range(side)]
    turned = local("turned", side * side)
    statements.insert(0, alloc(turned))
    for row, vector in enumerate(turn(rows, hold)):
        statements.append(vstore(turned, vector, [const(row * side)], side))
    for row in range(side):
        statements.append(
            loop("v", side, lambda v, row=row: _store(found, place, turned, row, side, v), "vectorized")
        )
    return seq(statements)


def _store(
    found: Transposition, place: dict[int, Expr], turned: Expr, row: int, side: int, lane: Expr
) -> Stmt:
    last = len(found.extents) - 1
    moved = {**place, found.across: place[found.across] + row, last: place[last] + lane}

    def replace(node: Any) -> Any | None:
        if isinstance(node, TensorLoad) and node.same_as(found.load):
            return tirx.BufferLoad(turned, [const(row * side) + lane])
        if isinstance(node, tirx.Var):
            return next((moved[d] for d, v in enumerate(found.variables) if node.same_as(v)), None)
        return None

    return tirx.BufferStore(
        found.store.buffer,
        rewrite(found.store.value, replace),
        [rewrite(index, replace) for index in found.store.indices],
    )


def turn(rows: list[Expr], hold: Callable[[Expr], Expr]) -> list[Expr]:
    """The columns of a square of vectors: blocks off the diagonal change places, by halves of halves.

    ``hold`` binds a value to a variable.
    """
    side = len(rows)
    step = 1
    while step < side:
        first = [lane if not lane & step else side + lane - step for lane in range(side)]
        second = [lane + step if not lane & step else side + lane for lane in range(side)]
        new = list(rows)
        for low in range(side):
            if low & step:
                continue
            pair = [rows[low], rows[low + step]]
            new[low], new[low + step] = (hold(_shuffle(pair, lanes)) for lanes in (first, second))
        rows = new
        step *= 2
    return rows


def _shuffle(vectors: list[Expr], lanes: list[int]) -> Expr:
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", lane) for lane in lanes])
