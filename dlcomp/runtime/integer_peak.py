"""How many operations on 8-bit integers this machine can do at most, measured on registers alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dlcomp.runtime import native, threads
from dlcomp.runtime.peaks import fastest
from dlcomp.target import Target

# Independent sums: enough to hide the latency of an instruction.
_CHAINS = 12
_ROUNDS = 100_000


@functools.cache
def measure_integers(count: int) -> float:
    """Operations a second, two a multiply-add, of exact products of 8 bits on ``count`` threads."""
    run, operations = repeated(count)
    threads.use(count)
    return operations / fastest(run)


def repeated(count: int) -> tuple[Callable[[], Any], int]:
    """A function that repeats the instruction that integer products are made of, and its operations."""
    import numpy as np

    from dlcomp.runtime.session import aligned_empty

    native.load_runtime()
    import tvm_ffi

    from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic

    host = Target.host()
    kinds = arithmetic_of(integer_arithmetic(host, "int8"))
    width = host.lanes() * kinds.group
    library = _library(kinds, host, count)
    given = aligned_empty((width,), np.dtype(kinds.weight))
    sums = aligned_empty((count, _CHAINS * host.lanes()), np.int32)
    given.fill(1)
    feed = tvm_ffi.from_dlpack(given), tvm_ffi.from_dlpack(sums)
    return lambda: library["dot"](*feed), 2 * count * _ROUNDS * _CHAINS * width


def _library(kinds: Any, host: Target, count: int) -> Any:
    import tvm
    from tvm import tirx

    from dlcomp.codegen.link import objects_of
    from dlcomp.schedules.cpu.emit import alloc, const, local, loop, seq, splat, vload, vstore

    lanes = host.lanes()
    data = tirx.decl_buffer((lanes * kinds.group,), kinds.weight, name="data")
    out = tirx.decl_buffer((count, _CHAINS * lanes), kinds.sums, name="out")
    places = [const(chain * lanes) for chain in range(_CHAINS)]

    def task(index: Any) -> Any:
        acc = local("acc", _CHAINS * lanes, kinds.sums)
        weight, scalar = tirx.Var("w", kinds.vector_type(lanes)), tirx.Var("a", kinds.scalar_type())

        def turn(_: Any) -> Any:
            totals = [kinds.multiply_add(vload(acc, [at], lanes), scalar, weight, lanes) for at in places]
            return seq([vstore(acc, total, [at], lanes) for total, at in zip(totals, places, strict=True)])

        return seq(
            [
                alloc(acc),
                *[vstore(acc, splat(kinds.zero, lanes), [at], lanes) for at in places],
                tirx.Bind(weight, kinds.vector(data, [const(0)], lanes)),
                tirx.Bind(scalar, tirx.Cast(kinds.scalar_type(), vload(data, [const(0)], 1))),
                loop("round", _ROUNDS, turn),
                *[vstore(out, vload(acc, [at], lanes), [index, at], lanes) for at in places],
            ]
        )

    func = tirx.PrimFunc([data, out], loop("t", count, task, "parallel"))
    func = func.with_attr({"global_symbol": "dot", "tirx.noalias": True})
    built = tvm.compile(tvm.IRModule({"dot": func}), target=host.to_tvm())
    return native.load_objects(list(objects_of(built).values()))
