"""Products of floats by constant weights that stay integers in memory: of 4 or 8 bits, or of a codebook.

What limits a product of few rows is what it reads (Lin et al. 2024, "AWQ", section 4.1), which is a quarter
or an eighth of float32's: there a weight becomes a float in a register, where a tile needs it. Of many rows
the tiles share a panel of weights that became floats once.

The sum of a group is that of inputs times integers, those of 4 bits times 2^28, where they lie in a word
without being moved down; it overflows for inputs beyond 10^28, where products with scaled weights need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.coding import Codebook, coding_of, is_coded
from dlcomp.schedules.cpu import coded_weights, shared_weights
from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, loop, scratch, seq, vload
from dlcomp.schedules.cpu.gemm import colliding, unflatten
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    bytes_a_cycle,
    lanes_of,
    multiply_accumulate,
    pieces,
    tile_cycles,
    tile_shapes,
    write_rows,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target

# Instructions that make a vector of floats of integers, and how many are done in a cycle beside others.
_DECODING = {8: 2, 4: 3}
_ISSUED = 3.0
# Two ports take those of 512 bits.
_ISSUED_512 = 2.0
# Cycles of such an instruction that multiplications do not hide.
_BESIDE = 0.12
# Columns that only fill a panel take memory: of settings that are about as fast, the one with fewer.
_EMPTY = 0.05


class CodedGemm(Template):
    """(..., k) by a constant (k, n) of integers with scales.

    Knobs: ``rows`` and ``width`` of the register tile; ``chunk``, the row tiles that share a panel of floats,
    1 for none.
    """

    name: ClassVar[str] = "gemm.coded"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Gemm)
            and target.kind == "cpu"
            and workload.m > 0
            and is_coded(workload.arithmetic)
            and (workload.arithmetic[0] != "c" or shared_weights.is_known(target))
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        settings = []
        for rows, width in self._tiles(workload, target):
            tiles = -(-workload.m // rows)
            fits = workload.k * width * 4 <= target.l2_bytes // 2
            shared = {-(-tiles // parts) for parts in (1, 2, target.cores, 2 * target.cores)}
            chunks = {1, *shared} if fits else {1}
            settings += [{"rows": rows, "width": width, "chunk": chunk} for chunk in sorted(chunks)]
        return settings

    def _tiles(self, workload: Gemm, target: Target) -> list[tuple[int, int]]:
        """Register tiles; words are in registers beside the sums of a wide one, as codebooks are."""
        coding, lanes, registers = coding_of(workload.arithmetic), lanes_of(target), target.vector_registers
        if isinstance(coding, Codebook):
            shapes = [s for s in tile_shapes(target, workload.m, workload.n, lanes) if s[1] % lanes == 0]
            tables = max(1, 2**coding.bits // lanes)
            free = registers - 3 - min(tables, registers // 2)
            return [(r, w) for r, w in shapes if (r + 1) * w // lanes <= free] or [(1, lanes)]
        shapes = tile_shapes(target, workload.m, workload.n)
        if coding.bits == 8:
            return shapes
        most = lanes * (registers - 4) // 2
        return [(rows, width) for rows, width in shapes if rows > 1 or width <= most]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        rows, width, chunk = knobs["rows"], knobs["width"], knobs["chunk"]
        coding, k = coding_of(workload.arithmetic), workload.k
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        vectors = len(pieces(width, lanes_of(target)))
        shared = isinstance(coding, Codebook)
        decoding = shared_weights.instructions(coding, lanes_of(target)) if shared else _DECODING[coding.bits]
        stored = width * (32 / coding.in_a_word if shared else coding.bits) / 8
        groups = 0 if shared else -(-k // coding.length(k))
        issued = _ISSUED_512 if shared and target.vector_bits == 512 else _ISSUED
        floor = tile_cycles(rows, width, target) + colliding(k, rows)
        ends = 3 * rows * vectors + 20
        if chunk == 1:
            read = stored / bytes_a_cycle(round(k * blocks * stored), target)
            step = max(floor, vectors * (decoding + rows) / issued, read) + _BESIDE * vectors * decoding
            a_task = step * k + groups * rows * vectors * 2 + ends
        else:
            step = max(floor, width * 4 / bytes_a_cycle(k * width * 4, target))
            panel = k * vectors * (decoding + 2) / issued + 100
            a_task = panel + chunk * (step * k + ends)
        tasks = blocks * -(-tiles // chunk)
        # The cores end together, or one waits for another.
        cycles = a_task * -(-tasks // target.cores) * target.cores
        return cycles * (1 + _EMPTY * (blocks * width / workload.n - 1))

    def pack(self, workload: Workload, knobs: Knobs, weight: Any) -> tuple[np.ndarray, ...]:
        """The integers and the scales of a :class:`dlcomp.schedules.coding.Coded`, or of ``Shared`` weights
        the numbers and the values.
        """
        made = shared_weights if isinstance(weight.coding, Codebook) else coded_weights
        return made.pack(weight, knobs["width"])

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Gemm)
        data, codes, scales = operands
        coding = coding_of(workload.arithmetic)
        width = knobs["width"]
        k = te.reduce_axis((0, workload.k), "k")

        def at(*indices: Expr) -> Expr:
            *lead, n = indices
            if isinstance(coding, Codebook):
                weight = shared_weights.element(coding, codes, scales, width, k, n)
            else:
                length = coding.length(workload.k)
                weight = coded_weights.element(coding, codes, scales, width, length, k, n)
            return te.sum(data[(*lead, k)] * weight, axis=[k])

        shape = (*data.shape[:-1], workload.n)
        return te.compute(shape, at, name="gemm", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        rows, width, chunk, lanes = knobs["rows"], knobs["width"], knobs["chunk"], lanes_of(target)
        data, codes, scales = _operands(anchor, coding_of(workload.arithmetic))
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        lead_shape = [int(d) for d in anchor.output.shape[:-1]]
        coding = coding_of(workload.arithmetic)
        kind = shared_weights.SharedPanel if isinstance(coding, Codebook) else coded_weights.Panel
        panel = kind(codes, scales, coding, workload.k, width, lanes)

        def tile(row_tile: Expr, block: Expr, floats: Any = None) -> Stmt:
            first = tirx.min(row_tile * rows, const(workload.m - rows))
            total = Accumulators(rows, width)

            def lead(row: Expr) -> list[Expr]:
                return unflatten(first + row, lead_shape)

            def scalar(row: int, k: Expr) -> Expr:
                return tirx.BufferLoad(data, [*lead(row), k])

            def step(k: Expr) -> Stmt:
                def weight(offset: int, size: int) -> Expr:
                    return vload(floats, [k, const(offset)], size)

                return multiply_accumulate(total, range(rows), lanes, weight, lambda r: scalar(r, k))

            def store(columns: int) -> Stmt:
                return write_rows(anchor, total, columns, lanes, lead, block * width)

            stores = by_block(block, workload.n, width, store)
            if floats is None:
                sums = panel.multiply(total, block, scalar)
            else:
                sums = [loop("k", workload.k, step)]
            return seq([total.alloc(), total.clear(lanes, tirx.const(0, "float32")), *sums, stores])

        def task(index: Expr) -> Stmt:
            if chunk == 1:
                return tile(index // blocks, index % blocks)
            floats = scratch("panel", (workload.k, width))
            block, begin = index % blocks, index // blocks * chunk
            # The last chunk is moved up to be a full one.
            begin = tirx.min(begin, const(tiles - chunk))
            each = loop("t", chunk, lambda t: tile(begin + t, block, floats))
            return seq([alloc(floats), *panel.decode(floats, block), each])

        kind = parallel_kind(workload.flops, target)
        return anchor.schedule_of(loop("task", blocks * -(-tiles // chunk), task, kind))


def _operands(anchor: Anchor, coding: Any) -> Sequence[Any]:
    """Data, integers, and their scales or values, in which an expression reads them or not."""
    if not isinstance(coding, Codebook):
        return anchor.inputs
    (words,) = (b for b in anchor.inputs if str(b.dtype) == "int32")
    (values,) = (b for b in anchor.inputs if len(b.shape) == 1)
    (data,) = (b for b in anchor.inputs if not b.same_as(words) and not b.same_as(values))
    return data, words, values
