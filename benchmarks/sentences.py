"""What 8-bit integers do to MiniLM's embeddings of sentences: their cosine to the float network's.

The sentences are those of the project's licence; every form is calibrated on a half and judged on the other.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import header, table_row
from models import SUITE, fetch
from peer_quantizer import by_onnxruntime, dynamic_by_onnxruntime
from wordpiece import feed, vocabulary

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.runtime import peer

TEXT = Path(__file__).resolve().parents[1] / "LICENSE"
RECIPES: dict[str, tuple[str, ...]] = {
    "dlcomp, fixed ranges": ("quantize",),
    "dlcomp, fixed ranges, by extremes": ("quantize:method=minmax",),
    "dlcomp, smoothed": ("smooth", "quantize"),
    "dlcomp, smoothed, by extremes": ("smooth", "quantize:method=minmax"),
    "dlcomp, smoothed, GPTQ": ("smooth", "quantize:method=minmax,rounding=gptq"),
}
EMBEDDING = "sentence_embedding"
Feed = dict[str, np.ndarray]
Embed = Callable[[Feed], np.ndarray]


def rows(quick: bool) -> list[dict[str, Any]]:
    """A row for each form, printed."""
    model = dlcomp.load(fetch("minilm"), SUITE["minilm"].shapes)
    assert model.source is not None
    network = model.source.SerializeToString()
    every = sentences(SUITE["minilm"].shapes["input_ids"][1])
    others, judged = every[1::2], every[::2]
    forms: dict[str, Embed] = {}
    for title, recipe in list(RECIPES.items())[: 1 if quick else None]:
        forms[title] = compiled(model.compress(*map(parse, recipe), calibration=others))
    with tempfile.TemporaryDirectory() as where:
        forms["onnxruntime, fixed ranges"] = session(by_onnxruntime(network, others, Path(where)))
        if not quick:
            forms["dlcomp, dynamic"] = compiled(model.compress(dlcomp.Quantize(activations="dynamic")))
            forms["onnxruntime, dynamic"] = session(dynamic_by_onnxruntime(network, Path(where), True))
    right = [session(network)(one) for one in judged]
    print(f"\nMiniLM, {len(judged)} sentences\n")
    print(header("int8 by", "mean cosine", "least cosine"))
    made = []
    for title, embed in forms.items():
        cosines = [cosine(embed(one), was) for one, was in zip(judged, right, strict=True)]
        row = {
            "network": "minilm", "form": title, "sentences": len(judged),
            "mean_cosine": float(np.mean(cosines)), "least_cosine": min(cosines),
        }  # fmt: skip
        made.append(row)
        print(table_row([title, f"{row['mean_cosine']:.4f}", f"{row['least_cosine']:.4f}"]), flush=True)
    return made


def sentences(length: int) -> list[Feed]:
    """Those of six words and more, as the network takes them, in order."""
    known = vocabulary(fetch("minilm_words"))
    text = re.sub(r"\s+", " ", TEXT.read_text("utf-8"))
    parts = [part.strip() for part in re.split(r"(?<=[.;:])\s", text)]
    return [feed(part, known, length) for part in parts if len(part.split()) >= 6]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    left, right = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def compiled(model: dlcomp.Model) -> Embed:
    artifact = model.compile("host")
    return lambda one: artifact.run(one)[EMBEDDING]


def session(network: bytes) -> Embed:
    made = peer.session(network, 1)
    return lambda one: np.asarray(made.run([EMBEDDING], one)[0])
