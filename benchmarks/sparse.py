"""Kernels that skip zeros against our own dense ones: layers, where they break even, and MiniLM whole.

Blocks are ``16x1`` (16 outputs at one input), others anywhere. Both sides are compiled in the same way, the
dense one with ``sparse=False``, and timed in turn in one process; a ratio is the dense kernel's time over the
sparse one's. The table says what each kernel does whether or not the compiler would choose it; ``auto`` is
from how many zeros on it does. MiniLM is made sparse by magnitude: only its speed is asked for here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from models import SUITE, fetch
from onnx_graph import one_node

import dlcomp
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered
from dlcomp.schedules import SPARSE

# (rows, outputs, inputs) of MiniLM's layers, of ResNet's 1x1 convolutions, and of few rows.
SHAPES = (
    (64, 384, 384),
    (64, 384, 1536),
    (64, 1536, 384),
    (128, 384, 384),
    (128, 1536, 384),
    (784, 512, 128),
    (196, 1024, 256),
    (196, 256, 1024),
    (1, 1024, 1024),
    (4, 1024, 1024),
    (16, 1024, 1024),
)
QUICK = ((64, 384, 384), (196, 256, 1024), (1, 1024, 1024))
# Zeros at which break-even is looked for; between them it is interpolated.
LADDER = (0.35, 0.45, 0.55, 0.65)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.quick else 0.2
    columns = ("75 % blocks", "90 % blocks", "break-even", "80 % anywhere", "break-even", "auto")
    print(header(f"rows x outputs x inputs, {arguments.threads} thread(s)", *columns))
    rows = []
    for shape in QUICK if arguments.quick else SHAPES:
        rows.append(layer(shape, arguments.threads, seconds))
        print(line(rows[-1]), flush=True)
    summary = {}
    for key in ("block_75", "block_90", "unstructured_80"):
        found = [row[key][1] for row in rows if key in row]
        summary |= {f"{key}_vs_dense": geomean(found), f"{key}_vs_dense_min": min(found)}
    summary |= minilm(arguments.threads, 0.3 if arguments.quick else 2.0)
    finish(rows, summary, arguments.json)


def layer(shape: tuple[int, int, int], threads: int, seconds: float) -> dict[str, Any]:
    """The ratios of one layer, and from how many zeros on its kernels are as fast as the dense one."""
    found: dict[str, Any] = {"shape": shape, "threads": threads}
    for pattern, width, asked in (("block", 16, (0.75, 0.9)), ("unstructured", 1, (0.8,))):
        measured: dict[float, float] = {}
        for zeros in (*LADDER, *asked):
            ratio = ratio_of(shape, zeros, width, threads, seconds)
            if ratio is None:
                continue  # no such kernel for so few rows
            measured[zeros] = ratio[1]
            if zeros in asked:
                found[f"{pattern}_{round(100 * zeros)}"] = ratio
        if measured:
            found[f"{pattern}_break_even"] = crossing(sorted(measured.items()))
    found["auto"] = [chosen_from(shape, width) for width in (16, 1)]
    return found


def ratio_of(
    shape: tuple[int, int, int], zeros: float, width: int, threads: int, seconds: float
) -> list[float] | None:
    """Quartiles of dense over sparse; None if there is no sparse kernel for the shape."""
    m, n, k = shape
    weight = pruned(n, k, zeros, width)
    x = np.random.default_rng(1).standard_normal((m, k), dtype=np.float32)
    sides, results = [], []
    for dense in (True, False):
        artifact = compiled(weight, m, dense)
        if artifact is None:
            return None
        results.append(artifact.run({"a": x})["y"])
        sides.append(artifact.session().staged(ordered({"a": x}, artifact.signature), threads))
    assert np.abs(results[0] - results[1]).max() <= 1e-5 * np.ptp(results[0])
    ratio = in_turn(sides[1], sides[0], warmup_s=seconds / 4, min_time_s=seconds)[2]
    return [ratio.low, ratio.median, ratio.high]


def compiled(weight: np.ndarray, rows: int, dense: bool) -> Any:
    """A product by ``weight``: by the dense kernel, or by a sparse one whatever the estimates say."""
    from dlcomp import schedules

    model = dlcomp.load(one_node("MatMul", {"a": (rows, weight.shape[0])}, {"b": weight}))
    if dense:
        return model.compile(sparse=False)
    whole = schedules.TEMPLATES
    try:
        schedules.TEMPLATES = tuple(t for t in whole if t.name in SPARSE)
        artifact = model.compile()
    finally:
        schedules.TEMPLATES = whole
    return artifact if any(name in k.schedule for k in artifact.kernels for name in SPARSE) else None


def chosen_from(shape: tuple[int, int, int], width: int) -> float | None:
    """The share of zeros, in steps of 5 %, from which on the compiler takes a sparse kernel."""
    from dlcomp.schedules import select
    from dlcomp.schedules.sparsity import left
    from dlcomp.schedules.workload import Gemm

    m, n, k = shape
    for percent in range(35, 100, 5):
        workload = Gemm(m, n, k, stored=left(pruned(n, k, percent / 100, width)))
        found = select(workload, dlcomp.Target.parse("host"))
        if found is not None and found[0].name in SPARSE:
            return percent / 100
    return None


def pruned(n: int, k: int, zeros: float, width: int) -> np.ndarray:
    """(k, n) random, ``zeros`` of its vectors of ``width`` outputs away."""
    rng = np.random.default_rng(0)
    blocks = -(-n // width)
    kept = np.zeros(k * blocks, bool)
    kept[rng.permutation(kept.size)[: round((1 - zeros) * kept.size)]] = True
    weight = rng.standard_normal((k, n), dtype=np.float32) / np.float32(np.sqrt(k))
    return weight * np.repeat(kept.reshape(k, blocks), width, axis=1)[:, :n]


def crossing(measured: Sequence[tuple[float, float]]) -> float | None:
    """The share of zeros at which the ratio reaches one; the first share if it is above one there."""
    if measured[0][1] >= 1:
        return measured[0][0]
    for (low, below), (high, above) in pairwise(measured):
        if above >= 1:
            return low + (high - low) * (1 - below) / (above - below)
    return None


def line(row: dict[str, Any]) -> str:
    def spread(key: str) -> str:
        return "{1:.2f} ({0:.2f}-{2:.2f})".format(*row[key]) if key in row else ""

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.0f} %"

    def even(key: str) -> str:
        found = row.get(key)
        return ("below " if found == LADDER[0] else "") + share(found)

    cells = [spread("block_75"), spread("block_90"), even("block_break_even")]
    cells += [spread("unstructured_80"), even("unstructured_break_even")]
    return table_row(["x".join(map(str, row["shape"])), *cells, ", ".join(map(share, row["auto"]))])


def minilm(threads: int, seconds: float) -> dict[str, float]:
    """MiniLM with 80 % of its blocks away against itself compiled dense, and against onnxruntime."""
    found = SUITE["minilm"]
    model = dlcomp.load(fetch("minilm"), found.shapes)
    sparse = model.compress(dlcomp.Sparsify(method="magnitude", target=0.8, pattern="16x1"))
    artifact, dense = sparse.compile(), sparse.compile(sparse=False)
    feed = found.example()
    report = {}
    for name, peer in (("dense", dense), ("onnxruntime", "onnxruntime")):
        result = artifact.bench(feed, threads=threads, compare=peer, model=model, min_time_s=seconds)
        assert result.ratio is not None
        report[f"minilm_vs_{name}"] = result.ratio.median
        print(f"\nMiniLM, 80 % of blocks zeros, {result}", end="")
    return report


if __name__ == "__main__":
    run(main)
