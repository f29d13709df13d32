"""Products of integers by constant weights of which whole vectors of outputs are zeros.

What a tile does is in :mod:`dlcomp.schedules.cpu.sparse_integers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import INTEGERS, arithmetic_of, narrowest
from dlcomp.schedules.cpu.block_sparse import balanced
from dlcomp.schedules.cpu.emit import Expr, loop
from dlcomp.schedules.cpu.sparse_integers import LEAST_TURNED, Form, Task
from dlcomp.schedules.cpu.tile import bytes_a_cycle, lanes_of, pieces, tile_cycles
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.sparsity import counts, groups, vectors
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target


class SparseIntegerGemm(Template):
    """Knobs: ``rows`` of a register tile, ``width`` of a block, ``group`` of neighbouring inputs that are
    zeros together (1: any inputs), ``shares`` (parts in which blocks are dealt by what is left of them).
    """

    name: ClassVar[str] = "gemm.block_sparse_integers"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return (
            isinstance(workload, Gemm)
            and target.kind == "cpu"
            and workload.m > 0
            and workload.arithmetic in INTEGERS
            and len(self.space(workload, target)) > 0
        )

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Gemm)
        multiple = narrowest(workload.arithmetic)
        return [
            {"rows": rows, "width": width, "group": group, "shares": shares}
            for width, group in _forms(workload)
            if width % multiple == 0
            for rows in _heights(workload, width, group, target)
            for shares in sorted({1, min(target.cores, -(-workload.n // width))})
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Gemm)
        rows, width, shares = knobs["rows"], knobs["width"], knobs["shares"]
        blocks, tiles = -(-workload.n // width), -(-workload.m // rows)
        form = Form.of(workload, knobs)
        steps = _steps(workload, knobs)
        vectors_of = len(pieces(width, lanes_of(target)))
        stream = width * 4 / bytes_a_cycle(round(steps * width * 4), target)
        a_step = max(tile_cycles(rows, width, target), stream) + form.making(rows)
        a_block = a_step * steps / blocks + 1.5 * rows * vectors_of + 20
        a_task = a_block * -(-blocks // shares) + form.turning(rows)
        tasks = tiles * shares
        return a_task * -(-tasks // target.cores) * target.cores

    def flops(self, workload: Workload, knobs: Knobs) -> int:
        assert isinstance(workload, Gemm)
        width, group = knobs["width"], knobs["group"]
        kept = counts(workload.stored)[width] if group == 1 else groups(workload.stored)[width, group] * group
        return 2 * workload.m * kept * width

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """(k, n) as values (steps, width * a step's inputs), where a step's inputs are, and the index.

        The index is an order of the blocks in which ``shares`` equal runs have about as many steps, then
        where the steps of each block start, and their end.
        """
        assert isinstance(workload, Gemm)
        form, width = Form.of(workload, knobs), knobs["width"]
        words = form.arithmetic.group
        blocks = -(-workload.n // width)
        padded = np.zeros((workload.k + 1, blocks * width), weight.dtype)
        padded[:-1, : workload.n] = weight
        # (blocks, width, inputs and one more, of zeros)
        by_block = padded.T.reshape(blocks, width, -1)
        found = [form.inputs(kept) for kept in vectors(weight, width, knobs["group"]).T]
        work = np.array([len(inputs) // words for inputs in found])
        values = [by_block[b][:, inputs].reshape(width, -1, words) for b, inputs in enumerate(found)]
        packed = np.concatenate(values, axis=1).transpose(1, 0, 2).reshape(-1, width * words)
        if not len(packed):
            packed = np.zeros((1, width * words), weight.dtype)
        index = np.concatenate([balanced(work, knobs["shares"]), [0], np.cumsum(work)]).astype(np.int32)
        return np.ascontiguousarray(packed), form.offsets(np.concatenate(found)), index

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Gemm)
        data, values, offsets, index = operands
        form, width = Form.of(workload, knobs), knobs["width"]
        words = form.arithmetic.group
        step = te.reduce_axis((0, values.shape[0]), "step")
        word = te.reduce_axis((0, words), "word")
        blocks = index.shape[0] // 2

        def at(*indices: Expr) -> Expr:
            *lead, n = indices
            block = blocks + n // width
            mine = te.all(index[block] <= step, step < index[block + 1])
            read = data[(*lead, form.column(offsets, step, word))]
            product = form.arithmetic.product(read, values[step, n % width * words + word])
            return te.sum(tirx.if_then_else(mine, product, form.arithmetic.zero), axis=[step, word])

        shape = (*data.shape[:-1], workload.n)
        return te.compute(shape, at, name="gemm", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Gemm)
        made = Task(anchor, workload, knobs, target)
        tiles = -(-workload.m // knobs["rows"]) * knobs["shares"]
        return anchor.schedule_of(
            loop("task", tiles, made.body, parallel_kind(self.flops(workload, knobs), target))
        )


def _forms(workload: Gemm) -> list[tuple[int, int]]:
    """(width, group) of vectors of which enough are zeros."""
    return [*((width, 1) for width in counts(workload.stored)), *groups(workload.stored)]


def _heights(workload: Gemm, width: int, group: int, target: Target) -> list[int]:
    """Rows of register tiles: of turned rows a multiple of four."""
    parts = len(pieces(width, lanes_of(target)))
    # Beside the sums: the weights of a step, one input, and two that LLVM wants.
    most = max(1, min((target.vector_registers - 3 - parts) // parts, workload.m))
    if group == arithmetic_of(workload.arithmetic).group:
        found = {-(-workload.m // tiles) for tiles in range(-(-workload.m // most), workload.m + 1)}
        return sorted(height for height in found if height >= min(workload.m, max(1, most // 4)))
    if most < LEAST_TURNED:
        return [most]
    return [height for height in (4, 8, 12, 16, 20, 24, 28) if height <= most]


def _steps(workload: Gemm, knobs: Knobs) -> float:
    """About how many there are: the words of a block's last inputs are not full."""
    words, width, group = arithmetic_of(workload.arithmetic).group, knobs["width"], knobs["group"]
    if group == words:
        return float(groups(workload.stored)[width, group] if group > 1 else counts(workload.stored)[width])
    blocks = -(-workload.n // width)
    return counts(workload.stored)[width] / words + blocks * (words - 1) / (2 * words)
