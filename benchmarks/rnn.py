"""Recurrent layers against onnxruntime, on one thread.

Both are timed in turn in one process; a ratio is onnxruntime's time over dlcomp's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from common import finish, header, options, run, table_row
from onnx import TensorProto, helper, numpy_helper

import dlcomp

GATES = {"LSTM": 4, "GRU": 3}
# (steps, batch, input size, hidden size)
SIZES = (
    (1, 1, 128, 128),
    (16, 1, 64, 64),
    (16, 1, 128, 128),
    (200, 1, 64, 64),
    (200, 1, 128, 128),
    (16, 8, 128, 128),
)
QUICK = SIZES[:3]


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    sizes = QUICK if arguments.quick else SIZES
    print(header("layer", "steps", "batch", "inputs", "hidden", "compile s", "ratio", "error"))
    rows = [measure(kind, size, 0.3 if arguments.quick else 1.0) for kind in GATES for size in sizes]
    summary = {
        f"{kind.lower()}_vs_onnxruntime_min": min(row["ratio"] for row in rows if row["layer"] == kind)
        for kind in GATES
    }
    finish(rows, summary, arguments.json)


def network(kind: str, steps: int, batch: int, size: int, hidden: int) -> onnx.ModelProto:
    rng, rows = np.random.default_rng(0), GATES[kind] * hidden
    shapes = {"w": (1, rows, size), "r": (1, rows, hidden), "b": (1, 2 * rows)}
    stored = [
        numpy_helper.from_array((rng.standard_normal(shape) * 0.1).astype("float32"), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node(kind, ["x", *shapes], ["y"], hidden_size=hidden)
    border = [("x", [steps, batch, size]), ("y", [steps, 1, batch, hidden])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in border)
    graph = helper.make_graph([node], kind, [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(kind: str, size: tuple[int, int, int, int], seconds: float) -> dict[str, Any]:
    import time

    model = dlcomp.load(network(kind, *size))
    begin = time.perf_counter()
    artifact = model.compile("host")
    compile_s = time.perf_counter() - begin
    error = dlcomp.verify(model, artifact).max_error
    ratio = artifact.bench(threads=1, compare="onnxruntime", model=model, min_time_s=seconds).ratio
    assert ratio is not None
    shown = f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
    print(table_row([kind, *size, f"{compile_s:.1f}", shown, f"{error:.0e}"]), flush=True)
    return {"layer": kind, "size": size, "compile_s": compile_s, "ratio": ratio.median, "error": error}


if __name__ == "__main__":
    run(main)
