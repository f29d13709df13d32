"""Cycles of ResNet-18's convolutions on VTA (``vta:pynq``, pipelined core), every layer checked bit by bit.

The ten layers are C2 to C11 of the original's benchmarks, with random integers: a convolution, a bias, a
shift, a ReLU and a clip to int8. Utilisation is nominal multiply-accumulates (padding included) a cycle over
the 256 of the array; padding is not multiplied, so it can exceed 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row

from dlcomp.codegen.vta.blocks import pack, unpack
from dlcomp.codegen.vta.choose import choose_tiling, layer_program
from dlcomp.codegen.vta.operators import Conv, Requantize, Tensor, output_size
from dlcomp.codegen.vta.reference import run_operator
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.target import Target
from dlcomp.tune.database import Database
from dlcomp.tune.tuner import Budget
from dlcomp.tune.vta import VtaTuner, tasks, tiling_of
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import simulate
from dlcomp.vta.functional import Simulator
from dlcomp.vta.timing import preset
from dlcomp.vta_targets import load

# Name, height and width, channels in and out, kernel, stride, how often ResNet-18 has it.
LAYERS = (
    ("C2", 56, 64, 64, 3, 1, 4),
    ("C3", 56, 64, 128, 3, 2, 1),
    ("C4", 56, 64, 128, 1, 2, 1),
    ("C5", 28, 128, 128, 3, 1, 3),
    ("C6", 28, 128, 256, 3, 2, 1),
    ("C7", 28, 128, 256, 1, 2, 1),
    ("C8", 14, 256, 256, 3, 1, 3),
    ("C9", 14, 256, 512, 3, 2, 1),
    ("C10", 14, 256, 512, 1, 2, 1),
    ("C11", 7, 512, 512, 3, 1, 3),
)
PIPELINED = preset("pipelined")


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--target", default="pynq", help="a description in vta_targets/")
    parser.add_argument(
        "--trials", type=int, default=0, help="tune every layer with so many: before and after"
    )
    arguments = parser.parse_args()
    config = load(arguments.target)
    if arguments.trials:
        tuned(arguments.target, config, arguments.trials, arguments.json)
        return
    # Tilings that are simulated for each layer.
    finalists = 4 if arguments.quick else 48
    names = ("layer", "times", "cycles", "of one buffer", "utilisation", "bytes", "instructions", "tiling")
    print(header(*names))
    rows = []
    for name, size, inputs, outputs, kernel, stride, times in LAYERS:
        conv = layer(size, inputs, outputs, kernel, stride, np.random.default_rng(size))
        row = {"layer": name, "times": times, **measure(conv, config, finalists)}
        print(table_row(row[n] for n in names), flush=True)
        rows.append(row)

    def total(key: str) -> Any:
        return sum(row["times"] * row[key] for row in rows)

    summary = {
        "resnet18_cycles": total("cycles"),
        "resnet18_cycles_of_one_buffer": total("of one buffer"),
        "resnet18_utilisation": total("macs") / config.macs_per_cycle / total("cycles"),
        "resnet18_bit_equal": int(all(row["equal"] for row in rows)),
        "resnet18_functional_seconds": total("functional seconds"),
        "resnet18_cycle_sim_seconds": total("cycle seconds"),
    }
    finish(rows, summary, arguments.json)


def tuned(target: str, config: VtaConfig, trials: int, json_path: str | None) -> None:
    """Every layer as a compilation cuts it, and as the tuner does."""
    names = (
        "layer",
        "times",
        "cycles before",
        "after",
        "utilisation before",
        "after",
        "bytes before",
        "after",
    )
    print(header(*names, "tiling"))
    rows: list[dict[str, Any]] = []
    for name, size, inputs, outputs, kernel, stride, times in LAYERS:
        conv = layer(size, inputs, outputs, kernel, stride, np.random.default_rng(size))
        with tempfile.TemporaryDirectory() as folder:
            layers = tasks([conv], config)
            tuner = VtaTuner(layers, Target.parse(f"vta:{target}"), Database(folder), Budget(trials))
            (state,) = tuner.run().states
        default, best = (tiling_of(c.knobs) for c in (state.task.space[0], state.best))
        before, after = (measured(conv, tiling, config) for tiling in (default, best))
        row = {
            "layer": name,
            "times": times,
            "before": before,
            "after": after,
            "space": len(state.task.space),
        }
        figures = [(before[key], after[key]) for key in ("cycles", "utilisation", "bytes")]
        print(table_row([name, times, *(x for pair in figures for x in pair), after["tiling"]]), flush=True)
        rows.append(row)
    summary = {
        f"resnet18_cycles_{when}": sum(row["times"] * row[when]["cycles"] for row in rows)
        for when in ("before", "after")
    }
    summary["resnet18_bit_equal"] = int(all(row["after"]["equal"] for row in rows))
    finish(rows, summary, json_path)


def layer(size: int, inputs: int, outputs: int, kernel: int, stride: int, rng: np.random.Generator) -> Conv:
    """A convolution of random integers with a padding of half its kernel."""
    pad = kernel // 2
    after = output_size(size, kernel, stride, (pad, pad))
    weight = rng.integers(-128, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
    # About as far as the sums of uniform int8 must be shifted to become int8 again.
    shift = int(np.log2(74**2 * np.sqrt(weight[0].size) / 64))
    bias = rng.integers(-(1 << shift + 4), 1 << shift + 4, outputs).astype(np.int32)
    data, result = Tensor("data", (1, inputs, size, size)), Tensor("result", (1, outputs, after, after))
    return Conv(
        "conv", data, result, weight, bias, Requantize(shift, 0, 127), (stride, stride), (pad, pad, pad, pad)
    )


def measure(conv: Conv, config: VtaConfig, finalists: int) -> dict[str, Any]:
    """Cycles with and without double buffering, and :func:`measured`."""
    single = choose_tiling(conv, config, PIPELINED, contexts=1, finalists=finalists)
    tiling = choose_tiling(conv, config, PIPELINED, finalists=finalists)
    one_buffer = simulate(layer_program(conv, single, config).finish(), config, PIPELINED).cycles
    return {**measured(conv, tiling, config), "of one buffer": one_buffer}


def measured(conv: Conv, tiling: Tiling, config: VtaConfig) -> dict[str, Any]:
    """Cycles and bytes; the result against the reference; what simulating took."""
    program = layer_program(conv, tiling, config).finish()
    cycles = simulate(program, config, PIPELINED).cycles
    cycle_seconds = _seconds(lambda: simulate(program, config, PIPELINED))
    data = np.random.default_rng(0).integers(-128, 128, conv.data.shape).astype(np.int8)
    simulator, feed = Simulator(program, config), {"data": pack(data, config)}
    found = simulator.run(feed)
    seconds = _seconds(lambda: simulator.run(feed))
    result = unpack(found.outputs["result"], conv.result, config)
    return {
        "cycles": cycles,
        "utilisation": round(conv.macs / config.macs_per_cycle / cycles, 3),
        "bytes": found.counters.total_bytes,
        "instructions": found.counters.instructions,
        "tiling": f"{tiling.oc}x{tiling.ic} blocks, {tiling.rows}x{tiling.columns}",
        "equal": bool(np.array_equal(result, run_operator(conv, {"data": data}))),
        "functional seconds": seconds,
        "cycle seconds": cycle_seconds,
        "macs": conv.macs,
    }


def _seconds(function: Callable[[], Any]) -> float:
    """The least of three: other processes only ever add."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


if __name__ == "__main__":
    run(main)
