"""Small constructors for the TensorIR that the CPU templates are written in.

A register tile needs loops that are unrolled in a fixed pattern, accumulators with constant
indices, and borders resolved while the code is written; building those statements directly
keeps every tile exact, and the outer loops are left to the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

Expr = Any
Stmt = Any


def const(value: int) -> Expr:
    """An index constant (int64, as Relax shapes are)."""
    return tirx.IntImm("int64", value)


def loop(name: str, extent: int, body: Callable[[Expr], Stmt], kind: str = "serial") -> Stmt:
    """``for name in range(extent)``; a single iteration becomes no loop at all."""
    if extent == 1 and kind != "parallel":
        return body(const(0))
    kinds = {
        "serial": tirx.ForKind.SERIAL,
        "parallel": tirx.ForKind.PARALLEL,
        "vectorized": tirx.ForKind.VECTORIZED,
        "unroll": tirx.ForKind.UNROLLED,
    }
    var = tirx.Var(name, "int64")
    return tirx.For(var, const(0), const(extent), kinds[kind], body(var))


def dynamic_loop(name: str, start: Expr, extent: Expr, body: Callable[[Expr], Stmt]) -> Stmt:
    """``for name in range(start, start + extent)`` with bounds known only at run time."""
    var = tirx.Var(name, "int64")
    return tirx.For(var, start, extent, tirx.ForKind.SERIAL, body(var))


def open_loop(name: str, extent: Expr, body: Callable[[Expr], Stmt], kind: str = "serial") -> Stmt:
    """``for name in range(extent)`` with an extent known only at run time, serial or parallel."""
    kinds = {"serial": tirx.ForKind.SERIAL, "parallel": tirx.ForKind.PARALLEL}
    var = tirx.Var(name, "int64")
    return tirx.For(var, const(0), extent, kinds[kind], body(var))


def seq(statements: Sequence[Stmt]) -> Stmt:
    """One statement out of several."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def local(name: str, size: int, dtype: str = "float32") -> Expr:
    """A buffer on the stack, which LLVM keeps in registers; it must be declared with :func:`alloc`.

    Of less than 1024 bytes, in TVM's scope ``global``: everything else is taken from the runtime's pool, a
    call for every tile, and wherever LLVM cannot prove that nothing else looks there, it is stored at every
    step.
    """
    return tirx.decl_buffer((size,), dtype, name=name)


def scratch(name: str, shape: Sequence[int], dtype: str = "float32") -> Expr:
    """A buffer in memory for one task; it must be declared with :func:`alloc`."""
    return tirx.decl_buffer(tuple(shape), dtype, name=name, scope="global")


def alloc(buffer: Expr) -> Stmt:
    """The declaration of a local or scratch buffer."""
    return tirx.AllocBuffer(buffer)


def vload(buffer: Expr, indices: Sequence[Expr], lanes: int) -> Expr:
    """``lanes`` consecutive elements along the last dimension."""
    if lanes == 1:
        return tirx.BufferLoad(buffer, list(indices))
    *outer, last = indices
    return tirx.BufferLoad(buffer, [*outer, tirx.Ramp(last, const(1), lanes)])


def vstore(buffer: Expr, value: Expr, indices: Sequence[Expr], lanes: int) -> Stmt:
    """Stores ``lanes`` consecutive elements along the last dimension."""
    if lanes == 1:
        return tirx.BufferStore(buffer, value, list(indices))
    *outer, last = indices
    return tirx.BufferStore(buffer, value, [*outer, tirx.Ramp(last, const(1), lanes)])


def prefetch(buffer: Expr, indices: Sequence[Expr]) -> Stmt:
    """Asks for the cache line of an element, which may lie beyond the end of ``buffer``."""
    address = tirx.address_of(tirx.BufferLoad(buffer, list(indices)))
    options = [tirx.const(value, "int32") for value in (0, 3, 1)]  # to read, into every cache, data
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, *options))


def splat(value: Expr, lanes: int) -> Expr:
    """A scalar in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)
