"""Integer k x k convolutions that skip zeros against dlcomp's own dense integer ones, layer by layer.

Weights are pruned in blocks of 16 outputs at four neighbouring channels (``16x4``), which one instruction
takes together, and of 16 outputs at one channel (``16x1``), of which a group is skipped where all four are
zeros. Both sides are compiled in the same way, the dense one with ``sparse=False``, and timed in turn in one
process; results are equal to the bit, and right. A ratio is the dense kernel's time over the sparse one's,
whether or not the compiler would choose it; ``auto`` is from how many zeros on it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import finish, geomean, header, options, run
from onnx import TensorProto, helper, numpy_helper
from sparse import LADDER, crossing, pruned
from sparse_int8 import line

import dlcomp
from dlcomp import schedules
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.sparsity import left_in_groups
from dlcomp.schedules.workload import Conv2d

KERNEL = "conv2d.block_sparse_integers"
ASKED = (0.75, 0.9)
GROUPS = (1, 4)
# Pixels high and wide, channels read and made, taps, stride: those of ResNets and of YOLO's necks.
SHAPES = (
    (56, 64, 64, 3, 1),
    (28, 128, 128, 3, 1),
    (14, 256, 256, 3, 1),
    (7, 512, 512, 3, 1),
    (56, 64, 128, 3, 2),
    (28, 128, 256, 3, 2),
    (40, 64, 64, 3, 1),
    (28, 32, 64, 5, 1),
)
QUICK = SHAPES[1:3]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.quick else 0.2
    names = [f"16x{group} {cell}" for group in GROUPS for cell in ("75 %", "90 %", "break-even", "auto")]
    print(header(f"pixels x inputs x outputs x taps x stride, {arguments.threads} thread(s)", *names))
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
    finish(rows, summary, arguments.json)


def layer(shape: tuple[int, ...], threads: int, seconds: float) -> dict[str, Any]:
    """The ratios of one layer, and from how many zeros on its kernel is as fast as the dense one."""
    found: dict[str, Any] = {"shape": shape, "threads": threads}
    for group in GROUPS:
        measured: dict[float, float] = {}
        for zeros in (*LADDER, *ASKED):
            ratio = ratio_of(shape, zeros, group, threads, seconds)
            # Without a group that is all zeros there is nothing to skip, and no such kernel.
            measured[zeros] = 0.0 if ratio is None else ratio[1]
            if zeros in ASKED:
                found[f"16x{group}_{zeros}"] = ratio or [0.0, 0.0, 0.0]
        found[f"16x{group}_break_even"] = crossing(sorted(measured.items()))
        found[f"16x{group}_auto"] = chosen_from(shape, group)
    return found


def ratio_of(
    shape: tuple[int, ...], zeros: float, group: int, threads: int, seconds: float
) -> list[float] | None:
    """Quartiles of dense over sparse; None if the weights have no sparse kernel."""
    size, inputs, _, taps, stride = shape
    weight = integers(shape, zeros, group)
    side = (size - 1) // stride * stride + taps
    x = np.random.default_rng(1).integers(0, 256, (1, inputs, side, side)).astype(np.uint8)
    made = [compiled(weight, side, stride, dense) for dense in (True, False)]
    if not any(KERNEL in kernel.schedule for kernel in made[1].kernels):
        return None
    found = [artifact.run({"x": x})["y"] for artifact in made]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], right(x, weight, stride))
    sides = [one.session().staged(ordered({"x": x}, one.signature), threads) for one in made]
    ratio = in_turn(sides[1], sides[0], warmup_s=seconds / 4, min_time_s=seconds)[2]
    return [ratio.low, ratio.median, ratio.high]


def right(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """The convolution, tap by tap; float64 holds the sums exactly."""
    taps, size = weight.shape[-1], (x.shape[-1] - weight.shape[-1]) // stride + 1
    end = (size - 1) * stride + 1
    total = np.zeros((len(weight), size * size))
    for ky in range(taps):
        for kx in range(taps):
            read = x[0, :, ky : ky + end : stride, kx : kx + end : stride].astype(np.float64)
            total += weight[:, :, ky, kx].astype(np.float64) @ read.reshape(len(read), -1)
    return total.reshape(1, -1, size, size)


def compiled(weight: np.ndarray, side: int, stride: int, dense: bool) -> Any:
    """A convolution by ``weight``: by the dense kernel, or by the sparse one whatever the estimates say."""
    graph = helper.make_graph(
        [helper.make_node("ConvInteger", ["x", "w"], ["y"], strides=[stride, stride])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, weight.shape[1], side, side])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = dlcomp.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    if dense:
        return model.compile(sparse=False)
    whole = schedules.TEMPLATES
    try:
        schedules.TEMPLATES = tuple(t for t in whole if t.name != "conv2d.direct")
        return model.compile()
    finally:
        schedules.TEMPLATES = whole


def chosen_from(shape: tuple[int, ...], group: int) -> float | None:
    """The share of zeros, in steps of 5 %, from which on the compiler takes the sparse kernel."""
    size, inputs, outputs, taps, stride = shape
    target = dlcomp.Target.parse("host")
    name = integer_arithmetic(target, "int8")
    side, out = (size - 1) // stride * stride + taps, (size - 1) // stride + 1
    for percent in range(35, 100, 5):
        weight = integers(shape, percent / 100, group).transpose(0, 2, 3, 1).reshape(outputs, -1).T
        stored = left_in_groups(weight, arithmetic_of(name).group)
        workload = Conv2d(1, side, side, inputs, out, out, outputs, taps, taps, stride, stride, 1, 1, 0, 0, 1,
                          name, stored)  # fmt: skip
        found = schedules.select(workload, target)
        if found is not None and found[0].name == KERNEL:
            return percent / 100
    return None


def integers(shape: tuple[int, ...], zeros: float, group: int) -> np.ndarray:
    """(outputs, inputs, taps, taps) int8, ``zeros`` of its blocks of 16 by ``group`` channels away."""
    _, inputs, outputs, taps, _ = shape
    k = taps * taps * inputs
    kept = np.repeat(pruned(outputs, k // group, zeros, 16) != 0, group, axis=0)
    rng = np.random.default_rng(2)
    matrix = rng.integers(1, 128, (k, outputs)) * rng.choice([-1, 1], (k, outputs)) * kept
    weight = matrix.T.reshape(outputs, taps, taps, inputs).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(weight, dtype=np.int8)


if __name__ == "__main__":
    run(main)
