"""Matrix products in float32 against OpenBLAS (the BLAS of NumPy's wheels), on one thread and on two.

Both operands at run time, then the right one constant (packed when the model is compiled). Both sides are
timed in turn in one process; a ratio is OpenBLAS's time over dlcomp's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from common import finish, geomean, header, options, run, table_row

SQUARE = (64, 128, 256, 384, 512, 768, 1024, 2048)
# (m, n, k): BERT's projections and feed-forward layers, an LSTM's gates, ResNet's 1x1 convolutions, odd ones.
OTHER = (
    (1, 1024, 1024),
    (4, 1024, 1024),
    (16, 1024, 1024),
    (1, 2048, 512),
    (16, 3072, 768),
    (128, 768, 768),
    (128, 3072, 768),
    (128, 768, 3072),
    (3136, 64, 256),
    (196, 1024, 256),
    (100, 333, 517),
    (33, 97, 1001),
)
QUICK = (*((n, n, n) for n in (64, 256, 512, 1024)), (16, 1024, 1024), (100, 333, 517))
COLUMNS = ("GFLOP/s", "% of peak", "ratio", "ratio, constant weights")


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="measure in this process, on so many threads")
    arguments = parser.parse_args()
    shapes = QUICK if arguments.quick else (*((n, n, n) for n in SQUARE), *OTHER)
    if arguments.threads:
        print(json.dumps(measure(shapes, arguments.threads, 0.3 if arguments.quick else 1.0)))
        return
    counts = sorted({1, min(2, len(os.sched_getaffinity(0)))})
    rows = {count: in_process(count, arguments.quick) for count in counts}
    print(header("m x n x k", *(f"{column} {n}t" for n in counts for column in COLUMNS)))
    for index, shape in enumerate(shapes):
        cells = []
        for count in counts:
            row = rows[count][index]
            cells += [f"{row['gflops']:.0f}", f"{row['percent_of_peak']:.0f}"]
            cells += [spread(row["ratio"]), spread(row["ratio_constant"])]
        print(table_row(["x".join(map(str, shape)), *cells]))
    summary = {}
    for count in counts:
        run_time = [row["ratio"][1] for row in rows[count]]
        constant = [row["ratio_constant"][1] for row in rows[count]]
        summary |= {
            f"geomean_vs_openblas_{count}t": geomean(run_time),
            f"min_vs_openblas_{count}t": min(run_time),
            f"geomean_vs_openblas_packed_{count}t": geomean(constant),
            f"min_vs_openblas_packed_{count}t": min(constant),
        }
    large = [row["percent_of_peak"] for row in rows[1] if min(row["shape"]) >= 512]
    summary["min_percent_of_peak_512up"] = min(large)
    finish([row for count in counts for row in rows[count]], summary, arguments.json)


def spread(quartiles: list[float]) -> str:
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def in_process(threads: int, quick: bool) -> list[dict[str, Any]]:
    """The rows from a process whose BLAS has ``threads`` threads, which it asks for once, when it starts."""
    # Its idle threads would spin for 20 ms and more on the cores of whatever is timed next.
    settings = {"OPENBLAS_NUM_THREADS": str(threads), "OPENBLAS_THREAD_TIMEOUT": "4"}
    environment = {**os.environ, **settings}
    command = [sys.executable, __file__, "--threads", str(threads), *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def measure(shapes: tuple[tuple[int, int, int], ...], threads: int, seconds: float) -> list[dict[str, Any]]:
    from dlcomp.runtime.peaks import measure as peaks

    peak = peaks(threads).flops
    return [row(shape, threads, seconds, peak) for shape in shapes]


def row(shape: tuple[int, int, int], threads: int, seconds: float, peak: float) -> dict[str, Any]:
    import numpy as np
    from onnx_graph import one_node

    import dlcomp
    from dlcomp.runtime.bench import in_turn
    from dlcomp.runtime.inputs import ordered

    m, n, k = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
    out = np.empty((m, n), np.float32)
    found: dict[str, Any] = {"shape": shape, "threads": threads}
    for column, constant in (("ratio", False), ("ratio_constant", True)):
        feed = {"a": a} if constant else {"a": a, "b": b}
        given = {name: value.shape for name, value in feed.items()}
        artifact = dlcomp.load(one_node("MatMul", given, {"b": b} if constant else {})).compile("host")
        result = artifact.run(feed)["y"]
        assert np.abs(result - a @ b).max() <= 1e-5 * np.ptp(result)
        ours = artifact.session().staged(ordered(feed, artifact.signature), threads)
        latency, _, ratio = in_turn(ours, lambda: np.matmul(a, b, out=out), min_time_s=seconds)
        found[column] = [ratio.low, ratio.median, ratio.high]
        if not constant:
            rate = 2 * m * n * k / latency.median
            found |= {"gflops": rate / 1e9, "percent_of_peak": 100 * rate / peak}
    return found


if __name__ == "__main__":
    run(main)
