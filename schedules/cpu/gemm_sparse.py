"""Products by constant weights of which whole vectors of outputs are zeros (``16x1`` of ``Sparsify``).

What is stored and how a tile multiplies by it is in :mod:`dlcomp.schedules.cpu.block_sparse`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.block_sparse import (
    Operands,
    definition,
    is_blocked,
    pack,
    tile,
    tile_estimate,
    tile_heights,
)
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop
from dlcomp.schedules.cpu.gemm import unflatten
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.sparsity import counts
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target


class SparseGemm(Template):
    """Knobs: ``rows`` of a register tile, ``width`` of a block, ``chunk`` (the row tiles that pass over all
    weights before the next ones do), ``shares`` (the cores among which blocks are dealt by their vectors).
    """

    name: ClassVar[str] = "gemm.block_sparse"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Gemm)
            and target.kind == "cpu"
            and workload.m > 0
            and workload.arithmetic == "float32"
            and is_blocked(workload.stored)
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        return [
            {"rows": rows, "width": width, "chunk": chunk, "shares": target.cores}
            for rows, width in tile_heights(workload.m, workload.stored, target)
            for chunk in sorted({1, -(-workload.m // rows)})
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        rows, width, chunk = knobs["rows"], knobs["width"], knobs["chunk"]
        stored = counts(workload.stored)[width]
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        # In a chunk every tile of rows reads the same block, else all of them in turn.
        values = stored * width * 4 // (blocks if chunk > 1 else 1)
        inputs = rows * workload.k * 4 * chunk
        a_tile = tile_estimate(stored / blocks, workload.k, rows, width, values, inputs, target)
        # Rows at a multiple of 4096 bytes are all in the same few sets of L1, of eight lines each.
        places = 4096 // math.gcd(workload.k * 4, 4096)
        crowding = 0.5 * rows if rows > 10 * places else 0.0
        return tiles * (blocks * a_tile + stored * crowding)

    def flops(self, workload: Workload, knobs: Knobs) -> int:
        assert isinstance(workload, Gemm)
        return 2 * workload.m * counts(workload.stored)[knobs["width"]] * knobs["width"]

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """(k, n) as :func:`dlcomp.schedules.cpu.block_sparse.pack` does."""
        assert isinstance(workload, Gemm)
        return pack(weight, np.arange(workload.k), knobs["width"], knobs["shares"])

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Gemm)
        data, *packed = operands

        def at(*indices: Expr) -> Expr:
            *lead, n = indices
            return definition(knobs["width"], packed, n, lambda k: data[(*lead, k)])

        shape = (*data.shape[:-1], workload.n)
        return te.compute(shape, at, name="gemm", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        rows, width, chunk = knobs["rows"], knobs["width"], knobs["chunk"]
        operands = Operands.of(anchor)
        tiles, blocks = -(-workload.m // rows), operands.blocks
        chunks = -(-tiles // chunk)
        lead_shape = [int(d) for d in anchor.output.shape[:-1]]

        def task(index: Expr) -> Stmt:
            place = index // chunk % blocks
            row_tile = index // (chunk * blocks) * chunk + index % chunk
            first = tirx.min(row_tile * rows, const(workload.m - rows))
            return tile(
                anchor,
                operands,
                place,
                rows,
                width,
                workload.n,
                target,
                lambda r, k: tirx.BufferLoad(operands.data, [*unflatten(first + r, lead_shape), k]),
                lambda r: unflatten(first + r, lead_shape),
            )

        kind = parallel_kind(self.flops(workload, knobs), target)
        return anchor.schedule_of(loop("task", chunks * blocks * chunk, task, kind))
