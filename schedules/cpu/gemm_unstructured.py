"""Products by constant weights with zeros anywhere: a vector is of rows, a weight a scalar.

A task turns a tile of rows so that a column of it is contiguous, multiplies columns by the single weights
that are left, output after output, and turns the results back on their way out (Elsen et al., *Fast Sparse
ConvNets*, 2019, section 3, whose networks are in that order throughout). For 1x1 convolutions the rows are
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.block_sparse import Operands, definition, multiply, pack
from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, loop, scratch, seq, vload, vstore
from dlcomp.schedules.cpu.gemm import unflatten
from dlcomp.schedules.cpu.tile import bytes_a_cycle, lanes_of, write_back
from dlcomp.schedules.cpu.transpose import turn
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.sparsity import counts
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target

# Bytes a cycle of turned rows from L2: whole lines, mostly one after the other.
_L2_BYTES = 36


class UnstructuredGemm(Template):
    """Knobs: ``rows`` that are turned together, one to four vectors of them."""

    name: ClassVar[str] = "gemm.unstructured"

    def accepts(self, workload: Workload, target: Target) -> bool:
        lanes = lanes_of(target)
        return (
            isinstance(workload, Gemm)
            and target.kind == "cpu"
            and workload.arithmetic == "float32"
            and 1 in counts(workload.stored)
            and lanes >= 4
            and min(workload.m, workload.k) >= lanes
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        lanes = lanes_of(target)
        return [{"rows": lanes * n} for n in (1, 2, 4) if lanes * n <= workload.m]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        wl, rows = workload, knobs["rows"]
        # A step loads a vector of rows, a weight and its offset; 256 bits a load, two loads a cycle.
        stream = rows * 4 / (_L2_BYTES if wl.k * rows * 4 > target.l1_bytes * 3 // 4 else 128)
        stored = counts(wl.stored)[1]
        # All weights, 6 bytes each, pass by for every tile and push the rows out of L1: as if they were 12.
        step = max((rows / 8 + 2) / 2, stream) + 12 / bytes_a_cycle(6 * stored, target)
        a_tile = stored * step + 10 * wl.n + 0.25 * (wl.k + wl.n) * rows
        return -(-wl.m // rows) * a_tile

    def flops(self, workload: Workload, knobs: Knobs) -> int:
        assert isinstance(workload, Gemm)
        return 2 * workload.m * counts(workload.stored)[1]

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """(k, n) as :func:`dlcomp.schedules.cpu.block_sparse.pack` does, in vectors of one output."""
        assert isinstance(workload, Gemm)
        return pack(weight, np.arange(workload.k) * knobs["rows"], 1, shares=1)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Gemm)
        data, *packed = operands

        def at(*indices: Expr) -> Expr:
            *lead, n = indices
            return definition(1, packed, n, lambda offset: data[(*lead, offset // knobs["rows"])])

        shape = (*data.shape[:-1], workload.n)
        return te.compute(shape, at, name="gemm", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        tiles = -(-workload.m // knobs["rows"])
        kind = parallel_kind(self.flops(workload, knobs), target)
        made = _Tile(anchor, workload, knobs["rows"], target)
        return anchor.schedule_of(loop("tile", tiles, made.task, kind))


class _Tile:
    """The code for a tile of rows."""

    def __init__(self, anchor: Anchor, wl: Gemm, rows: int, target: Target) -> None:
        self.anchor, self.wl, self.rows, self.lanes = anchor, wl, rows, lanes_of(target)
        self.target, self.operands = target, Operands.of(anchor)
        self.shape = [int(d) for d in anchor.output.shape[:-1]]
        self.turned = scratch("turned", (wl.k, rows))
        self.sums = scratch("sums", (self.lanes, rows))
        self.result = scratch("result", (self.lanes * self.lanes,))

    def task(self, index: Expr) -> Stmt:
        wl, lanes = self.wl, self.lanes
        first = tirx.min(index * self.rows, const(wl.m - self.rows))
        groups, tail = divmod(wl.n, lanes)
        steps = [alloc(b) for b in (self.turned, self.sums, self.result)]
        steps.append(loop("k", -(-wl.k // lanes), lambda k: self._turn_in(first, k)))
        if groups:
            steps.append(loop("group", groups, lambda g: self._group(first, g * lanes, lanes)))
        if tail:
            steps.append(self._group(first, const(groups * lanes), tail))
        return seq(steps)

    def _turn_in(self, first: Expr, group: Expr) -> Stmt:
        """A few columns of the tile's rows; the last ones are moved up."""
        lanes = self.lanes
        column = tirx.min(group * lanes, const(self.wl.k - lanes))

        def square(part: Expr) -> Stmt:
            def row(r: int) -> Expr:
                lead = unflatten(first + part * lanes + r, self.shape)
                return vload(self.operands.data, [*lead, column], lanes)

            return self._turned(
                [row(r) for r in range(lanes)],
                lambda i, value: vstore(self.turned, value, [column + i, part * lanes], lanes),
            )

        return loop("part", self.rows // lanes, square)

    def _turned(self, rows: list[Expr], store: Any) -> Stmt:
        """The columns of a square, each stored by ``store(number, column)``."""
        statements: list[Stmt] = []

        def hold(value: Expr) -> Expr:
            var = tirx.Var("t", f"float32x{self.lanes}")
            statements.append(tirx.Bind(var, value))
            return var

        columns = turn([hold(row) for row in rows], hold)
        return seq([*statements, *(store(i, column) for i, column in enumerate(columns))])

    def _group(self, first: Expr, column: Expr, count: int) -> Stmt:
        """``count`` outputs from ``column`` on, of all rows."""
        lanes = self.lanes

        def output(o: Expr) -> Stmt:
            parts, body = multiply(
                self.operands,
                column + o,
                (1, self.rows),
                self.target,
                lambda j, offset, at, size: vload(self.turned, [const(0), offset + at], size),
                lambda j, offset, row: tirx.BufferLoad(self.operands.values, [j, const(0)]),
            )
            moves = [
                vstore(self.sums, parts[0].load(0, at, lanes), [o, const(at)], lanes)
                for at in range(0, self.rows, lanes)
            ]
            return seq([*(acc.alloc() for acc in parts), *body, *moves])

        def square(part: Expr) -> Stmt:
            rows = [vload(self.sums, [const(r), part * lanes], lanes) for r in range(lanes)]

            def store(i: int, value: Expr) -> Stmt:
                return vstore(self.result, value, [const(i * lanes)], lanes)

            def write(r: Expr) -> Stmt:
                lead = unflatten(first + part * lanes + r, self.shape)

                def values(offset: int) -> tuple[Expr, Expr]:
                    return self.result, r * lanes + offset

                return write_back(self.anchor, values, count, lanes, lead, column)

            return seq([self._turned(rows, store), loop("r", lanes, write)])

        return seq([loop("o", count, output), loop("part", self.rows // lanes, square)])
