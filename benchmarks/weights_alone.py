"""Products by weights of 8 and 4 bits against float32 ones, dlcomp's both: the time, the size, the error.

Weights are quantized by dlcomp itself, activations stay float32. Both artifacts are timed in turn in one
process; a ratio is float32's time over that of integers. The error is the largest difference from
onnxruntime's result for the same integers, without its optimizations (which would round activations too), of
the result's range.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from common import finish, geomean, header, options, run, table_row
from onnx_graph import one_node

import dlcomp
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered

# (m, k, n): one to sixteen rows, which read weights for little else, and many.
SHAPES = (
    (1, 1024, 1024),
    (1, 4096, 4096),
    (4, 1024, 1024),
    (16, 1024, 1024),
    (16, 4096, 4096),
    (128, 768, 3072),
    (512, 1024, 1024),
)
QUICK = ((1, 1024, 1024), (4, 1024, 1024))
CODINGS = {
    "8 bits": {"bits": 8},
    "4 bits, 32": {"bits": 4, "group": 32},
    "4 bits, 128": {"bits": 4, "group": 128},
}


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    arguments = parser.parse_args()
    print(header("m x k x n, weights", "1 thread", "2 threads", ".dlc, of float32's", "error"))
    rows = [
        row
        for shape in (QUICK if arguments.quick else SHAPES)
        for row in measured(shape, 0.3 if arguments.quick else 1.0)
    ]
    summary = {
        f"geomean_{threads}t": geomean([row[f"ratio_{threads}t"][1] for row in rows]) for threads in (1, 2)
    }
    few = [row for row in rows if row["shape"][0] <= 4]
    summary |= {
        f"min_few_rows_{threads}t": min(row[f"ratio_{threads}t"][1] for row in few) for threads in (1, 2)
    }
    finish(rows, summary, arguments.json)


def measured(shape: tuple[int, int, int], seconds: float) -> list[dict[str, Any]]:
    m, k, n = shape
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((k, n), dtype=np.float32) / np.float32(np.sqrt(k))
    model = dlcomp.load(one_node("MatMul", {"x": (m, k)}, {"w": weight}))
    feed = {"x": rng.standard_normal((m, k), dtype=np.float32)}
    wide = model.compile("host")
    rows = []
    for name, fields in CODINGS.items():
        small = model.compress(dlcomp.Quantize(activations="float32", **fields))
        artifact = small.compile("host")
        (result,) = artifact.run(feed).values()
        (expected,) = reference(small.source.SerializeToString()).run(None, feed)
        row: dict[str, Any] = {"shape": shape, "weights": name}
        row["error"] = float(np.abs(result - expected).max() / np.ptp(expected))
        row["size"] = size(artifact) / size(wide)
        row["kernel"] = [kernel.schedule for kernel in artifact.kernels]
        for threads in (1, 2):
            pair = [a.session().staged(ordered(feed, a.signature), threads) for a in (artifact, wide)]
            *_, ratio = in_turn(*pair, min_time_s=seconds)
            row[f"ratio_{threads}t"] = [ratio.low, ratio.median, ratio.high]
        rows.append(row)
        cells = [f"{r[1]:.2f} ({r[0]:.2f}-{r[2]:.2f})" for r in (row["ratio_1t"], row["ratio_2t"])]
        title = f"{m} x {k} x {n}, {name}"
        print(table_row([title, *cells, f"1 / {1 / row['size']:.1f}", f"{row['error']:.1e}"]), flush=True)
    return rows


def reference(network: bytes) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(network, settings, providers=["CPUExecutionProvider"])


def size(artifact: Any) -> int:
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "one.dlc"
        artifact.save(path)
        return path.stat().st_size


if __name__ == "__main__":
    run(main)
