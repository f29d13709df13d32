"""Products whose rows, columns or depth have a size that only the run knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tvm import tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.coding import is_coded
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, narrowest
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, dynamic_loop, loop, open_loop, seq, vload
from dlcomp.schedules.cpu.gemm import DirectBatchMatmul, PackedGemm, aligned
from dlcomp.schedules.cpu.open_runs import heights, open_index, runs, shared
from dlcomp.schedules.cpu.open_small import is_large
from dlcomp.schedules.cpu.tile import (
    SHORT_EPILOGUE,
    Accumulators,
    by_block,
    lanes_of,
    multiply_accumulate,
    tile_cycles,
    tile_shapes,
    write_rows,
)
from dlcomp.schedules.template import Knobs
from dlcomp.schedules.workload import BatchMatmul, Gemm, Workload
from dlcomp.target import Target

# What the estimates take an open extent for: the rows of a batch of texts, and one text.
_ROWS, _LENGTH = 1024, 64


class OpenGemm(PackedGemm):
    """An open number of rows by a packed constant (k, n), in floats or integers.

    Knobs: ``rows`` and ``width`` of the tile.
    """

    name: ClassVar[str] = "gemm.open"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Gemm)
            and workload.m == 0
            and target.kind == "cpu"
            and not is_coded(workload.arithmetic)
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        shapes = tile_shapes(target, _ROWS, workload.n, narrowest(workload.arithmetic))
        return [{"rows": rows, "width": width} for rows, width in shapes]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        typical = Gemm(_ROWS, workload.n, workload.k, workload.arithmetic)
        return super().estimate(typical, {**knobs, "chunk": 8}, target)

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        width, lanes = knobs["width"], lanes_of(target)
        arithmetic = arithmetic_of(workload.arithmetic)
        steps = workload.k // arithmetic.group
        data, packed = anchor.inputs
        blocks = -(-workload.n // width)
        lead = list(anchor.output.shape[:-1])
        m = tirx.Var("m", "int64")

        def tile(first: Expr, rows: int, block: Expr) -> Stmt:
            places = [tirx.Var("row", "int64") for _ in range(rows)]
            bound = [tirx.Bind(place, first + r) for r, place in enumerate(places)]
            acc = Accumulators(rows, width, arithmetic.sums)

            def step(k: Expr) -> Stmt:
                return multiply_accumulate(
                    acc,
                    range(rows),
                    lanes,
                    lambda offset, size: arithmetic.vector(packed, [block, k, const(offset)], size),
                    lambda r: arithmetic.scalar(data, [*open_index(places[r], lead), k]),
                    arithmetic,
                )

            def store(valid: int) -> Stmt:
                return write_rows(
                    anchor, acc, valid, lanes, lambda r: open_index(first + r, lead), block * width
                )

            stores = by_block(block, workload.n, width, store)
            zero = acc.clear(lanes, arithmetic.zero)
            return seq([*bound, acc.alloc(), zero, loop("k", steps, step), stores])

        # A chunk of rows is a task; every chunk passes over all weights.
        chunk = knobs["rows"] * max(1, min(8, target.l2_bytes // 4 // (knobs["rows"] * steps * 4)))
        count = tirx.floordiv(m + (chunk - 1), const(chunk))
        # Few rows are one chunk, so the cores share the columns too.
        per = -(-blocks // min(target.cores, blocks))
        parts = -(-blocks // per)
        tall = heights(knobs["rows"])
        if anchor.operations <= SHORT_EPILOGUE:
            # Every height has a copy of what is behind the sums; where that is little, one more is worth it.
            tall = sorted({*tall, -(-2 * knobs["rows"] // 3)})

        def task(index: Expr) -> Stmt:
            begin = tirx.floordiv(index, const(parts)) * chunk
            first = tirx.floormod(index, const(parts)) * per
            extent = tirx.Var("extent", "int64")
            sized = tirx.Bind(extent, tirx.min(const(chunk), m - begin))

            def columns(block: Expr) -> Stmt:
                return runs(
                    extent,
                    tall,
                    lambda rows: tile_cycles(rows, width, target),
                    lambda x, size: tile(begin + x, size, block),
                )

            number = const(per) if blocks % parts == 0 else tirx.min(const(per), const(blocks) - first)
            return seq([sized, dynamic_loop("block", first, number, columns)])

        body = open_loop("task", count * parts, task, shared(target))
        return anchor.schedule_of(seq([tirx.Bind(m, _product(lead)), body]))


class OpenMatmul(DirectBatchMatmul):
    """Products of two run-time operands of which any size may be open: attention over texts of any length.

    Knobs: ``rows`` and ``width`` of the tile.
    """

    name: ClassVar[str] = "matmul.open"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return isinstance(workload, BatchMatmul) and workload.flops == 0 and target.kind == "cpu"

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        return super().space(_typical(workload), target)

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        return super().estimate(_typical(workload), knobs, target)

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        left, right = anchor.inputs
        lanes, zero = lanes_of(target), tirx.const(0, "float32")
        *lead, m, n = anchor.output.shape
        k = left.shape[-1]
        chunk = 8 * knobs["rows"]
        chunks = tirx.Var("chunks", "int64")
        widths = sorted({knobs["width"], min(knobs["width"], lanes), 1})

        def tile(batch: list[Expr], first: Expr, rows: int, column: Expr, width: int) -> Stmt:
            a_batch, b_batch = aligned(batch, left.shape[:-2]), aligned(batch, right.shape[:-2])
            acc = Accumulators(rows, width)

            def step(at: Expr) -> Stmt:
                return multiply_accumulate(
                    acc,
                    range(rows),
                    lanes,
                    lambda offset, size: vload(right, [*b_batch, at, column + offset], size),
                    lambda r: tirx.BufferLoad(left, [*a_batch, first + r, at]),
                )

            stores = write_rows(anchor, acc, width, lanes, lambda r: [*batch, first + r], column)
            return seq([acc.alloc(), acc.clear(lanes, zero), open_loop("k", k, step), stores])

        def task(index: Expr, tall: Sequence[int]) -> Stmt:
            names = [tirx.Var("b", "int64") for _ in lead]
            batch = open_index(tirx.floordiv(index, chunks), lead) if lead else []
            begin, extent = tirx.Var("begin", "int64"), tirx.Var("extent", "int64")
            bound = [tirx.Bind(name, place) for name, place in zip(names, batch, strict=True)]
            bound.append(tirx.Bind(begin, tirx.floormod(index, chunks) * chunk))
            bound.append(tirx.Bind(extent, tirx.min(const(chunk), m - begin)))

            def rows_of(column: Expr, width: int) -> Stmt:
                # Code for all heights pays off at the full width only.
                return runs(
                    extent,
                    tall if width == knobs["width"] else tall[:2],
                    lambda rows: tile_cycles(rows, width, target),
                    lambda x, rows: tile(names, begin + x, rows, column, width),
                )

            columns = runs(n, widths, lambda w: tile_cycles(knobs["rows"], w, target), rows_of)
            return seq([*bound, columns])

        parts = tirx.Bind(chunks, tirx.floordiv(m + (chunk - 1), const(chunk)))
        count = _product(lead) * chunks
        tall = heights(knobs["rows"])
        body = open_loop("task", count, lambda index: task(index, tall), shared(target))
        large = is_large([left, right, anchor.output])
        if target.cores > 1 and not isinstance(large, tirx.IntImm):
            alone = open_loop("task", count, lambda index: task(index, tall[:2]))
            body = tirx.IfThenElse(large, body, alone)
        return anchor.schedule_of(seq([parts, body]))


def _typical(workload: Workload) -> BatchMatmul:
    """``workload`` with the length of a text for everything that is open."""
    assert isinstance(workload, BatchMatmul)
    return BatchMatmul(*(size or _LENGTH for size in (workload.batch, workload.m, workload.n, workload.k)))


def _product(extents: Sequence[Expr]) -> Expr:
    return math.prod(extents, start=const(1))
