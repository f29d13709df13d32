"""LSTMs at a third of their size: the products with inputs and with states as products of two.

The reader of captchas on drawn texts (how many it reads as before, and how many steps of them), and Silero's
detector of speech on spoken sentences with pauses (how far the probability is off, and how often it is on the
other side of one half). Only the recurrent layers are factored. Files are those of the whole network; the
kernel of the recurrent layer, of one thread, is timed in turn with the whole one's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from datasets import speech
from inputs import captcha
from models import OTHERS, fetch

import dlcomp
from dlcomp.compress.search.stopwatch import networks_in_turn

THIRD = 1 / 3
FORMS: dict[str, dict[str, Any]] = {
    "plain SVD": {"target": THIRD, "method": "svd", "data": False},
    "whitened": {"target": THIRD, "method": "whitened"},
    "whitened, half": {"target": 0.5, "method": "whitened"},
}
SECONDS = 1.5
# Samples of a chunk of speech, and of the one before that are given with it; chunks of a run.
CHUNK, CONTEXT, CHUNKS = 512, 64, 8
Feed = dict[str, np.ndarray]
Feeds = list[Feed]
Judge = Callable[[dlcomp.runtime.artifact.Artifact], dict[str, float]]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    arguments = parser.parse_args()
    rows = []
    for name in [arguments.only] if arguments.only else NETWORKS:
        rows += NETWORKS[name](arguments.quick)
    summary = {f"{row['network']}_agreement": row["agreement"] for row in rows if row["form"] == "whitened"}
    finish(rows, summary, arguments.json)


def crnn(quick: bool) -> list[dict[str, Any]]:
    model = dlcomp.load(fetch("crnn_lstm"), OTHERS["crnn_lstm"].shapes)
    rng = np.random.default_rng(0)
    fit, check = ([captcha(rng) for _ in range(n)] for n in ((20, 20) if quick else (200, 200)))
    whole = model.compile("host")
    right = [next(iter(whole.run({"input1": one}).values())).argmax(axis=-1) for one in check]

    def judge(artifact: Any) -> dict[str, float]:
        found = [next(iter(artifact.run({"input1": one}).values())).argmax(axis=-1) for one in check]
        pairs = list(zip(found, right, strict=True))
        return {
            "agreement": float(np.mean([_text(a) == _text(b) for a, b in pairs])),
            "steps": float(np.mean([np.mean(a == b) for a, b in pairs])),
        }

    return forms("crnn", model, whole, [{"input1": one} for one in fit], judge)


def _text(classes: np.ndarray) -> list[int]:
    """What is read: repeated classes are one, and 0 is none."""
    flat = classes.reshape(-1)
    return [int(c) for n, c in enumerate(flat) if c and (n == 0 or c != flat[n - 1])]


def silero(quick: bool) -> list[dict[str, Any]]:
    name = "silero_vad_16k_sequence"
    model = dlcomp.load(fetch(name), {**OTHERS[name].shapes, "input": (CHUNKS, CHUNK + CONTEXT)})
    sentences = speech()[:: 40 if quick else 4]
    whole = model.compile("host")
    fit, _ = heard(whole, sentences[::2], 0)
    check = sentences[1::2]
    _, right = heard(whole, check, 1)

    def judge(artifact: Any) -> dict[str, float]:
        _, found = heard(artifact, check, 1)
        return {
            "agreement": float(np.mean((found > 0.5) == (right > 0.5))),
            "mean_error": float(np.abs(found - right).mean()),
            "speech": float((right > 0.5).mean()),
        }

    return forms("silero", model, whole, fit, judge)


def heard(artifact: Any, sentences: list[np.ndarray], seed: int) -> tuple[Feeds, np.ndarray]:
    """What the network is given, with its own states, and the probabilities of speech.

    Each sentence has a pause of its length before it, all over a noise.
    """
    rng = np.random.default_rng(seed)
    feeds: Feeds = []
    found = []
    for sentence in sentences:
        sound = np.concatenate([np.zeros_like(sentence), sentence])
        sound = sound + rng.normal(0, 10 ** rng.uniform(-4, -2), len(sound))
        state, context = {key: np.zeros((1, 1, 128), np.float32) for key in "hc"}, np.zeros(CONTEXT)
        for start in range(0, len(sound) - CHUNK * CHUNKS + 1, CHUNK * CHUNKS):
            part = np.concatenate([context, sound[start : start + CHUNK * CHUNKS]]).astype(np.float32)
            chunks = np.stack([part[n * CHUNK : (n + 1) * CHUNK + CONTEXT] for n in range(CHUNKS)])
            feeds.append({"input": chunks, **state})
            made = artifact.run(feeds[-1])
            state, context = {"h": made["hn"], "c": made["cn"]}, part[-CONTEXT:]
            found.append(made["speech_probs"])
    return feeds, np.concatenate(found)


NETWORKS = {"crnn": crnn, "silero": silero}


def forms(name: str, model: dlcomp.Model, whole: Any, fit: Feeds, judge: Judge) -> list[dict[str, Any]]:
    layers = [node.name for node in model.source.graph.node if node.op_type == "LSTM"]
    others = "^(?!" + "|".join(f"{re.escape(layer)}$" for layer in layers) + ")"
    size, scores = _bytes(whole), judge(whole)
    print("\n" + header(name, "LSTM's weights %", ".dlc MB", *scores, "ms", "speed of all", "ranks"))
    print(table_row(["whole", "100", f"{size / 1e6:.2f}", *(f"{value:.4f}" for value in scores.values())]))
    rows = []
    for form, chosen in FORMS.items():
        made = model.compress(dlcomp.LowRank(of="parameters", keep=(others,), **chosen), calibration=fit)
        effect, artifact = made.history[-1].effect, made.compile("host")
        share = effect["parameters"][1] / effect["parameters"][0]
        timing = networks_in_turn(artifact, whole, 1, SECONDS)
        found = judge(artifact)
        row = {"network": name, "form": form, "parameters": share, "bytes": _bytes(artifact), **found}
        row |= {"bytes_before": size, "speed": timing.ratio, "by_layer": effect["by_layer"]}
        rows.append(row)
        cells = [f"{100 * share:.1f}", f"{row['bytes'] / 1e6:.2f}"]
        cells += [f"{value:.4f}" for value in found.values()]
        cells += [f"{1e3 * timing.after:.3f}", f"{timing.ratio:.2f} ({timing.low:.2f}-{timing.high:.2f})"]
        ranks = "+".join(str(layer["ranks"][0]) for layer in effect["by_layer"].values())
        print(table_row([form, *cells, ranks]), flush=True)
    return rows


def _bytes(artifact: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return int(artifact.save(Path(folder) / "one.dlc").stat().st_size)


if __name__ == "__main__":
    run(main)
