"""Tune the layers of a network for the VTA accelerator, then the accelerator for the network.

Every layer can be cut into tiles in hundreds of ways. An estimate ranks them in milliseconds; the cycle
simulator is exact and takes about 20. First: how well does the estimate rank? Then `dlcomp.tune` simulates
the most promising and the neighbours of the best, and keeps records; a compilation with the database uses
them. Last, the same network on accelerators with blocks of 8, 16 and 32 channels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import dlcomp
from dlcomp.codegen.vta.choose import candidates, layer_cycles, sample
from dlcomp.codegen.vta.estimate import estimate
from dlcomp.codegen.vta.network import network_convolutions
from dlcomp.codegen.vta.sweep import descriptions, sweep
from dlcomp.vta.timing import preset
from dlcomp.vta_targets import load

ROOT = Path(__file__).resolve().parent.parent
CONFIG, TIMING = load("pynq"), preset("pipelined")
TRIALS = 24


def main() -> None:
    with np.load(ROOT / "tutorials" / "data" / "fashion.npz") as file:
        pictures = file["calibration"].astype(np.float32) / 255
    network = ROOT / "benchmarks" / "fashion" / "resnet8.onnx"
    model = dlcomp.load(network, shapes={"image": (1, 1, 28, 28)})
    model = model.compress(dlcomp.Quantize(scales="power_of_two"), calibration=pictures)
    rank_correlation(model)
    with tempfile.TemporaryDirectory() as db:
        tune(model, db, pictures[:1])
    print("\nThe accelerator for the network (batch x block; micro-ops, data, weights, sums; bus):")
    for point in sweep(model, list(descriptions(CONFIG, blocks=(8, 16, 32), buses=(64, 128)))):
        figures = f"{point.cycles:8,} cycles, {point.utilisation:4.0%} of {point.macs_per_cycle:5,} a cycle"
        print(f"  {point.name:36} {figures}")


def rank_correlation(model: dlcomp.Model) -> None:
    """Estimated and simulated cycles of every twelfth tiling of one layer (Spearman's coefficient)."""
    conv = sample(network_convolutions(model, CONFIG)[3], CONFIG)
    tilings = list(candidates(conv, CONFIG, contexts=2, sizes=12))[::12]
    guessed = np.array([estimate(conv, tiling, CONFIG, TIMING) for tiling in tilings])
    exact = np.array([layer_cycles(conv, tiling, CONFIG, TIMING) for tiling in tilings])
    ranks = [np.argsort(np.argsort(values)) for values in (guessed, exact)]
    print(f"{conv.name}: {len(tilings)} tilings of {exact.min():,} to {exact.max():,} cycles; the estimate")
    print(f"ranks them with a correlation of {np.corrcoef(*ranks)[0, 1]:.2f}, and its first is ", end="")
    print(f"{exact[guessed.argmin()] / exact.min():.2f} times the best\n")


def tune(model: dlcomp.Model, db: str, picture: np.ndarray) -> None:
    """Records, and a compilation without and with them."""
    result = dlcomp.tune(model, "vta:pynq", TRIALS, db=db)
    print(f"{result.trials} simulations of {len(result.states)} kinds of layers in {result.seconds:.0f} s:")
    for state in result.states:
        before, after = (round(s * 1e6 * CONFIG.clock_mhz) for s in (state.default_s, state.best_s))
        print(f"  {state.task.name:48} {before:7,} -> {after:7,} cycles of {len(state.task.space):4} tilings")
    plain, tuned = model.compile("vta:pynq"), model.compile("vta:pynq", db=db)
    results = [artifact.run({"image": picture})["logits"] for artifact in (plain, tuned)]
    assert np.array_equal(*results), "tiles change the time and never a number"
    totals = [sum(row.cycles for row in a.session().network.cycles()) for a in (plain, tuned)]
    print(f"the network: {totals[0]:,} -> {totals[1]:,} cycles, every number the same")


if __name__ == "__main__":
    main()
