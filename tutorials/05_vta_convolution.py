"""Double buffering of a convolution on the VTA accelerator, seen stage by stage.

A layer of ResNet-18 (14 x 14, 256 to 256 channels, 3 x 3) is cut into tiles that fit the scratchpads. With
one buffer the stages wait for each other; with two, the next tile is loaded and the last one stored while
this one is multiplied. dlcomp writes the same loads, products and stores in both cases: the tokens follow
from which addresses overlap. Results are compared with NumPy bit by bit, times are of the cycle simulator.
"""

from __future__ import annotations

import numpy as np

from dlcomp.codegen.vta.blocks import pack, unpack
from dlcomp.codegen.vta.choose import candidates, choose_tiling, layer_program
from dlcomp.codegen.vta.estimate import estimate
from dlcomp.codegen.vta.operators import Conv, Requantize, Tensor
from dlcomp.codegen.vta.reference import run_operator
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.vta.cycles import CycleResult, simulate
from dlcomp.vta.functional import run
from dlcomp.vta.schedule import STAGES
from dlcomp.vta.timing import preset
from dlcomp.vta_targets import load

CONFIG = load("pynq")
TIMING = preset("pipelined")
# Characters of the picture of the stages.
WIDTH = 92


def layer(rng: np.random.Generator) -> Conv:
    """int8 by int8 with a bias, a rounding shift by 13, and a ReLU that clips to int8."""
    weight = rng.integers(-128, 128, (256, 256, 3, 3)).astype(np.int8)
    bias = rng.integers(-(1 << 15), 1 << 15, 256).astype(np.int32)
    data, result = Tensor("data", (1, 256, 14, 14)), Tensor("result", (1, 256, 14, 14))
    return Conv("conv", data, result, weight, bias, Requantize(13, 0, 127), pads=(1, 1, 1, 1))


def main() -> None:
    conv = layer(np.random.default_rng(0))
    least = conv.macs // CONFIG.macs_per_cycle
    print(f"{conv.macs / 1e6:.1f} million multiplications, {least:,} cycles of the array with padding\n")
    # As many tilings as there are ways to cut channels, rows and columns into equal pieces that fit.
    found = {}
    for contexts in (1, 2):
        tilings = sorted(
            candidates(conv, CONFIG, contexts), key=lambda tiling: estimate(conv, tiling, CONFIG, TIMING)
        )
        middle, best = tilings[len(tilings) // 2], choose_tiling(conv, CONFIG, TIMING, contexts=contexts)
        print(f"{'one buffer' if contexts == 1 else 'two buffers'}: {len(tilings)} tilings fit")
        for name, tiling in (("the middle one", middle), ("the choice", best)):
            found[contexts, name] = times = measure(conv, tiling)
            print(f"  {name:15} {str_of(tiling):50} {times.cycles:9,} cycles, {least / times.cycles:4.0%}")
    one, two = found[1, "the choice"], found[2, "the choice"]
    print(f"\ntwo buffers are {one.cycles / two.cycles:.2f} times as fast; what the stages waited for:\n")
    for title, times in (("one buffer", one), ("two buffers", two)):
        print(title)
        for stage in STAGES:
            waits = sorted(times.stalls[stage].items(), key=lambda pair: -pair[1])
            print(f"  {stage:8} {picture(times, stage)}")
            print(f"  {'':8} busy {times.busy[stage]:,}; " + ", ".join(f"{r} {c:,}" for r, c in waits[:3]))


def measure(conv: Conv, tiling: Tiling) -> CycleResult:
    """Compile, run, compare with NumPy, time."""
    program = layer_program(conv, tiling, CONFIG).finish()
    data = np.random.default_rng(1).integers(-128, 128, conv.data.shape).astype(np.int8)
    outputs = run(program, CONFIG, {"data": pack(data, CONFIG)}).outputs
    result = unpack(outputs["result"], conv.result, CONFIG)
    assert np.array_equal(result, run_operator(conv, {"data": data}))
    return simulate(program, CONFIG, TIMING)


def str_of(tiling: Tiling) -> str:
    first = "channels" if tiling.channels_first else "pixels"
    return f"{tiling.oc} x {tiling.ic} blocks, {tiling.rows} x {tiling.columns} outputs, {first} outermost"


def picture(times: CycleResult, stage: str) -> str:
    """The stage over time: # where it is busy for most of the cycles of a character, - for some."""
    busy = np.zeros(WIDTH)
    size = times.cycles / WIDTH
    for span in times.spans:
        if span.stage == STAGES.index(stage):
            for place in range(int(span.start / size), min(WIDTH - 1, int(span.end / size)) + 1):
                low, high = max(span.start, place * size), min(span.end, (place + 1) * size)
                busy[place] += max(0.0, high - low) / size
    return "".join("#" if share > 0.5 else "-" if share > 0.05 else " " for share in busy)


if __name__ == "__main__":
    main()
