"""Compile a real network for this machine and read a line of text from a picture with it.

The network is PP-OCRv4's recogniser (an SVTR-LCNet: depthwise convolutions, then attention). It takes a
picture of one line and gives, for each of 40 steps along it, the probability of each of 6625 characters.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

import dlcomp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import models  # noqa: E402

HEIGHT, WIDTH = 48, 320
PICTURE = ROOT / "tutorials" / "data" / "line.png"


def main() -> None:
    # 1. The network: downloaded once inside its Python package, checked, cached.
    path = models.fetch("ppocr_rec")

    # 2. Load it with its shapes bound, and compile it for the processor that this runs on.
    begin = time.perf_counter()
    model = dlcomp.load(path, shapes={"x": (1, 3, HEIGHT, WIDTH)})
    artifact = model.compile(target="host")
    print(f"compiled {model.name} in {time.perf_counter() - begin:.1f} s for {artifact.target}")

    # 3. Run it.
    inputs = {"x": preprocess(PICTURE)}
    (scores,) = artifact.run(inputs).values()
    text, confidence = decode(scores[0], characters(path))
    print(f"\n    {PICTURE.name} reads: {text!r} (confidence {confidence:.3f})\n")

    # 4. Are the numbers those of the network?
    print(dlcomp.verify(model, artifact, inputs))

    # 5. Is it fast? Measured in turn with onnxruntime, in one process, on the same number of threads.
    print(artifact.bench(inputs, compare="onnxruntime", model=path))


def preprocess(picture: Path) -> np.ndarray:
    """The picture as the network wants it: (1, 3, 48, 320) float32 in [-1, 1], BGR, padded on the right."""
    image = Image.open(picture).convert("RGB")
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32)
    padded = np.zeros((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    padded[0, :, :, :width] = (pixels[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return padded


def characters(path: Path) -> list[str]:
    """The alphabet, which the network's file carries; index 0 is CTC's blank and the last is the space."""
    network = onnx.load(path, load_external_data=False)
    listed = next(entry.value for entry in network.metadata_props if entry.key == "character")
    return ["", *listed.splitlines(), " "]


def decode(scores: np.ndarray, alphabet: list[str]) -> tuple[str, float]:
    """Greedy CTC: the best character of each step, repetitions merged, blanks dropped."""
    best = scores.argmax(axis=1)
    kept = (best != 0) & (best != np.concatenate([[-1], best[:-1]]))
    text = "".join(alphabet[index] for index in best[kept])
    return text, float(scores.max(axis=1)[kept].mean()) if kept.any() else 0.0


if __name__ == "__main__":
    main()
