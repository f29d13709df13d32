"""What 8-bit integers do to a reader of text: PP-OCR's recogniser, its strings against the float network's.

Lines of drawn words and numbers of several sizes, and the picture of the first tutorial. Every form is
quantized on other lines: dlcomp's with fixed ranges, onnxruntime's quantizer with fixed ranges, and its
dynamic one. Exact is the share of lines whose string is the float network's; edits are insertions, deletions
and changes for each of its characters.
"""

from __future__ import annotations

import importlib
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

import dlcomp
from dlcomp.runtime import peer

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
WORDS = (
    "weights of a network are rounded to integers and the scale says how far apart they lie invoice total "
    "street number page chapter figure paid by card Monday April London Zurich quick brown fox jumps over"
).split()
Scores = Callable[[np.ndarray], np.ndarray]


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
        form: [reader.decode(scores(one)[0], alphabet)[0] for one in judged] for form, scores in forms.items()
    }
    right = texts.pop("float32")
    print(f"PP-OCR's recogniser, {len(judged)} lines\n")
    print(header("int8 by", "exact %", "edits %"))
    rows: list[dict[str, Any]] = []
    for form, found in texts.items():
        row = {"form": form, "lines": len(judged), **agreement(found, right)}
        rows.append(row)
        print(table_row([form, f"{100 * row['exact']:.1f}", f"{100 * row['edits']:.2f}"]))
    summary = {"exact_percent": 100 * rows[0]["exact"], "edits_percent": 100 * rows[0]["edits"]}
    finish(rows, summary, arguments.json)


def line(seed: int) -> np.ndarray:
    """A line of a few words or numbers, as the network takes it."""
    rng = np.random.default_rng(seed)
    drawn = [str(word) for word in rng.choice(WORDS, rng.integers(2, 4))]
    if rng.random() < 0.5:
        drawn.append(f"{rng.uniform(0, 1000):.2f}")
    return drawn_line(" ".join(drawn), (48, 320), int(rng.integers(18, 34)), rng)


def made(model: dlcomp.Model, others: Sequence[np.ndarray], quick: bool) -> dict[str, Scores]:
    """The networks, from a line to the scores of characters."""
    assert model.source is not None
    feeds = [{"x": one} for one in others]
    network = model.source.SerializeToString()
    with tempfile.TemporaryDirectory() as where:
        static = by_onnxruntime(network, feeds, Path(where))
        dynamic, products = (dynamic_by_onnxruntime(network, Path(where), only) for only in (False, True))
    forms = {
        "float32": compiled(model),
        "dlcomp, fixed ranges": compiled(model.compress(dlcomp.Quantize(), calibration=feeds)),
        "onnxruntime, fixed ranges": session(static),
        "onnxruntime, dynamic": session(dynamic),
        "onnxruntime, dynamic, products only": session(products),
    }
    if not quick:
        small = model.compress(dlcomp.Quantize(activations="dynamic"))
        forms["dlcomp, dynamic, products only"] = compiled(small)
    return forms


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
