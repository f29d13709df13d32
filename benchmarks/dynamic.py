"""Quantization without calibration data, dlcomp's and onnxruntime's (``quantize_dynamic``).

The LSTM on the 10,000 test images of Fashion-MNIST, and MiniLM on token sequences: the least and the mean
cosine between what it makes of them in float32 and in integers. All networks are run by onnxruntime as it
runs them by default; dlcomp's also by dlcomp, whose times against its own float32 are taken in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import finish, header, options, run, table_row
from datasets import fashion
from models import SUITE, fetch
from quantization import NETWORKS

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.runtime import peer
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered

RECIPES = {
    "dynamic": "quantize:activations=dynamic",
    "8-bit weights alone": "quantize:activations=float32",
    "4-bit weights alone, groups of 32": "quantize:activations=float32,bits=4,group=32",
}
Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], np.ndarray]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    arguments = parser.parse_args()
    images, labels = fashion("t10k")
    count = 500 if arguments.quick else len(images)
    feeds = [{"image": one[None]} for one in images[:count]]

    def accuracy(made: list[np.ndarray], right: list[np.ndarray]) -> dict[str, float]:
        found = np.array([int(one.argmax()) for one in made])
        return {"accuracy_percent": 100 * float(np.mean(found == labels[: len(found)]))}

    model = dlcomp.load(NETWORKS / "lstm.onnx", {"image": (1, 1, 28, 28)})
    rows = forms("lstm", model, feeds, accuracy)
    if not arguments.quick:
        minilm = dlcomp.load(fetch("minilm"), SUITE["minilm"].shapes)
        rows += forms("minilm", minilm, sentences(32), cosine)
    finish(rows, {}, arguments.json)


def forms(
    name: str,
    model: dlcomp.Model,
    feeds: list[dict[str, np.ndarray]],
    judge: Callable[[list[np.ndarray], list[np.ndarray]], dict[str, float]],
) -> list[dict[str, Any]]:
    """A row for each form of the network, printed."""
    print(f"\n{name}, {len(feeds)} inputs\n")
    print(header("form", "file, MB", "by onnxruntime", "by dlcomp", "float32's time over its", ".dlc, MB"))
    float_run = by_onnxruntime(model.source.SerializeToString())
    right = [float_run(feed) for feed in feeds]
    wide = model.compile("host")
    rows = []
    networks: dict[str, dlcomp.Model | None] = {"float32": model, "onnxruntime, dynamic": None}
    networks |= {title: model.compress(parse(recipe)) for title, recipe in RECIPES.items()}
    for title, small in networks.items():
        data = quantized_by_onnxruntime(model) if small is None else small.source.SerializeToString()
        theirs = by_onnxruntime(data)
        row: dict[str, Any] = {"network": name, "form": title, "file_bytes": len(data)}
        row["onnxruntime"] = judge([theirs(feed) for feed in feeds], right)
        cells = [f"{len(data) / 1e6:.2f}", text(row["onnxruntime"])]
        if small is not None:
            artifact = small.compile("host")
            row["dlcomp"] = judge([next(iter(artifact.run(feed).values())) for feed in feeds], right)
            pair = [a.session().staged(ordered(feeds[0], a.signature), 1) for a in (artifact, wide)]
            *_, ratio = in_turn(*pair, min_time_s=1.0)
            row["ratio"] = [ratio.low, ratio.median, ratio.high]
            row["dlc_bytes"] = file_bytes(artifact)
            cells += [text(row["dlcomp"]), f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"]
            cells.append(f"{row['dlc_bytes'] / 1e6:.2f}")
        rows.append(row)
        print(table_row([title, *cells]), flush=True)
    return rows


def text(found: Mapping[str, float]) -> str:
    return " ".join(f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}" for value in found.values())


def cosine(made: list[np.ndarray], right: list[np.ndarray]) -> dict[str, float]:
    """Of all numbers of an input's result."""
    pairs = [
        (a.ravel().astype(np.float64), b.ravel().astype(np.float64)) for a, b in zip(made, right, strict=True)
    ]
    found = [float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in pairs]
    return {"least_cosine": min(found), "mean_cosine": float(np.mean(found))}


def sentences(count: int) -> list[dict[str, np.ndarray]]:
    """Tokens at random, of half to all of the places."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(rng.integers(32, 65))
        ids = np.zeros((1, 64), np.int64)
        ids[0, :length] = [101, *rng.integers(1996, 29000, length - 2), 102]
        made.append({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    return made


def by_onnxruntime(network: bytes) -> Run:
    session = peer.session(network, 1, optimize=True)
    return lambda feed: np.asarray(session.run(None, dict(feed))[0])


def quantized_by_onnxruntime(model: dlcomp.Model) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as where:
        source, made = Path(where) / "source.onnx", Path(where) / "made.onnx"
        onnx.save(model.source, source)
        quantize_dynamic(source, made, weight_type=QuantType.QInt8, per_channel=True)
        return made.read_bytes()


def file_bytes(artifact: Any) -> int:
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "one.dlc"
        artifact.save(path)
        return path.stat().st_size


if __name__ == "__main__":
    run(main)
