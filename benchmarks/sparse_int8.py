"""Integer kernels that skip zeros against dlcomp's own dense integer ones: layers, and MiniLM whole.

Blocks are of 16 outputs at one input (``16x1``) or at four neighbours (``16x4``), which one instruction takes
together. Both sides are compiled in the same way, the dense one with ``sparse=False``, and timed in turn in
one process; results are equal to the bit. A ratio is the dense kernel's time over the sparse one's, whether
or not the compiler would choose it; ``auto`` is from how many zeros on it does. MiniLM is made sparse by
magnitude and then integers: only its speed is asked for here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from models import SUITE, fetch
from sparse import LADDER, QUICK, SHAPES, crossing, pruned

import dlcomp
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered

KERNEL = "gemm.block_sparse_integers"
ASKED = (0.75, 0.9)
GROUPS = (1, 4)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.quick else 0.2
    names = [f"16x{group} {cell}" for group in GROUPS for cell in ("75 %", "90 %", "break-even", "auto")]
    print(header(f"rows x outputs x inputs, {arguments.threads} thread(s)", *names))
    rows = []
    for shape in QUICK if arguments.quick else SHAPES:
        rows.append(layer(shape, arguments.threads, seconds))
        print(line(rows[-1]), flush=True)
    summary = {}
    for group in GROUPS:
        for zeros in ASKED:
            found = [row[f"16x{group}_{zeros}"][1] for row in rows]
            name = f"block16x{group}_{round(100 * zeros)}_vs_dense"
            summary |= {name: geomean(found), f"{name}_min": min(found)}
    summary |= minilm(arguments.threads, 0.3 if arguments.quick else 2.0)
    finish(rows, summary, arguments.json)


def layer(shape: tuple[int, int, int], threads: int, seconds: float) -> dict[str, Any]:
    """The ratios of one layer, and from how many zeros on its kernels are as fast as the dense one."""
    found: dict[str, Any] = {"shape": shape, "threads": threads}
    for group in GROUPS:
        measured: dict[float, float] = {}
        for zeros in (*LADDER, *ASKED):
            ratio = ratio_of(shape, zeros, group, threads, seconds)
            measured[zeros] = ratio[1]
            if zeros in ASKED:
                found[f"16x{group}_{zeros}"] = ratio
        found[f"16x{group}_break_even"] = crossing(sorted(measured.items()))
        found[f"16x{group}_auto"] = chosen_from(shape, group)
    return found


def ratio_of(
    shape: tuple[int, int, int], zeros: float, group: int, threads: int, seconds: float
) -> list[float]:
    """Quartiles of dense over sparse."""
    m, n, k = shape
    weight = integers(n, k, zeros, group)
    x = np.random.default_rng(1).integers(0, 256, (m, k)).astype(np.uint8)
    sides = []
    for dense in (True, False):
        artifact = compiled(weight, m, dense)
        right = x.astype(np.int64) @ weight.astype(np.int64)
        np.testing.assert_array_equal(artifact.run({"a": x})["y"], right)
        sides.append(artifact.session().staged(ordered({"a": x}, artifact.signature), threads))
    ratio = in_turn(sides[1], sides[0], warmup_s=seconds / 4, min_time_s=seconds)[2]
    return [ratio.low, ratio.median, ratio.high]


def compiled(weight: np.ndarray, rows: int, dense: bool) -> Any:
    """A product by ``weight``: by the dense kernel, or by a sparse one whatever the estimates say."""
    from onnx import TensorProto, helper, numpy_helper

    from dlcomp import schedules

    inputs, outputs = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [rows, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, outputs])],
        [numpy_helper.from_array(weight, "b")],
    )
    model = dlcomp.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    if dense:
        return model.compile(sparse=False)
    whole = schedules.TEMPLATES
    try:
        schedules.TEMPLATES = tuple(t for t in whole if t.name == KERNEL)
        artifact = model.compile()
    finally:
        schedules.TEMPLATES = whole
    assert any(KERNEL in kernel.schedule for kernel in artifact.kernels)
    return artifact


def chosen_from(shape: tuple[int, int, int], group: int) -> float | None:
    """The share of zeros, in steps of 5 %, from which on the compiler takes a sparse kernel."""
    from dlcomp.schedules import select
    from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
    from dlcomp.schedules.sparsity import left_in_groups
    from dlcomp.schedules.workload import Gemm

    m, n, k = shape
    target = dlcomp.Target.parse("host")
    name = integer_arithmetic(target, "int8")
    for percent in range(35, 100, 5):
        stored = left_in_groups(integers(n, k, percent / 100, group), arithmetic_of(name).group)
        found = select(Gemm(m, n, k, name, stored), target)
        if found is not None and found[0].name == KERNEL:
            return percent / 100
    return None


def integers(n: int, k: int, zeros: float, group: int) -> np.ndarray:
    """(k, n) int8, ``zeros`` of its blocks of 16 outputs by ``group`` inputs away."""
    kept = np.repeat(pruned(n, k // group, zeros, 16) != 0, group, axis=0)
    rng = np.random.default_rng(2)
    return (rng.integers(1, 128, (k, n)) * rng.choice([-1, 1], (k, n)) * kept).astype(np.int8)


def line(row: dict[str, Any]) -> str:
    cells = ["x".join(map(str, row["shape"]))]
    for group in GROUPS:
        cells += ["{1:.2f} ({0:.2f}-{2:.2f})".format(*row[f"16x{group}_{zeros}"]) for zeros in ASKED]
        even, auto = row[f"16x{group}_break_even"], row[f"16x{group}_auto"]
        cells.append("" if even is None else f"{'below ' * (even == LADDER[0])}{100 * even:.0f} %")
        cells.append("" if auto is None else f"{100 * auto:.0f} %")
    return table_row(cells)


def minilm(threads: int, seconds: float) -> dict[str, float]:
    """MiniLM with 80 % of its blocks away, as integers: against itself dense, in float32, and onnxruntime."""
    found = SUITE["minilm"]
    model = dlcomp.load(fetch("minilm"), found.shapes)
    examples = [found.example(seed=seed) for seed in range(3)]
    calibration = {key: np.concatenate([example[key] for example in examples]) for key in examples[0]}
    feed = found.example(seed=7)
    report = {}
    for group in GROUPS:
        prune = dlcomp.Sparsify(method="magnitude", target=0.8, pattern=f"16x{group}")
        floats = model.compress(prune)
        small = floats.compress(dlcomp.Quantize(), calibration=calibration)
        artifact, dense = small.compile(), small.compile(sparse=False)
        for name, value in artifact.run(feed).items():
            np.testing.assert_array_equal(value, dense.run(feed)[name])
        peers = {"dense": dense, "float32": floats.compile(), "onnxruntime": "onnxruntime"}
        for name, peer in peers.items():
            result = artifact.bench(feed, threads=threads, compare=peer, model=model, min_time_s=seconds)
            assert result.ratio is not None
            report[f"minilm_16x{group}_vs_{name}"] = result.ratio.median
            print(f"\nMiniLM, 80 % of its 16x{group} blocks zeros, int8, against {name}: {result}", end="")
    return report


if __name__ == "__main__":
    run(main)
