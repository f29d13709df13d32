"""What 8-bit integers do to networks of text: the strings of PP-OCR's recogniser, MiniLM's embeddings.

Lines of drawn words and numbers, cut out as the recogniser's detector does, and others that it is not made
for. Every form is quantized on other lines: dlcomp's with fixed ranges, onnxruntime's quantizer with fixed
ranges, and its dynamic one. Right is the share of lines read as they were drawn, spaces apart, as PaddleOCR
judges its recognisers (``RecMetric``, ``ignore_space``); kept is that share over the float network's; wrong
are insertions, deletions and changes for each drawn character. Exact is the share of lines whose string, with
its spaces, is the float network's. Of MiniLM see ``sentences.py``.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from inputs import cropped_line, drawn_line
from models import SUITE, fetch
from peer_quantizer import by_onnxruntime, dynamic_by_onnxruntime
from sentences import rows as embeddings

import dlcomp
from dlcomp.compress.network import Network
from dlcomp.compress.recipe import parse
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import macs_of_nodes
from dlcomp.runtime import peer

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
WORDS = (
    "weights of a network are rounded to integers and the scale says how far apart they lie invoice total "
    "street number page chapter figure paid by card Monday April London Zurich quick brown fox jumps over"
).split()
Scores = Callable[[np.ndarray], np.ndarray]
RECIPES: dict[str, tuple[str, ...]] = {
    "dlcomp, fixed ranges": ("quantize",),
    "dlcomp, smoothed": ("smooth", "quantize:method=minmax"),
    "dlcomp, smoothed, GPTQ": ("smooth", "quantize:method=minmax,rounding=gptq"),
    "dlcomp, the same, 95 % of the MACs": (
        "smooth",
        "quantize:method=minmax,rounding=gptq,integer_macs=0.95",
    ),
    "dlcomp, the same, 80 % of the MACs": ("smooth", "quantize:method=minmax,rounding=gptq,integer_macs=0.8"),
}


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    sys.path.insert(0, str(TUTORIALS))
    reader = importlib.import_module("01_compile_and_run")
    path, entry = fetch("ppocr_rec"), SUITE["ppocr_rec"]
    model = dlcomp.load(path, entry.shapes)
    half = 4 if arguments.quick else 16
    others = [line(seed, loose)[0] for loose in (False, True) for seed in range(1000, 1000 + half)]
    forms = made(model, others, arguments.quick)
    alphabet = reader.characters(path)
    rows: list[dict[str, Any]] = []
    for kind, loose in (("cut close to the letters", False), ("with much around the letters", True)):
        judged, drawn = zip(
            *(line(seed, loose) for seed in range(12 if arguments.quick else 300)), strict=True
        )
        print(f"PP-OCR's recogniser, {len(judged)} lines {kind}\n")
        texts = {
            form: [reader.decode(scores(one)[0], alphabet)[0] for one in judged]
            for form, (scores, _) in forms.items()
        }
        rows += compared(texts, drawn, {form: macs for form, (_, macs) in forms.items()}, kind)
        print()
    best = max((row for row in rows if row["form"] in RECIPES), key=lambda row: row["kept"])
    summary = {"rate_kept": best["kept"], "exact_percent": 100 * best["exact"]}
    found = embeddings(arguments.quick)
    summary["minilm_mean_cosine"] = max(
        row["mean_cosine"] for row in found if row["form"].startswith("dlcomp")
    )
    finish([*rows, *found], summary, arguments.json)


def compared(
    texts: Mapping[str, Sequence[str]], drawn: Sequence[str], macs: Mapping[str, float | None], kind: str
) -> list[dict[str, Any]]:
    """A row for each form, printed; the first is what the others are compared with."""
    print(header("form", "MACs on integers %", "right %", "kept", "wrong characters %", "exact %"))
    rows: list[dict[str, Any]] = []
    for form, found in texts.items():
        row = {"form": form, "lines": kind, "count": len(drawn), "macs": macs[form]}
        row |= {**correctness(found, drawn), **agreement(found, texts[next(iter(texts))])}
        row["kept"] = row["right"] / max(rows[0]["right"] if rows else row["right"], 1e-9)
        rows.append(row)
        share = "" if row["macs"] is None else f"{100 * row['macs']:.0f}"
        shares = [f"{100 * row['right']:.1f}", f"{row['kept']:.3f}", f"{100 * row['wrong']:.2f}"]
        print(table_row([form, share, *shares, f"{100 * row['exact']:.1f}"]))
    return rows


def line(seed: int, loose: bool) -> tuple[np.ndarray, str]:
    """A line of a few words or numbers, as the network takes it, and what is written on it.

    Cut close to the letters and scaled, as the detector and PaddleOCR give it; ``loose`` ones have letters of
    several sizes with as much around them as is left.
    """
    rng = np.random.default_rng(seed)
    drawn = [str(word) for word in rng.choice(WORDS, rng.integers(2, 4))]
    if rng.random() < 0.5:
        drawn.append(f"{rng.uniform(0, 1000):.2f}")
    text = " ".join(drawn)
    draw = drawn_line if loose else cropped_line
    return draw(text, (48, 320), int(rng.integers(18, 34)), rng), text


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
        small = model.compress(*map(parse, recipe), calibration=feeds)
        forms[title] = compiled(small), integer_macs(small)
    forms |= {
        "onnxruntime, fixed ranges": (session(static), None),
        "onnxruntime, dynamic": (session(dynamic), None),
        "onnxruntime, dynamic, products only": (session(products), None),
    }
    if not quick:
        small = model.compress(dlcomp.Quantize(activations="dynamic"))
        forms["dlcomp, dynamic, products only"] = compiled(small), integer_macs(small)
    return forms


def integer_macs(model: dlcomp.Model) -> float:
    """The share of a network's multiply-accumulates both of whose factors have 8 bits."""
    network = Network(model)
    coded = {node.output[0]: node for node in network.nodes if node.op_type == "DequantizeLinear"}
    narrow = {
        name for name, node in coded.items() if network.weights[node.input[2]].dtype in (np.uint8, np.int8)
    }
    macs = {True: 0, False: 0}
    for node, count in macs_of_nodes(inferred(network.proto)):
        assert count is not None, node.name
        macs["Integer" in node.op_type or narrow.issuperset(node.input[:2])] += count
    return macs[True] / sum(macs.values())


def compiled(model: dlcomp.Model) -> Scores:
    artifact = model.compile("host")
    return lambda one: next(iter(artifact.run({"x": one}).values()))


def session(network: bytes) -> Scores:
    made = peer.session(network, 1)
    return lambda one: np.asarray(made.run(None, {"x": one})[0])


def correctness(found: Sequence[str], drawn: Sequence[str]) -> dict[str, float]:
    """The share of strings that are those drawn, and edits for each character drawn, both without spaces."""
    pairs = [(a.replace(" ", ""), b.replace(" ", "")) for a, b in zip(found, drawn, strict=True)]
    changes = sum(edits(*pair) for pair in pairs)
    return {
        "right": sum(a == b for a, b in pairs) / len(pairs),
        "wrong": changes / max(1, sum(len(b) for _, b in pairs)),
    }


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
