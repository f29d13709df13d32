"""Block-sparse weights as the kernels read them: the vectors that are left, and where their inputs lie.

Outputs are cut into blocks of ``width``; of every block the vectors (its outputs at one input) that are not
all zeros are stored one after the other, each with the offset of its input from a tile's first one. A
register tile loads a vector once and multiplies it by one scalar a row, as a dense one does: nothing is
gathered (Elsen et al., *Fast Sparse ConvNets*, 2019, section 3; there 4 outputs at one input).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import FLOAT32, Arithmetic
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, dynamic_loop, seq
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    bytes_a_cycle,
    independent_sums,
    lanes_of,
    multiply_accumulate,
    pieces,
    tile_cycles,
    write_rows,
)
from dlcomp.schedules.sparsity import counts, vectors
from dlcomp.target import Target


def is_blocked(stored: str) -> bool:
    """Whether the zeros of a weight are those of whole vectors."""
    return any(width > 1 for width in counts(stored))


def pack(
    matrix: np.ndarray, offsets: np.ndarray, width: int, shares: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(inputs, outputs)`` as values ``(vectors, width)``, their offsets, and the index of the blocks.

    ``offsets`` are those of the inputs. The index holds an order of the blocks in which ``shares`` equal runs
    have about the same number of vectors, then where the vectors of each block start, and their end. Values
    are one vector of zeros if nothing is left: an operand has elements.
    """
    inputs, outputs = matrix.shape
    blocks = -(-outputs // width)
    padded = np.zeros((inputs, blocks * width), matrix.dtype)
    padded[:, :outputs] = matrix
    kept = vectors(matrix, width)
    block, row = np.nonzero(kept.T)
    values = padded.reshape(inputs, blocks, width)[row, block]
    found = offsets[row].astype(np.uint16 if offsets.max(initial=0) < 1 << 16 else np.uint32)
    if not len(values):
        values, found = np.zeros((1, width), matrix.dtype), np.zeros(1, found.dtype)
    work = kept.sum(axis=0)
    index = np.concatenate([balanced(work, shares), [0], np.cumsum(work)]).astype(np.int32)
    return np.ascontiguousarray(values), found, index


def balanced(work: np.ndarray, shares: int) -> np.ndarray:
    """An order in which ``shares`` runs of ``ceil(items / shares)`` items take about the same ``work``.

    The largest first, each to the share with the least so far that has room (Graham, 1969); within a share
    they keep their order.
    """
    room = -(-len(work) // shares)
    dealt: list[list[int]] = [[] for _ in range(shares)]
    sums = [0] * shares
    # All runs are full but the last ones, as the loop over them is cut.
    sizes = [max(0, min(room, len(work) - room * share)) for share in range(shares)]
    for item in np.argsort(-work, kind="stable"):
        share = min((s for s in range(shares) if len(dealt[s]) < sizes[s]), key=lambda s: sums[s])
        dealt[share].append(int(item))
        sums[share] += int(work[item])
    return np.array([item for share in dealt for item in sorted(share)], np.int64)


def definition(width: int, operands: Sequence[Any], output: Expr, read: Callable[[Expr], Expr]) -> Expr:
    """The sum for ``output`` in the tensor expression language; ``read(offset)`` is an input.

    It passes over the vectors of all blocks, which the kernels do not.
    """
    values, offsets, index = operands
    j = te.reduce_axis((0, values.shape[0]), "j")
    start = index.shape[0] // 2 + output // width
    mine = te.all(index[start] <= j, j < index[start + 1])
    product = read(offsets[j].astype("int64")) * values[j, output % width]
    return te.sum(tirx.if_then_else(mine, product, tirx.const(0, "float32")), axis=[j])


@dataclass(frozen=True)
class Operands:
    """The buffers that :func:`pack` filled, and the data."""

    data: Any
    values: Any
    offsets: Any
    index: Any

    @staticmethod
    def of(anchor: Anchor) -> Operands:
        """By their types; the expression of :func:`definition` reads the data before the values."""
        (index,) = (b for b in anchor.inputs if str(b.dtype) == "int32")
        (offsets,) = (b for b in anchor.inputs if str(b.dtype) in ("uint16", "uint32"))
        data, values = (b for b in anchor.inputs if b not in (index, offsets))
        return Operands(data, values, offsets, index)

    @property
    def blocks(self) -> int:
        return int(self.index.shape[0]) // 2


def tile(
    anchor: Anchor,
    operands: Operands,
    place: Expr,
    rows: int,
    width: int,
    outputs: int,
    target: Target,
    scalar: Callable[[int, Expr], Expr],
    lead: Callable[[Any], list[Expr]],
    arithmetic: Arithmetic = FLOAT32,
) -> Stmt:
    """``rows`` results of the block at ``place`` of the order; ``scalar(row, offset)`` is an input of one.

    Of integers a stored vector has a group of inputs for each output, and so has a scalar.
    """
    lanes = lanes_of(target)
    block = tirx.Var("block", "int64")
    parts, body = multiply(
        operands,
        block,
        (rows, width),
        target,
        lambda j, offset, column, size: arithmetic.vector(operands.values, [j, const(column)], size),
        lambda j, offset, row: scalar(row, offset),
        arithmetic,
    )

    def store(columns: int) -> Stmt:
        return write_rows(anchor, parts[0], columns, lanes, lead, block * width)

    stores = by_block(block, outputs, width, store)
    where = tirx.Bind(block, tirx.BufferLoad(operands.index, [place]).astype("int64"))
    return seq([*(acc.alloc() for acc in parts), where, *body, stores])


def multiply(
    operands: Operands,
    block: Expr,
    shape: tuple[int, int],
    target: Target,
    vector: Callable[[Expr, Expr, int, int], Expr],
    scalar: Callable[[Expr, Expr, int], Expr],
    arithmetic: Arithmetic = FLOAT32,
) -> tuple[list[Accumulators], list[Stmt]]:
    """The accumulators ``(rows, width)`` of a block, to be declared, and the statements that fill them.

    At the j-th weights that are stored, with their offset, ``vector(j, offset, column, size)`` is what all
    rows share, ``scalar(j, offset, row)`` what a row multiplies it by. Short tiles are summed in several
    accumulators, which hide the latency of a multiply-add; the sums are the first one's.
    """
    rows, width = shape
    lanes = lanes_of(target)
    vectors_of = len(pieces(width, lanes))
    sums = max(1, min(8, -(-independent_sums(target) // (rows * vectors_of))))
    parts = [Accumulators(rows, width, arithmetic.sums) for _ in range(sums)]
    begin, end = (tirx.Var(name, "int64") for name in ("begin", "end"))

    def step(j: Expr, part: int) -> Stmt:
        offset = tirx.Var("offset", "int64")
        body = multiply_accumulate(
            parts[part],
            range(rows),
            lanes,
            lambda column, size: vector(j, offset, column, size),
            lambda row: scalar(j, offset, row),
            arithmetic,
        )
        return seq([tirx.Bind(offset, tirx.BufferLoad(operands.offsets, [j]).astype("int64")), body])

    count = end - begin
    loops = [dynamic_loop("j", begin, count, lambda j: step(j, 0))]
    if sums > 1:
        full = tirx.floordiv(count, const(sums))
        loops = [
            dynamic_loop(
                "j", const(0), full, lambda j: seq([step(begin + j * sums + u, u) for u in range(sums)])
            ),
            dynamic_loop("j", begin + full * sums, count - full * sums, lambda j: step(j, 0)),
            _add_up(parts, lanes),
        ]
    first = block + operands.blocks
    return parts, [
        tirx.Bind(begin, tirx.BufferLoad(operands.index, [first]).astype("int64")),
        tirx.Bind(end, tirx.BufferLoad(operands.index, [first + 1]).astype("int64")),
        *(acc.clear(lanes, arithmetic.zero) for acc in parts),
        *loops,
    ]


def _add_up(parts: Sequence[Accumulators], lanes: int) -> Stmt:
    """The first accumulators take the others."""
    first, *others = parts
    statements = []
    for row in range(first.rows):
        for offset, count in pieces(first.width, lanes):
            total = first.load(row, offset, count)
            for acc in others:
                total = total + acc.load(row, offset, count)
            statements.append(first.store(row, total, offset, count))
    return seq(statements)


def tile_heights(rows: int, stored: str, target: Target) -> list[tuple[int, int]]:
    """(height, width) of register tiles for the widths that are ``stored``.

    The last one of ``rows`` is about as high as the others.
    """
    lanes = lanes_of(target)
    shapes = []
    for width in sorted(set(counts(stored)) - {1}):
        parts = len(pieces(width, lanes))
        # Beside the sums: the weights of a step, one input, and two that LLVM wants.
        fitting = (target.vector_registers - 3 - parts) // parts
        most = max(1, fitting)
        found = {-(-rows // tiles) for tiles in range(-(-rows // most), rows + 1)}
        shapes += [(height, width) for height in sorted(found) if height >= min(rows, max(1, most // 4))]
    return shapes


def tile_estimate(
    steps: float, inputs: int, rows: int, width: int, values: int, resident: int, target: Target
) -> float:
    """Cycles of a tile of ``steps`` vectors.

    ``values`` are the bytes of weights that are passed over in turn, ``resident`` those of inputs.
    """
    stream = width * 4 / bytes_a_cycle(values, target)
    multiply = max(tile_cycles(rows, width, target), stream) * steps
    # The inputs are read by lines of 16, of which few are skipped.
    lines = min(steps, inputs / 16) * rows * 64
    return max(multiply, lines / bytes_a_cycle(resident, target)) + 1.5 * rows * (width / 8) + 10
