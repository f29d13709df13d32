"""Matrix products: by constant weights packed at compile time, and of two run-time operands.

The last tile of rows is moved up so that it is a full one: a few rows are computed twice (two
cores may store the same value in the same place), and no tile needs a case of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.coding import is_coded
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, narrowest
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, loop, prefetch, seq, vload
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    bytes_a_cycle,
    lanes_of,
    multiply_accumulate,
    tile_cycles,
    tile_shapes,
    write_rows,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import BatchMatmul, Gemm, Workload
from dlcomp.target import Target

_LINE_BYTES = 64
# What of the time to read from a farther cache is not hidden behind the multiplications: little of the
# weights, which lie front to back, more of the rows, each of which is a stream of its own.
_UNHIDDEN_WEIGHTS, _UNHIDDEN_ROWS = 0.05, 0.3
# Bytes a cycle that one core gets from memory, and the part of a panel's time that hides them.
_FROM_MEMORY, _HIDING = 4.0, 0.8


class PackedGemm(Template):
    """(..., k) by a constant (k, n) packed to (n/width, k, width), in floats or integers.

    Integers are packed to (n/width, k/group, width * group): the neighbours along k that one instruction
    takes lie side by side, and k is a multiple of their number.

    Knobs: ``rows`` and ``width`` of the register tile; ``chunk``, the row tiles that pass over all
    weights before the next ones do.
    """

    name: ClassVar[str] = "gemm.packed"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Gemm)
            and workload.m > 0
            and target.kind == "cpu"
            and not is_coded(workload.arithmetic)
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        settings = []
        item = np.dtype(arithmetic_of(workload.arithmetic).data).itemsize
        for rows, width in tile_shapes(target, workload.m, workload.n, narrowest(workload.arithmetic)):
            tiles = -(-workload.m // rows)
            bytes_per_tile = rows * workload.k * item
            in_l2 = max(1, target.l2_bytes // 2 // bytes_per_tile)
            settings += [
                {"rows": rows, "width": width, "chunk": chunk}
                for chunk in sorted({1, min(tiles, in_l2), tiles})
            ]
        return settings

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        rows, width = knobs["rows"], knobs["width"]
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        # A step takes 32 bits of every row and of every column, whatever the arithmetic.
        steps = workload.k // arithmetic_of(workload.arithmetic).group
        panel = steps * width * 4
        weights = blocks * panel
        chunk = knobs["chunk"] * rows * steps * 4
        # Within a chunk every tile of rows reads the same panel of weights, which stays in cache, and the
        # rows of the chunk are read again for every panel.
        panels = width * 4 / bytes_a_cycle(panel if knobs["chunk"] > 1 else weights, target)
        lines = rows * 4 / bytes_a_cycle(chunk, target)
        step = max(tile_cycles(rows, width, target), panels + lines) + colliding(steps, rows)
        step += _UNHIDDEN_WEIGHTS * panels + _UNHIDDEN_ROWS * lines
        a_tile = step * steps + 3 * rows * (width / 8) + 20
        # The next panel comes from memory while the tiles of a chunk pass over this one.
        late = blocks * max(0.0, panel / _FROM_MEMORY - _HIDING * knobs["chunk"] * a_tile)
        # Chunks of one tile pass over the weights in ``panels``, the first one in ``late``.
        passes = -(-tiles // knobs["chunk"]) - 1 if knobs["chunk"] > 1 else 0
        again = passes * weights / bytes_a_cycle(weights + chunk, target)
        return blocks * tiles * a_tile + late + again

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
        """(k, n) to (n/width, k/group, width * group), zeros after the last column."""
        assert isinstance(workload, Gemm)
        width, group = knobs["width"], arithmetic_of(workload.arithmetic).group
        blocks = -(-workload.n // width)
        padded = np.zeros((workload.k, blocks * width), weight.dtype)
        padded[:, : workload.n] = weight
        steps = workload.k // group
        split = padded.reshape(steps, group, blocks, width).transpose(2, 0, 3, 1)
        return np.ascontiguousarray(split).reshape(blocks, steps, width * group)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Gemm)
        data, packed = operands
        width, arithmetic = knobs["width"], arithmetic_of(workload.arithmetic)
        group = arithmetic.group
        k = te.reduce_axis((0, workload.k), "k")

        def at(*indices: Expr) -> Expr:
            *lead, n = indices
            weight = packed[n // width, k // group, n % width * group + k % group]
            return te.sum(arithmetic.product(data[(*lead, k)], weight), axis=[k])

        shape = (*data.shape[:-1], workload.n)
        return te.compute(shape, at, name="gemm", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        rows, width, lanes = knobs["rows"], knobs["width"], lanes_of(target)
        arithmetic = arithmetic_of(workload.arithmetic)
        data, packed = anchor.inputs
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        chunks = -(-tiles // knobs["chunk"])
        per_chunk = -(-tiles // chunks)
        steps = workload.k // arithmetic.group
        row_bytes = width * arithmetic.group * np.dtype(arithmetic.weight).itemsize
        lead_shape = [int(d) for d in anchor.output.shape[:-1]]

        def task(index: Expr) -> Stmt:
            block = index // per_chunk % blocks
            row_tile = index // (per_chunk * blocks) * per_chunk + index % per_chunk
            first = tirx.min(row_tile * rows, const(workload.m - rows))
            acc = Accumulators(rows, width, arithmetic.sums)

            def step(k: Expr) -> Stmt:
                tile = index % per_chunk
                ahead = prefetch_panel(packed, [block + 1], row_bytes, steps, per_chunk, tile, k)
                product = multiply_accumulate(
                    acc,
                    range(rows),
                    lanes,
                    lambda offset, size: arithmetic.vector(packed, [block, k, const(offset)], size),
                    lambda r: arithmetic.scalar(data, [*unflatten(first + r, lead_shape), k]),
                    arithmetic,
                )
                return seq([*ahead, product])

            def store(columns: int) -> Stmt:
                return write_rows(
                    anchor,
                    acc,
                    columns,
                    lanes,
                    lambda r: unflatten(first + r, lead_shape),
                    block * width,
                )

            stores = by_block(block, workload.n, width, store)
            zero = acc.clear(lanes, arithmetic.zero)
            return seq([acc.alloc(), zero, loop("k", steps, step), stores])

        kind = parallel_kind(workload.flops, target)
        return anchor.schedule_of(loop("task", chunks * blocks * per_chunk, task, kind))


class DirectBatchMatmul(Template):
    """(batch..., m, k) by (batch..., k, n), the right operand read in place.

    Knobs: ``rows`` and ``width`` of the register tile. The last tile of columns is moved back to be a full
    one, as that of rows is: a narrower one would cut its columns into several small vectors for every row.
    """

    name: ClassVar[str] = "matmul.direct"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return isinstance(workload, BatchMatmul) and workload.flops > 0 and target.kind == "cpu"

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, BatchMatmul)
        lanes = lanes_of(target)
        shapes = tile_shapes(target, workload.m, workload.n)
        fitting = [(r, w) for r, w in shapes if w <= max(lanes, workload.n)]
        return [{"rows": rows, "width": min(width, workload.n)} for rows, width in fitting]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, BatchMatmul)
        rows, width = knobs["rows"], knobs["width"]
        blocks = -(-workload.n // width)
        # Rows of the right operand lie n elements apart, each in lines of its own.
        right = workload.k * workload.n * 4
        distant = 64 * -(-width // 16) / bytes_a_cycle(right, target)
        if right > target.l1_bytes:
            # No prefetching across them: a start for every row, longer from beyond L2.
            distant += 8 if right <= target.l2_bytes * 3 // 4 else 20

        distant += colliding(workload.k, rows)

        per_step = blocks * max(tile_cycles(rows, width, target), distant)
        return workload.batch * -(-workload.m // rows) * per_step * workload.k

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any, shape: Any = None) -> Any:
        """``shape`` is that of the result, which cannot be told from operands of open sizes."""
        left, right = operands
        k = te.reduce_axis((0, left.shape[-1]), "k")
        if shape is None:
            sizes = [[int(d) for d in operand.shape[:-2]] for operand in operands]
            shape = (*np.broadcast_shapes(*map(tuple, sizes)), left.shape[-2], right.shape[-1])

        def at(*indices: Expr) -> Expr:
            *batch, m, n = indices
            a = left[(*aligned(batch, left.shape[:-2]), m, k)]
            b = right[(*aligned(batch, right.shape[:-2]), k, n)]
            return te.sum(a * b, axis=[k])

        return te.compute(tuple(shape), at, name="matmul", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, BatchMatmul)
        rows, width, lanes = knobs["rows"], knobs["width"], lanes_of(target)
        zero = tirx.const(0, "float32")
        left, right = anchor.inputs
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        batch_shape = [int(d) for d in anchor.output.shape[:-2]]

        def task(index: Expr) -> Stmt:
            batch = unflatten(index // tiles, batch_shape)
            first = tirx.min(index % tiles * rows, const(workload.m - rows))
            a_batch, b_batch = aligned(batch, left.shape[:-2]), aligned(batch, right.shape[:-2])

            def tile(block: Expr) -> Stmt:
                column = tirx.min(block * width, const(workload.n - width))
                acc = Accumulators(rows, width)

                def step(k: Expr) -> Stmt:
                    return multiply_accumulate(
                        acc,
                        range(rows),
                        lanes,
                        lambda offset, size: vload(right, [*b_batch, k, column + offset], size),
                        lambda r: tirx.BufferLoad(left, [*a_batch, first + r, k]),
                    )

                stores = write_rows(anchor, acc, width, lanes, lambda r: [*batch, first + r], column)
                return seq([acc.alloc(), acc.clear(lanes, zero), loop("k", workload.k, step), stores])

            return loop("block", blocks, tile)

        kind = parallel_kind(workload.flops, target)
        return anchor.schedule_of(loop("task", workload.batch * tiles, task, kind))


def prefetch_panel(
    packed: Expr, next_panel: Sequence[Expr], row_bytes: int, steps: int, tiles: int, tile: Expr, step: Expr
) -> list[Stmt]:
    """What one step does to have the panel of weights that comes next in cache when it begins.

    Weights come from memory, as a network passes over all of them between two uses, and a processor's own
    prefetching starts anew at every page. The lines of the next panel are shared among the steps of the
    ``tiles`` that pass over this one; measured 1.05 to 1.15 times as fast on weights not in cache.

    Parameters
    ----------
    packed : buffer
        Its last two dimensions are the steps of a panel and ``row_bytes`` of weights for each.
    next_panel : sequence of index
        All indices but those two.
    steps, tiles : int
        Steps of a panel, and how many tiles pass over it before the next one.
    tile, step : index
        Where this is.
    """
    lines = -(-row_bytes // _LINE_BYTES)
    each = -(-lines // tiles)
    element = int(np.dtype(str(packed.dtype)).itemsize)
    # Tiles that are left over ask for the last part again.
    part = tirx.min(tile, const(-(-lines // each) - 1)) if tiles > 1 else const(0)
    first = (part * steps + step) * (each * _LINE_BYTES // element)
    return [
        prefetch(packed, [*next_panel, const(0), first + index * (_LINE_BYTES // element)])
        for index in range(each)
    ]


def colliding(k: int, rows: int) -> float:
    """Cycles a step for lines that rows of ``k`` elements push out of L1 again, being in the same sets.

    For 64 sets of eight lines, some of which the other operand needs.
    """
    places = 4096 // math.gcd(k * 4, 4096)
    return 3.0 * rows if rows > 5 * places else 0.0


def unflatten(index: Expr, shape: Sequence[int]) -> list[Expr]:
    """The multi-index of a flat ``index`` into ``shape``; dimensions of one are zero."""
    result: list[Expr] = []
    varying = [d for d in shape if d != 1]
    if not varying:
        return [const(0)] * len(shape)
    stride = int(np.prod(varying))
    seen = 0
    for extent in shape:
        if extent == 1:
            result.append(const(0))
            continue
        stride //= extent
        seen += 1
        quotient = index if stride == 1 else index // stride
        result.append(quotient if seen == 1 else quotient % extent)
    return result


def aligned(batch: Sequence[Expr], shape: Sequence[Any]) -> list[Expr]:
    """The batch indices of an operand whose batch dimensions broadcast to ``batch``."""
    own = batch[len(batch) - len(shape) :]
    return [
        const(0) if isinstance(d, tirx.IntImm) and int(d) == 1 else i for i, d in zip(own, shape, strict=True)
    ]
