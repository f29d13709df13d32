"""The standard suite end to end: latency beside a peer's, on one thread and on all, and the error.

Both are timed in turn in one process; a ratio is the peer's time over dlcomp's, so above 1 dlcomp is the
faster, with the quartiles of the turns behind it. With ``--trials`` the networks are tuned first.
"""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from common import finish, geomean, header, options, run, table_row
from models import SUITE, fetch

import dlcomp
from dlcomp.runtime import threads
from dlcomp.runtime.bench import BenchResult

QUICK = ("ppocr_cls", "resnet50_thin", "ppocr_rec")


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SUITE)}; all by default")
    parser.add_argument("--target", default="host")
    parser.add_argument("--peer", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--trials", type=int, default=0, help="measured settings of every kernel")
    parser.add_argument("--db", default="db", metavar="FOLDER", help="where --trials keeps its records")
    arguments = parser.parse_args()
    chosen = arguments.models or (QUICK if arguments.quick else tuple(SUITE))
    seconds = 1.0 if arguments.quick else 4.0
    counts = sorted({1, min(2, threads.available())})
    print(
        header(
            "model",
            "input",
            "compile s",
            *(f"dlcomp {n}t ms" for n in counts),
            *(f"{arguments.peer} {n}t ms" for n in counts),
            *(f"ratio {n}t" for n in counts),
            "max error",
        )
    )
    rows = [measure(model_id, arguments, counts, seconds) for model_id in chosen]
    kind = f"{arguments.peer}_fp32" + ("_tuned" if arguments.trials else "")
    summary = {f"geomean_vs_{kind}_{n}t": geomean(row[f"ratio_{n}t"] for row in rows) for n in counts}
    summary[f"min_vs_{arguments.peer}"] = min(row["ratio_1t"] for row in rows)
    summary["max_error"] = max(row["max_error"] for row in rows)
    summary["max_compile_seconds"] = max(row["compile_s"] for row in rows)
    finish(rows, summary, arguments.json)


def measure(model_id: str, arguments: Namespace, counts: list[int], seconds: float) -> dict[str, Any]:
    """One model's row, printed as soon as it is known."""
    entry = SUITE[model_id]
    path = fetch(model_id)
    inputs = entry.example()
    model = dlcomp.load(path, shapes=entry.shapes)
    row: dict[str, Any] = {"model": model_id}
    options = {}
    if arguments.trials:
        options["db"] = arguments.db
        tuned = dlcomp.tune(model, arguments.target, arguments.trials, db=arguments.db)
        row["tuning_s"] = tuned.seconds
    begin = time.perf_counter()
    artifact = model.compile(arguments.target, **options)
    compile_s = time.perf_counter() - begin
    error = dlcomp.verify(model, artifact, inputs).max_error
    row |= {"compile_s": compile_s, "max_error": error}
    for n in counts:
        result = artifact.bench(inputs, threads=n, compare=arguments.peer, model=path, min_time_s=seconds)
        row |= columns(n, result)
    shape = "x".join(str(extent) for extent in next(iter(entry.shapes.values())))
    ours = [f"{row[f'dlcomp_{n}t_s'] * 1e3:.2f}" for n in counts]
    theirs = [f"{row[f'peer_{n}t_s'] * 1e3:.2f}" for n in counts]
    ratios = [f"{row[f'ratio_{n}t']:.2f} ({row[f'low_{n}t']:.2f}-{row[f'high_{n}t']:.2f})" for n in counts]
    print(
        table_row([model_id, shape, f"{compile_s:.1f}", *ours, *theirs, *ratios, f"{error:.1e}"]), flush=True
    )
    return row


def columns(n: int, result: BenchResult) -> dict[str, float]:
    """What was measured on ``n`` threads."""
    assert result.ratio is not None
    assert result.peer_latency is not None
    return {
        f"dlcomp_{n}t_s": result.latency.median,
        f"peer_{n}t_s": result.peer_latency.median,
        f"ratio_{n}t": result.ratio.median,
        f"low_{n}t": result.ratio.low,
        f"high_{n}t": result.ratio.high,
    }


if __name__ == "__main__":
    run(main)
