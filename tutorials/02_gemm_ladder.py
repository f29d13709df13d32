"""From three loops to a fast matrix product, one idea at a time, each step measured.

C = A B with float32 matrices of 512 x 512. Every step is the same TensorIR definition under another schedule,
compiled for this machine and checked against NumPy; the last ones are what dlcomp itself uses. Beside each
stands the rate, its share of the peak that dlcomp measures on this machine, and NumPy's rate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

# NumPy's BLAS reads this once, when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import tvm
from tvm import te, tirx

from dlcomp.runtime import peaks, threads
from dlcomp.schedules import TEMPLATES, schedule, select
from dlcomp.schedules.workload import BatchMatmul, Gemm
from dlcomp.target import Target

N = 512
FLOPS = 2 * N**3
HOST = Target.host()
LANES = HOST.vector_bits // 32


def definition() -> Any:
    """C[i, j] = sum over k of A[i, k] B[k, j], as TensorIR: one block in three loops."""
    a, b = te.placeholder((N, N), name="a"), te.placeholder((N, N), name="b")
    k = te.reduce_axis((0, N), "k")
    c = te.compute((N, N), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
    return te.create_prim_func([a, b, c])


def naive() -> Any:
    """The definition as it stands: each sum waits for the one before, and B is read down its columns."""
    return definition()


def reordered() -> Any:
    """The contiguous axis innermost: i, k, j. Now both B and C are read as they lie."""
    sch = tvm.s_tir.Schedule(definition())
    block = sch.get_sblock("c")
    i, j, k = sch.get_loops(block)
    sch.reorder(i, k, j)
    sch.decompose_reduction(block, k)
    return sch.mod["main"]


def tiled(explicit: bool = False) -> Any:
    """Blocks of 32 x 32 x 4, so that what is read again is still in the cache."""
    sch = tvm.s_tir.Schedule(definition())
    block = sch.get_sblock("c")
    i, j, k = sch.get_loops(block)
    (io, ii), (jo, ji), (ko, ki) = (
        sch.split(axis, [None, size]) for axis, size in ((i, 32), (j, 32), (k, 4))
    )
    sch.reorder(io, jo, ko, ii, ki, ji)
    if explicit:
        sch.vectorize(ji)
    sch.decompose_reduction(block, ko)
    return sch.mod["main"]


def vectorized() -> Any:
    """One instruction for a vector of columns, asked for; LLVM has found it in steps 2 and 3 itself."""
    return tiled(explicit=True)


def register_tile(rows: int, width: int) -> Callable[[], Any]:
    """``rows`` x ``width`` sums in registers over the whole of k: no load or store of C inside.

    One row alone is slower than before: its two sums wait for each other's multiply-adds, of which a core
    must have about eight under way.
    """

    def make() -> Any:
        template = next(t for t in TEMPLATES if t.name == "matmul.direct")
        return of_template(template, BatchMatmul(1, N, N, N), {"rows": rows, "width": width})

    return make


def chosen() -> Any:
    """dlcomp's choice for two operands that are only known when the product runs."""
    workload = BatchMatmul(1, N, N, N)
    found = select(workload, HOST)
    assert found is not None
    template, knobs = found
    return of_template(template, workload, knobs)


def of_template(template: Any, workload: Any, knobs: Any) -> Any:
    a, b = (te.placeholder((N, N), name=name) for name in "ab")
    function = te.create_prim_func([a, b, template.compute(workload, knobs, a, b)])
    return schedule(function, HOST).schedule.mod["main"]


def packed() -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """Constant B, laid out at compile time in the order in which the register tile reads it."""
    workload = Gemm(N, N, N)
    found = select(workload, HOST)
    assert found is not None
    template, knobs = found
    layout = template.pack(workload, knobs, np.zeros((N, N), "float32"))
    a, b = te.placeholder((N, N), name="a"), te.placeholder(layout.shape, name="b")
    function = te.create_prim_func([a, b, template.compute(workload, knobs, a, b)])
    scheduled = schedule(function, HOST).schedule.mod["main"]
    return scheduled, lambda weight: template.pack(workload, knobs, weight)


def seconds(run: Callable[[], Any]) -> float:
    """The fastest of at least five runs in a fifth of a second."""
    best, end = float("inf"), time.perf_counter() + 0.2
    count = 0
    while count < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
        count += 1
    return best


def main() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((N, N), dtype=np.float32) for _ in range(2))
    right = a @ b
    threads.use(1)
    peak = peaks.measure(1).flops / 1e9
    out = np.empty_like(right)
    blas = FLOPS / seconds(lambda: np.matmul(a, b, out=out)) / 1e9
    print(f"{N} x {N} x {N} on {HOST.cpu}; peak {peak:.0f} GFLOP/s on one thread\n")
    print(f"{'step':34} {'GFLOP/s':>8} {'of peak':>8} {'of NumPy':>9}")
    print(f"{'NumPy (OpenBLAS)':34} {blas:8.1f} {blas / peak:8.0%} {1:9.2f}")

    def step(name: str, function: Any, weight: np.ndarray, count: int = 1) -> None:
        built = tirx.build(function, target=HOST.to_tvm())["main"]
        c = tvm.runtime.tensor(np.zeros((N, N), "float32"))
        operands = [tvm.runtime.tensor(x) for x in (a, weight)]
        threads.use(count)
        built(*operands, c)
        assert np.abs(c.numpy() - right).max() <= 1e-5 * np.ptp(right), name
        rate = FLOPS / seconds(lambda: built(*operands, c)) / 1e9
        threads.use(1)
        print(f"{name:34} {rate:8.1f} {rate / peak / count:8.0%} {rate / blas:9.2f}")

    step("1. three loops", naive(), b)
    step("2. reordered", reordered(), b)
    step("3. tiled for the cache", tiled(), b)
    step("4. vectorized", vectorized(), b)
    step(f"5. register tile 1x{2 * LANES}", register_tile(1, 2 * LANES)(), b)
    step(f"6. register tile 4x{2 * LANES}", register_tile(4, 2 * LANES)(), b)
    step("7. tile and copies chosen by cost", chosen(), b)
    function, pack = packed()
    step("8. constant operand packed ahead", function, pack(b))
    if threads.available() > 1:
        step("9. on two threads", function, pack(b), 2)


if __name__ == "__main__":
    main()
