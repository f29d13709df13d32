"""The register tile: ``rows`` x ``width`` accumulators kept in vector registers over a reduction.

One row is one output pixel (or matrix row), the width is output channels (or matrix columns).
A step of the reduction loads ``width`` weights once and multiplies them by one broadcast scalar a
row, so a tile of r rows and v vectors does r*v multiply-adds for r + v loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tvm import tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import FLOAT32, Arithmetic
from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, local, loop, seq, splat, vload, vstore
from dlcomp.target import Target

# TVM takes what is larger than so many bytes from the runtime's pool.
ON_THE_STACK = 1024
# Operations behind an operator that are written out for every row of its tile.
_SHORT_EPILOGUE = 60
# Processors that execute a 512-bit instruction as two halves: there 256 bits take half the time.
_HALF_WIDTH_UNITS = frozenset({"znver4"})


def pieces(width: int, lanes: int) -> list[tuple[int, int]]:
    """``width`` elements as vectors of ``lanes`` and then smaller powers of two: (offset, size).

    LLVM scalarizes vectors whose length is not a power of two.
    """
    result = []
    offset = 0
    while offset < width:
        size = min(lanes, 1 << ((width - offset).bit_length() - 1))
        result.append((offset, size))
        offset += size
    return result


def clear(acc: Expr, rows: int, width: int, lanes: int, value: Expr) -> Stmt:
    """Sets all accumulators to ``value``."""
    return seq(
        [
            vstore(acc, splat(value, size), [const(row * width + offset)], size)
            for row in range(rows)
            for offset, size in pieces(width, lanes)
        ]
    )


def multiply_accumulate(
    acc: Expr,
    rows: Iterable[int],
    width: int,
    lanes: int,
    weight: Callable[[int, int], Expr],
    scalar: Callable[[int], Expr],
    arithmetic: Arithmetic = FLOAT32,
) -> Stmt:
    """``acc[row, :] += scalar(row) * weight`` for every row.

    ``weight(offset, size)`` is what ``size`` columns from column ``offset`` of the tile give to the step.
    """
    statements = []
    held = []
    for offset, size in pieces(width, lanes):
        var = tirx.Var("w", arithmetic.vector_type(size))
        statements.append(tirx.Bind(var, weight(offset, size)))
        held.append((offset, size, var))
    for row in rows:
        one = tirx.Var("a", arithmetic.scalar_type())
        statements.append(tirx.Bind(one, scalar(row)))
        for offset, size, var in held:
            at = [const(row * width + offset)]
            total = arithmetic.multiply_add(vload(acc, at, size), one, var, size)
            statements.append(vstore(acc, total, at, size))
    return seq(statements)


def write_back(
    anchor: Anchor,
    acc: Expr,
    row: Expr | int,
    stride: int,
    width: int,
    lanes: int,
    lead: Sequence[Expr],
    column: Expr,
) -> Stmt:
    """Stores ``width`` values of one row through the epilogue, at ``(*lead, column + lane)``.

    ``stride`` is the distance of two rows in ``acc``.
    """

    def store(offset: int, size: int) -> Stmt:
        def lane(v: Expr) -> Stmt:
            indices = [*lead, column + offset + v]
            value = tirx.BufferLoad(acc, [row * const(stride) + offset + v])
            final = anchor.epilogue(indices, value, tirx.BufferLoad)
            stores = [tirx.BufferStore(anchor.output, final, indices)]
            if anchor.kept is not None:
                stores.insert(0, tirx.BufferStore(anchor.kept, value, indices))
            return seq(stores)

        return loop("v", size, lane, "vectorized")

    return seq([store(offset, size) for offset, size in pieces(width, lanes)])


def write_rows(
    anchor: Anchor,
    acc: Expr,
    rows: int,
    stride: int,
    width: int,
    lanes: int,
    lead: Callable[[Any], Sequence[Expr]],
    column: Expr,
) -> Stmt:
    """:func:`write_back` of all rows of a tile; ``lead(row)`` is where one goes.

    A short epilogue is written out for every row, on accumulators in registers. Many copies of a long one
    would take more time to compile than everything else: its accumulators go through memory, and the rows
    are a loop.
    """
    if rows == 1 or anchor.operations <= _SHORT_EPILOGUE:
        return seq([write_back(anchor, acc, r, stride, width, lanes, lead(r), column) for r in range(rows)])
    group = max(1, ON_THE_STACK // (4 * stride))
    kept = local("kept", min(group, rows) * stride, str(acc.dtype))
    statements = [alloc(kept)]
    for first in range(0, rows, group):
        count = min(group, rows - first)
        statements += [
            vstore(kept, vload(acc, [const(first * stride + at)], size), [const(at)], size)
            for r in range(count)
            for at, size in ((r * stride + offset, size) for offset, size in pieces(width, lanes))
        ]

        def one(row: Expr, first: int = first) -> Stmt:
            return write_back(anchor, kept, row, stride, width, lanes, lead(first + row), column)

        statements.append(loop("r", count, one))
    return seq(statements)


def split_evenly(extent: int, most: int) -> list[tuple[int, int]]:
    """``extent`` cut into the fewest pieces of at most ``most``, as equal as possible: (start, size).

    Larger pieces come first, so that the equal ones are consecutive and can share one loop.
    """
    pieces = -(-extent // most)
    small, extra = divmod(extent, pieces)
    sizes = [small + 1] * extra + [small] * (pieces - extra)
    starts = [sum(sizes[:i]) for i in range(pieces)]
    return list(zip(starts, sizes, strict=True))


def lanes_of(target: Target) -> int:
    """float32 elements in a vector register."""
    return max(1, target.vector_bits // 32)


def tile_shapes(target: Target, rows: int, columns: int, multiple: int = 1) -> list[tuple[int, int]]:
    """(rows, width) of register tiles that fit: accumulators, one row of weights, one broadcast.

    Widths are multiples of ``multiple``.

    Widths go by half vectors, so that 24 columns need not be computed as 32; LLVM broadcasts a scalar
    for both sizes then. Two registers are kept free: without them LLVM spills on 16-register machines.
    """
    lanes = lanes_of(target)
    half = max(1, lanes // 2, multiple)
    most_columns = -(-columns // half) * half
    shapes = []
    for width in sorted({half * n for n in (*range(1, 9), 12, 16, 32, 48)}):
        if width > most_columns:
            break
        vectors = -(-width // lanes)
        if rows == 1 and vectors <= target.vector_registers - 4:
            # A weight is used once, so it needs no register.
            shapes.append((1, width))
            continue
        held = 3 + vectors + (4 if width % lanes else 0) + (2 if vectors >= 4 else 0)
        most = (target.vector_registers - held) // vectors
        for tall in range(1, min(most, rows) + 1):
            if tall >= min(most, rows) // 2:
                shapes.append((tall, width))
    return shapes


def tile_cycles(rows: int, width: int, target: Target) -> float:
    """Cycles of one reduction step of a tile: the slowest of multiply-adds, loads and their latency."""
    lanes = lanes_of(target)
    parts = pieces(width, lanes)
    halves_are_cheaper = target.cpu in _HALF_WIDTH_UNITS and target.vector_bits == 512
    fused = rows * (2 * width / lanes if halves_are_cheaper else len(parts)) / 2
    # A load port delivers 256 bits a cycle.
    loads = (rows + sum(max(1.0, size / 8) for _, size in parts)) / 2
    latency = 4.0
    return max(fused, loads, latency) + 0.05 * loads


def independent_sums(target: Target) -> int:
    """Vectors that must be summed side by side to hide the latency of a multiply-add."""
    return 4 if target.cpu in _HALF_WIDTH_UNITS and target.vector_bits == 512 else 8


def bytes_a_cycle(resident: int, target: Target) -> float:
    """How fast one core reads again what lies among ``resident`` bytes that it passes over in turn."""
    if resident <= target.l1_bytes * 3 // 4:
        return 128.0
    if resident <= target.l2_bytes * 3 // 4:
        return 24.0
    return 12.0 if resident <= target.l3_bytes // 2 else 6.0


def call_rows(
    pieces: list[tuple[int, int]], special: Callable[[int, int], bool], tile: Callable[[Any, int, Any], Stmt]
) -> Stmt:
    """``tile(start, size, fixed)`` for all pieces: runs of equal, not special pieces become a loop.

    ``fixed`` is the start as a number where it is known while writing the code, else None.
    """
    statements: list[Stmt] = []
    index = 0
    while index < len(pieces):
        start, size = pieces[index]
        if special(start, size):
            statements.append(tile(const(start), size, start))
            index += 1
            continue
        last = index
        while last + 1 < len(pieces) and pieces[last + 1][1] == size and not special(*pieces[last + 1]):
            last += 1
        statements.append(
            loop("t", last - index + 1, lambda t, start=start, size=size: tile(t * size + start, size, None))
        )
        index = last + 1
    return seq(statements)
