"""What 8-bit integers do to networks of text: the strings of PP-OCR's recogniser, MiniLM's embeddings.

Lines of drawn words and numbers of several sizes, and the picture of the first tutorial. Every form is
quantized on other lines: dlcomp's with fixed ranges, onnxruntime's quantizer with fixed ranges, and its
dynamic one. Exact is the share of lines whose string is the float network's; edits are insertions, deletions
and changes for each of its characters. Of MiniLM see ``sentences.py``.
"""

from __future__ import annotations

import importlib
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from inputs import drawn_line
from models import SUITE, fetch
from peer_quantizer import by_onnxruntime, dynamic_by_onnxruntime
from sentences import rows as embeddings

import dlcomp
from dlcomp.compress.network import Network
from dlcomp.frontend.inference import inferred
from dlcomp.runtime import peer

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
WORDS = (
    "weights of a network are rounded to integers and the scale says how far apart they lie invoice total "
    "street number page chapter figure paid by card Monday April London Zurich quick brown fox jumps over"
).split()
Scores = Callable[[np.ndarray], np.ndarray]
# What loses most for the MACs that it has when it alone is quantized, on lines that are not judged here.
KEPT = ("MatMul", r"Conv\.\d$", r"Conv\.1[0-3579]$", r"Conv\.2[1235-9]$", r"Conv\.3[13-7]$")
RECIPES: dict[str, tuple[Any, ...]] = {
    "dlcomp, fixed ranges": (dlcomp.Quantize(),),
    "dlcomp, smoothed": (dlcomp.Smooth(), dlcomp.Quantize(method="minmax")),
    "dlcomp, smoothed, GPTQ": (dlcomp.Smooth(), dlcomp.Quantize(method="minmax", rounding="gptq")),
    "dlcomp, the same, sensitive layers in float32": (
        dlcomp.Smooth(),
        dlcomp.Quantize(method="minmax", rounding="gptq", keep=KEPT),
    ),
}


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    sys.path.insert(0, str(TUTORIALS))
    reader = importlib.import_module("01_compile_and_run")
    path, entry = fetch("ppocr_rec"), SUITE["ppocr_rec"]
    model = dlcomp.load(path, entry.shapes)
    others = [line(seed) for seed in range(1000, 1008 if arguments.quick else 1032)]
    judged = [reader.preprocess(reader.PICTURE), *map(line, range(12 if arguments.quick else 99))]
    forms = made(model, others, arguments.quick)
    alphabet = reader.characters(path)
    texts = {
        form: [reader.decode(scores(one)[0], alphabet)[0] for one in judged]
        for form, (scores, _) in forms.items()
    }
    right = texts.pop("float32")
    print(f"PP-OCR's recogniser, {len(judged)} lines\n")
    print(header("int8 by", "MACs on integers %", "exact %", "edits %"))
    rows: list[dict[str, Any]] = []
    for form, found in texts.items():
        row = {"form": form, "lines": len(judged), "macs": forms[form][1], **agreement(found, right)}
        rows.append(row)
        share = "" if row["macs"] is None else f"{100 * row['macs']:.0f}"
        print(table_row([form, share, f"{100 * row['exact']:.1f}", f"{100 * row['edits']:.2f}"]))
    best = max((row for row in rows if row["form"] in RECIPES), key=lambda row: row["exact"])
    summary = {"exact_percent": 100 * best["exact"], "edits_percent": 100 * best["edits"]}
    found = embeddings(arguments.quick)
    summary["minilm_mean_cosine"] = max(
        row["mean_cosine"] for row in found if row["form"].startswith("dlcomp")
    )
    finish([*rows, *found], summary, arguments.json)


def line(seed: int) -> np.ndarray:
    """A line of a few words or numbers, as the network takes it."""
    rng = np.random.default_rng(seed)
    drawn = [str(word) for word in rng.choice(WORDS, rng.integers(2, 4))]
    if rng.random() < 0.5:
        drawn.append(f"{rng.uniform(0, 1000):.2f}")
    return drawn_line(" ".join(drawn), (48, 320), int(rng.integers(18, 34)), rng)


def made(
    model: dlcomp.Model, others: Sequence[np.ndarray], quick: bool
) -> dict[str, tuple[Scores, float | None]]:
    """The networks, from a line to the scores of characters, and how much of them is integers if known."""
    assert model.source is not None
    feeds = [{"x": one} for one in others]
    network = model.source.SerializeToString()
    with tempfile.TemporaryDirectory() as where:
        static = by_onnxruntime(network, feeds, Path(where))
        dynamic, products = (dynamic_by_onnxruntime(network, Path(where), only) for only in (False, True))
    forms = {"float32": (compiled(model), 0.0)}
    for title, recipe in list(RECIPES.items())[: 1 if quick else None]:
        small = model.compress(*recipe, calibration=feeds)
        forms[title] = compiled(small), integer_macs(small)
    forms |= {
        "onnxruntime, fixed ranges": (session(static), None),
        "onnxruntime, dynamic": (session(dynamic), None),
        "onnxruntime, dynamic, products only": (session(products), None),
    }
    if not quick:
        small = model.compress(dlcomp.Quantize(activations="dynamic"))
        forms["dlcomp, dynamic, products only"] = compiled(small), None
    return forms


def integer_macs(model: dlcomp.Model) -> float:
    """The share of a quantized network's multiply-accumulates whose weights are integers."""
    network = Network(model)
    graph = inferred(network.proto)
    typed = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.output)}
    coded = {node.output[0]: node.input[0] for node in network.nodes if node.op_type == "DequantizeLinear"}
    macs = {True: 0, False: 0}
    for node in network.nodes:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        stored = coded.get(node.input[1], node.input[1])
        if stored in network.weights:
            shape = network.weights[stored].shape
            axis = 0 if node.op_type == "Conv" else -1
            outputs = math.prod(int(dim.dim_value) for dim in typed[node.output[0]])
            macs[stored != node.input[1]] += outputs * math.prod(shape) // shape[axis]
    return macs[True] / sum(macs.values())


def compiled(model: dlcomp.Model) -> Scores:
    artifact = model.compile("host")
    return lambda one: next(iter(artifact.run({"x": one}).values()))


def session(network: bytes) -> Scores:
    made = peer.session(network, 1)
    return lambda one: np.asarray(made.run(None, {"x": one})[0])


def agreement(found: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """The share of equal strings, and edits for each character of ``right``."""
    pairs = list(zip(found, right, strict=True))
    changes = sum(edits(*pair) for pair in pairs)
    return {
        "exact": sum(a == b for a, b in pairs) / len(pairs),
        "edits": changes / max(1, sum(map(len, right))),
    }


def edits(found: str, right: str) -> int:
    """Levenshtein's distance."""
    above = list(range(len(right) + 1))
    for row, one in enumerate(found, 1):
        left = [row]
        for place, other in enumerate(right):
            left.append(min(above[place] + (one != other), above[place + 1] + 1, left[-1] + 1))
        above = left
    return above[-1]


if __name__ == "__main__":
    run(main)
