"""Strassen's algorithm against dlcomp's own matrix product, both operands at run time, on one thread.

Both are timed in turn in one process; a ratio is the plain product's time over Strassen's, so above 1
Strassen is the faster. Errors are the largest of a few rows against float64, over the largest element of the
result; the bound is Higham's for so many levels (*Accuracy and Stability of Numerical Algorithms*, 23.14).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from onnx_graph import one_node

import dlcomp

SIZES = (1024, 2048, 3072, 4096)
UNIT = 2.0**-24


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    sizes = SIZES[:2] if arguments.quick else SIZES
    print(header("n", "levels", "plain GFLOP/s", "ratio", "plain error", "Strassen's error", "bound"))
    rows = [measure(n, 0.5 if arguments.quick else 8.0) for n in sizes]
    taken = [row for row in rows if row["levels"]]
    summary = {f"strassen_gain_percent_{row['n']}": 100 * (row["ratio"] - 1) for row in taken}
    finish(rows, summary, arguments.json)


def measure(n: int, seconds: float) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    inputs = {name: rng.standard_normal((n, n), dtype=np.float32) for name in ("a", "b")}
    network = one_node("MatMul", {"a": (n, n), "b": (n, n)}, {})
    model = dlcomp.load(network)
    plain, fast = model.compile("host"), model.compile("host", strassen=True)
    found = re.search(r"strassen.*levels=(\d)", " ".join(kernel.schedule for kernel in fast.kernels))
    levels = int(found[1]) if found else 0
    timed = fast.bench(inputs, threads=1, compare=plain, min_time_s=seconds, min_runs=3)
    assert timed.ratio is not None
    assert timed.peer_latency is not None
    some = slice(0, n, max(1, n // 16))
    want = inputs["a"][some].astype(np.float64) @ inputs["b"].astype(np.float64)
    span = float(np.abs(want).max())
    errors = [float(np.abs(side.run(inputs)["y"][some] - want).max()) / span for side in (plain, fast)]
    largest = float(np.abs(inputs["a"]).max() * np.abs(inputs["b"]).max())
    row = {
        "n": n,
        "levels": levels,
        "plain_gflops": 2 * n**3 / timed.peer_latency.median / 1e9,
        "ratio": timed.ratio.median,
        "plain_error": errors[0],
        "strassen_error": errors[1],
        "bound": bound(n, levels) * UNIT * largest / span,
    }
    ratio = f"{timed.ratio.median:.3f} ({timed.ratio.low:.3f}-{timed.ratio.high:.3f})"
    digits = [f"{value:.1e}" for value in (*errors, row["bound"])]
    print(table_row([n, levels, f"{row['plain_gflops']:.0f}", ratio, *digits]), flush=True)
    return row


def bound(n: int, levels: int) -> float:
    """Of the error, in units of rounding times the largest elements of both operands."""
    least = n >> levels
    return 12.0**levels * (least**2 + 5 * least) - 5 * n


if __name__ == "__main__":
    run(main)
