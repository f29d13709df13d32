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
from dlcomp.schedules.cpu.emit import (
    Expr,
    Stmt,
    alloc,
    const,
    local,
    loop,
    seq,
    splat,
    vload,
    vstore,
)
from dlcomp.target import Target

# Elements of a buffer of sums: a multiple of every vector, less than TVM puts on the stack.
_PART = 128
# TVM takes what is not smaller than 1024 bytes from the runtime's pool.
_ON_THE_STACK = 1020
# Operations behind an operator that are written out for every row of its tile.
SHORT_EPILOGUE = 60
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


class Accumulators:
    """``rows`` x ``width`` sums in registers, in buffers that are small enough for the stack."""

    def __init__(self, rows: int, width: int, dtype: str = "float32") -> None:
        self.rows, self.width, self.dtype = rows, width, dtype
        self._parts = [
            [local(f"acc{row}", min(_PART, width - start), dtype) for start in range(0, width, _PART)]
            for row in range(rows)
        ]

    def at(self, row: int, offset: int) -> tuple[Expr, int]:
        """The buffer of a sum, and its place there; a vector of sums is never in two."""
        return self._parts[row][offset // _PART], offset % _PART

    def alloc(self) -> Stmt:
        """The declaration of the buffers."""
        return seq([alloc(part) for row in self._parts for part in row])

    def load(self, row: int, offset: int, lanes: int) -> Expr:
        """``lanes`` sums of a row from ``offset``."""
        buffer, place = self.at(row, offset)
        return vload(buffer, [const(place)], lanes)

    def store(self, row: int, value: Expr, offset: int, lanes: int) -> Stmt:
        """Sets ``lanes`` sums of a row from ``offset``."""
        buffer, place = self.at(row, offset)
        return vstore(buffer, value, [const(place)], lanes)

    def clear(self, lanes: int, value: Expr) -> Stmt:
        """Sets all sums to ``value``."""
        return seq(
            [
                self.store(row, splat(value, size), offset, size)
                for row in range(self.rows)
                for offset, size in pieces(self.width, lanes)
            ]
        )


def multiply_accumulate(
    acc: Accumulators,
    rows: Iterable[int],
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
    for offset, size in pieces(acc.width, lanes):
        var = tirx.Var("w", arithmetic.vector_type(size))
        statements.append(tirx.Bind(var, weight(offset, size)))
        held.append((offset, size, var))
    for row in rows:
        one = tirx.Var("a", arithmetic.scalar_type())
        statements.append(tirx.Bind(one, scalar(row)))
        for offset, size, var in held:
            total = arithmetic.multiply_add(acc.load(row, offset, size), one, var, size)
            statements.append(acc.store(row, total, offset, size))
    return seq(statements)


def write_back(
    anchor: Anchor,
    values: Callable[[int], tuple[Expr, Expr | int]],
    width: int,
    lanes: int,
    lead: Sequence[Expr],
    column: Expr,
) -> Stmt:
    """Stores ``width`` values of one row through the epilogue, at ``(*lead, column + lane)``.

    ``values(offset)`` are the buffer and the place there of the vector that begins at ``offset``.
    """

    def store(offset: int, size: int) -> Stmt:
        buffer, place = values(offset)

        def lane(v: Expr) -> Stmt:
            indices = [*lead, column + offset + v]
            value = tirx.BufferLoad(buffer, [place + v])
            final = anchor.epilogue(indices, value, tirx.BufferLoad)
            stores = [tirx.BufferStore(anchor.output, final, indices)]
            if anchor.kept is not None:
                stores.insert(0, tirx.BufferStore(anchor.kept, value, indices))
            return seq(stores)

        return loop("v", size, lane, "vectorized")

    return seq([store(offset, size) for offset, size in pieces(width, lanes)])


def write_row(
    anchor: Anchor, acc: Accumulators, row: int, width: int, lanes: int, lead: Sequence[Expr], column: Expr
) -> Stmt:
    """:func:`write_back` of ``width`` sums of a row."""
    return write_back(anchor, lambda offset: acc.at(row, offset), width, lanes, lead, column)


def by_block(block: Expr, columns: int, width: int, write: Callable[[int], Stmt]) -> Stmt:
    """``write(count)`` for the block of ``width`` out of ``columns``; the last one may have fewer."""
    full, tail = divmod(columns, width)
    if not full or not tail:
        return write(width if full else tail)
    return tirx.IfThenElse(block == full, write(tail), write(width))


def write_rows(
    anchor: Anchor,
    acc: Accumulators,
    width: int,
    lanes: int,
    lead: Callable[[Any], Sequence[Expr]],
    column: Expr,
) -> Stmt:
    """:func:`write_back` of ``width`` sums of every row of a tile; ``lead(row)`` is where one goes.

    A short epilogue is written out for every row, on accumulators in registers. Many copies of a long one
    would take more time to compile than everything else: its accumulators go through memory, and the rows
    are a loop.
    """
    rows, stride = acc.rows, acc.width
    if rows == 1 or anchor.operations <= SHORT_EPILOGUE:
        return seq([write_row(anchor, acc, r, width, lanes, lead(r), column) for r in range(rows)])
    group = max(1, _ON_THE_STACK // (4 * stride))
    kept = local("kept", min(group, rows) * stride, acc.dtype)
    statements = [alloc(kept)]
    for first in range(0, rows, group):
        count = min(group, rows - first)
        statements += [
            vstore(kept, acc.load(first + r, offset, size), [const(r * stride + offset)], size)
            for r in range(count)
            for offset, size in pieces(width, lanes)
        ]

        def one(row: Expr, first: int = first) -> Stmt:
            def values(at: int) -> tuple[Expr, Expr]:
                return kept, row * const(stride) + at

            return write_back(anchor, values, width, lanes, lead(first + row), column)

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
    return max(fused, loads, latency) + 0.1 * loads


def multiplications_a_cycle(target: Target) -> int:
    """float32 multiply-adds of one core, at most: two vectors a cycle, or one of double width."""
    halves = target.cpu in _HALF_WIDTH_UNITS and target.vector_bits == 512
    return lanes_of(target) * (1 if halves else 2)


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


def runs(
    pieces: list[tuple[int, int]], special: Callable[[int, int], bool]
) -> list[tuple[int, int, int, bool]]:
    """Equal pieces behind each other that are not special as one: (start, size, how many, special)."""
    found: list[tuple[int, int, int, bool]] = []
    for start, size in pieces:
        apart = special(start, size)
        if found and not apart and found[-1][1] == size and not found[-1][3]:
            found[-1] = (*found[-1][:2], found[-1][2] + 1, False)
        else:
            found.append((start, size, 1, apart))
    return found


def call_rows(
    pieces: list[tuple[int, int]], special: Callable[[int, int], bool], tile: Callable[[Any, int, Any], Stmt]
) -> Stmt:
    """``tile(start, size, fixed)`` for all pieces: runs of equal, not special pieces become a loop.

    ``fixed`` is the start as a number where it is known while writing the code, else None.
    """

    def run(start: int, size: int, count: int, apart: bool) -> Stmt:
        if apart:
            return tile(const(start), size, start)
        return loop("t", count, lambda t: tile(t * size + start, size, None))

    return seq([run(*found) for found in runs(pieces, special)])
