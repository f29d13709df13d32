"""A whole trained network on the VTA accelerator: quantize, compile, run, and see where the cycles go.

The network is a residual one of eleven layers for Fashion-MNIST (Xiao et al., 2017, MIT licence; a hundred
test pictures and 64 others are in tutorials/data). Scales become powers of two, so that rescaling is a shift;
convolutions, sums and the mean become one program, and the rest is compiled for the processor beside it.
The labels are compared with the truth and with the same network in float32, every number with onnxruntime.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console

import dlcomp
from dlcomp.report.vta import layers_table
from dlcomp.runtime.vta import VtaSession

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ROOT / "benchmarks" / "fashion" / "resnet8.onnx"
BATCH = 10


def main() -> None:
    with np.load(ROOT / "tutorials" / "data" / "fashion.npz") as file:
        pictures, calibration = (file[name].astype(np.float32) / 255 for name in ("pictures", "calibration"))
        labels = file["labels"]

    # 1. Load with a fixed batch (the accelerator runs fixed shapes), and quantize: no training, 64 pictures.
    model = dlcomp.load(NETWORK, shapes={"image": (BATCH, 1, 28, 28)})
    integers = model.compress(dlcomp.Quantize(scales="power_of_two"), calibration=calibration)

    # 2. Compile, save, and open as any artifact: the file holds programs, machine code and nothing else.
    with tempfile.TemporaryDirectory() as folder:
        path = integers.compile(target="vta:pynq").save(Path(folder) / "resnet8.dlc")
        print(f"{path.name}: {path.stat().st_size:,} bytes, from {NETWORK.stat().st_size:,} of ONNX")
        artifact = dlcomp.open(path)

    # 3. Run on the functional simulator. Every integer is exact, every race or bad address is an error.
    found = logits(artifact, pictures)
    float32 = logits(model.compile("host"), pictures)
    print(f"right: {share(found, labels):.0%} on the accelerator, {share(float32, labels):.0%} in float32;")
    print(f"the same label for {np.mean(found.argmax(1) == float32.argmax(1)):.0%} of the pictures\n")

    # 4. Are the numbers those of the quantized network? onnxruntime rounds halves to even, VTA up, which is
    #    a step of int8 here and there.
    session = onnxruntime.InferenceSession(integers.source.SerializeToString())
    theirs = np.concatenate([session.run(None, {"image": part})[0] for part in batches(pictures)])
    difference = np.abs(found - theirs).max() / np.ptp(theirs)
    print(f"largest difference from onnxruntime: {difference:.1%} of the range\n")

    # 5. Where do the cycles go? Layers of few channels leave most of the 16 lanes empty.
    simulated = artifact.session()
    assert isinstance(simulated, VtaSession)
    network = simulated.network
    Console(width=120).print(layers_table(network.cycles(), network.config))
    busiest = max(network.cycles(), key=lambda layer: layer.cycles)
    print(f"\nthe longest layer is {busiest.name}: {busiest.cycles:,} cycles for {BATCH} pictures")
    traffic = network.counters[0]
    print(f"one batch moves {traffic.total_bytes:,} bytes, of which {traffic.wgt_bytes:,} are weights")


def batches(pictures: np.ndarray) -> list[np.ndarray]:
    return [pictures[first : first + BATCH] for first in range(0, len(pictures), BATCH)]


def logits(artifact: dlcomp.Artifact, pictures: np.ndarray) -> np.ndarray:
    """The outputs (N, 10) for all pictures, a batch at a time."""
    return np.concatenate([artifact.run({"image": part})["logits"] for part in batches(pictures)])


def share(found: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(found.argmax(axis=1) == labels))


if __name__ == "__main__":
    main()
