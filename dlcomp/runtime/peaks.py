"""What this machine can do at most, measured: fused multiply-adds and copied bytes a second.

Both kernels are compiled at run time for this CPU by the same code generator as the models, so a kernel at
100 % does as well as dlcomp's own code could.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

from dlcomp.runtime import native, threads
from dlcomp.target import Target

# Independent accumulators: enough to hide the latency of 4 cycles on two FMA ports, in 16 registers.
_CHAINS = 12
_ROUNDS = 200_000
_COPY_BYTES = 1 << 26
_REPEATS = 8


@dataclass(frozen=True)
class Peaks:
    """Peak rates of this machine on ``threads`` threads.

    Attributes
    ----------
    flops : float
        fp32 operations a second, two a multiply-add.
    bytes : float
        Bytes a second read plus written by a copy that fits no cache.
    """

    threads: int
    flops: float
    bytes: float


@functools.cache
def measure(count: int) -> Peaks:
    """The peaks on ``count`` threads; measured once a process, in about half a second."""
    import numpy as np

    from dlcomp.runtime.session import aligned_empty

    native.load_runtime()
    import tvm_ffi

    library = _library(count)
    threads.use(count)
    lanes = Target.host().lanes()
    sums = aligned_empty((count, _CHAINS * lanes), np.float32)
    sums.fill(0)
    flops = count * _CHAINS * lanes * _ROUNDS * 2
    fma = flops / fastest(library["fma"], tvm_ffi.from_dlpack(sums))
    size = _elements(count, lanes)
    old, new = aligned_empty((size,), np.float32), aligned_empty((size,), np.float32)
    old.fill(1)
    new.fill(0)
    copy = 2 * old.nbytes / fastest(library["copy"], tvm_ffi.from_dlpack(old), tvm_ffi.from_dlpack(new))
    return Peaks(count, fma, copy)


def _elements(count: int, lanes: int) -> int:
    """How many floats are copied: whole vectors, the same number on each thread."""
    return _COPY_BYTES // 4 // (count * lanes) * count * lanes


def fastest(function: Any, *args: Any) -> float:
    """The least seconds of several calls."""
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function(*args)
        best = min(best, time.perf_counter() - start)
    return best


_SOURCE = """
@I.ir_module
class Peaks:
    @T.prim_func(s_tir=True)
    def fma(sums: T.Buffer(({count}, {width}), "float32")):
        T.func_attr({{"global_symbol": "fma", "tirx.noalias": True}})
        for t in T.parallel({count}):
            with T.sblock("worker"):
                vt = T.axis.spatial({count}, t)
                acc = T.sblock_alloc_buffer(({width},), scope="local")
                for c in T.unroll({chains}):
                    for l in T.vectorized({lanes}):
                        acc[c * {lanes} + l] = sums[vt, c * {lanes} + l]
                for r in T.serial({rounds}):
                    for c in T.unroll({chains}):
                        for l in T.vectorized({lanes}):
                            acc[c * {lanes} + l] = acc[c * {lanes} + l] * T.float32(0.5) + T.float32(1)
                for c in T.unroll({chains}):
                    for l in T.vectorized({lanes}):
                        sums[vt, c * {lanes} + l] = acc[c * {lanes} + l]

    @T.prim_func(s_tir=True)
    def copy(old: T.Buffer(({size},), "float32"), new: T.Buffer(({size},), "float32")):
        T.func_attr({{"global_symbol": "copy", "tirx.noalias": True}})
        for t in T.parallel({count}):
            for i in T.serial({steps}):
                for l in T.vectorized({lanes}):
                    with T.sblock("element"):
                        v = T.axis.spatial({size}, (t * {steps} + i) * {lanes} + l)
                        new[v] = old[v]
"""


def _library(count: int) -> Any:
    """Both kernels for this machine, linked in memory."""
    import tvm
    from tvm.script import from_source

    from dlcomp.codegen.link import objects_of

    host = Target.host()
    lanes = host.lanes()
    size = _elements(count, lanes)
    text = _SOURCE.format(
        count=count,
        lanes=lanes,
        chains=_CHAINS,
        width=_CHAINS * lanes,
        rounds=_ROUNDS,
        size=size,
        steps=size // count // lanes,
    )
    return native.load_objects(
        list(objects_of(tvm.compile(from_source(text), target=host.to_tvm())).values())
    )
