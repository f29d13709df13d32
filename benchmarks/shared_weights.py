"""Products by weights that share few values: looked up in registers, against float32 ones, dlcomp's both.

Weights are shared by dlcomp itself (``ShareWeights``). Both artifacts are of the same network, one compiled
without the kernel for codebooks, and timed in turn in one process; a ratio is the time of float32 over that
of the lookups, whether or not the compiler would choose them; ``auto`` says whether it does. Bytes are of the
weights in memory, of float32's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from onnx_graph import one_node

import dlcomp
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered

KERNEL = "gemm.coded"
# (m, k, n): few rows, which read weights for little else; LeNet-300-100's first layer among them.
SHAPES = (
    (1, 784, 300),
    (1, 1024, 1024),
    (2, 1024, 1024),
    (4, 1024, 1024),
    (1, 4096, 4096),
    (4, 4096, 4096),
)
QUICK = SHAPES[:2]
BITS = (2, 3, 4, 5, 6, 7, 8)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(header(f"m x k x n, bits, {arguments.threads} thread(s)", "speed", "bytes %", "auto"))
    rows = [
        row
        for shape in (QUICK if arguments.quick else SHAPES)
        for row in measured(shape, arguments.threads, 0.1 if arguments.quick else 0.5)
    ]
    summary = {
        f"bits_{bits}_vs_float32": geomean([row["ratio"][1] for row in rows if row["bits"] == bits])
        for bits in BITS
    }
    taken = [row["ratio"][1] for row in rows if row["auto"]]
    summary["chosen_min"] = min(taken, default=float("nan"))
    finish(rows, summary, arguments.json)


def measured(shape: tuple[int, int, int], threads: int, seconds: float) -> list[dict[str, Any]]:
    m, k, n = shape
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((k, n), dtype=np.float32) / np.float32(np.sqrt(k))
    feed = {"x": rng.standard_normal((m, k), dtype=np.float32)}
    network = dlcomp.load(one_node("MatMul", {"x": (m, k)}, {"w": weight}))
    rows = []
    for bits in BITS:
        model = network.compress(dlcomp.ShareWeights(bits=bits))
        sides = [compiled(model, looked_up) for looked_up in (True, False)]
        found, right = (artifact.run(feed)["y"] for artifact in sides)
        assert np.abs(found - right).max() <= 1e-5 * np.ptp(right)
        pair = [a.session().staged(ordered(feed, a.signature), threads) for a in sides]
        ratio = in_turn(*pair, min_time_s=seconds)[2]
        size = [sum(array.nbytes for array in artifact.weights) for artifact in sides]
        auto = any(KERNEL in kernel.schedule for kernel in model.compile().kernels)
        row = {
            "shape": shape,
            "bits": bits,
            "ratio": [ratio.low, ratio.median, ratio.high],
            "bytes": size[0] / size[1],
            "auto": auto,
        }
        cells = [f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})", f"{100 * row['bytes']:.1f}"]
        print(
            table_row([f"{'x'.join(map(str, shape))}, {bits}", *cells, "yes" if auto else "no"]), flush=True
        )
        rows.append(row)
    return rows


def compiled(model: dlcomp.Model, looked_up: bool) -> Any:
    """``model`` by the kernel for codebooks whatever the estimates say, or without it."""
    from dlcomp import schedules
    from dlcomp.graph import coded

    templates, pays = schedules.TEMPLATES, coded.pays
    try:
        schedules.TEMPLATES = tuple(t for t in templates if looked_up or t.name != KERNEL)
        coded.pays = lambda *_: True
        artifact = model.compile()
    finally:
        schedules.TEMPLATES, coded.pays = templates, pays
    assert looked_up == any(KERNEL in kernel.schedule for kernel in artifact.kernels)
    return artifact


if __name__ == "__main__":
    run(main)
