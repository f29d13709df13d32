"""Accuracy of networks with zeros and with fewer channels, without any retraining.

Four methods side by side at 50, 70, 80 and 90 % zeros: small networks on the 10,000 test images of
Fashion-MNIST, EfficientNet-Lite0 on labelled pictures (``--pictures FOLDER``), and with ``--only minilm``,
which takes hours, the mean cosine of MiniLM's embeddings of 100 sentences to its own. Then channels of a
residual network, by how they are chosen. The networks are run by onnxruntime: sparse weights are stored as
they are, and what is asked here is how good they are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from datasets import fashion, pictures
from models import SUITE, fetch
from wordpiece import feed, vocabulary

import dlcomp
from dlcomp.runtime import peer

FASHION = ("lenet300", "lenet5", "resnet8", "dscnn")
NETWORKS = Path(__file__).parent / "fashion"
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
BATCH = 100
# What each row of a table is; ERK leaves small layers denser.
METHODS: Mapping[str, dict[str, Any]] = {
    method: {"method": method, "scope": "erk"} for method in ("magnitude", "wanda", "obs", "admm")
}
MORE: Mapping[str, dict[str, Any]] = {
    "admm, blocks of 16x1": {"method": "admm", "scope": "erk", "pattern": "16x1"},
    "admm, rebuilt layer by layer": {"method": "admm", "scope": "erk", "rebuild": True},
}
Rows = list[dict[str, Any]]
Score = Callable[[Any], float]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="labelled pictures for EfficientNet")
    parser.add_argument(
        "--only", choices=[*FASHION, "efficientnet", "minilm", "channels"], help="one of the parts"
    )
    arguments = parser.parse_args()
    if arguments.only == "efficientnet" and not arguments.pictures:
        parser.error("efficientnet needs --pictures FOLDER")
    parts: dict[str, Callable[[], Rows]] = {
        name: lambda name=name: small(name, arguments.quick)  # type: ignore[misc]
        for name in FASHION
    }
    if arguments.pictures:
        parts["efficientnet"] = lambda: efficientnet(arguments.pictures)
    parts["channels"] = channels
    chosen = [arguments.only] if arguments.only else ["lenet300"] if arguments.quick else list(parts)
    parts["minilm"] = minilm
    rows = [row for name in chosen for row in parts[name]()]
    summary = {
        f"{row['network']}_{row['method']}_80": 100 * row["accuracy"]
        for row in rows
        if row["form"] in METHODS and row["sparsity"] == 0.8
    }
    finish(rows, summary, arguments.json)


def small(name: str, quick: bool) -> Rows:
    """A network of Fashion-MNIST; what is observed are 500 of the training images."""
    images, labels = fashion("t10k")
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (BATCH, 1, 28, 28)})
    forms = METHODS if quick else {**METHODS, **MORE}

    def score(made: Any) -> float:
        return float(np.mean(logits(made, images).argmax(axis=1) == labels))

    return table(name, model, forms, fashion("train")[0][:500], score)


def efficientnet(folder: Path) -> Rows:
    images, accepted, calibration = pictures(folder)
    model = dlcomp.load(fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})

    def score(made: Any) -> float:
        best = logits(made, images).argmax(axis=1)
        return float(np.mean([int(one) in classes for one, classes in zip(best, accepted, strict=True)]))

    return table("efficientnet_lite0", model, METHODS, calibration, score)


def minilm() -> Rows:
    """Sentences of Python's own documentation: 160 to look at, 100 others to judge by."""
    known = vocabulary(fetch("minilm_words"))
    text = [part.strip() for topic in topics.values() for part in re.split(r"(?<=[.;:])\s", _line(topic))]
    every = [part for part in dict.fromkeys(text) if 6 <= len(part.split()) <= 40]
    np.random.default_rng(0).shuffle(every)
    shapes = SUITE["minilm"].shapes
    fed = [feed(part, known, shapes["input_ids"][1]) for part in every[:260]]
    model = dlcomp.load(fetch("minilm"), shapes)

    def embeddings(made: Any) -> np.ndarray:
        session = peer.session(made.source.SerializeToString(), 1)
        found = np.concatenate([session.run(["sentence_embedding"], one)[0] for one in fed[160:]])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    own = embeddings(model)
    forms = {**METHODS, **{form: MORE[form] for form in list(MORE)[:1]}}
    return table(
        "minilm", model, forms, fed[:160], lambda made: float((embeddings(made) * own).sum(1).mean())
    )


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def table(
    name: str, model: Any, forms: Mapping[str, Mapping[str, Any]], calibration: Any, score: Score
) -> Rows:
    """A line for each form, a column for each sparsity."""
    dense = score(model)
    print(
        "\n"
        + header(f"{name}, dense {100 * dense:.2f} %", *(f"{round(100 * s)} % zeros" for s in SPARSITIES))
    )
    rows: Rows = [{"network": name, "form": "dense", "sparsity": 0.0, "accuracy": dense}]
    for form, chosen in forms.items():
        shown = []
        for sparsity in SPARSITIES:
            begin = time.perf_counter()
            made = model.compress(dlcomp.Sparsify(target=sparsity, **chosen), calibration=calibration)
            seconds = time.perf_counter() - begin
            effect = made.history[-1].effect
            rows.append(
                {
                    "network": name,
                    "form": form,
                    **chosen,
                    "sparsity": sparsity,
                    "zeros": effect["zeros"] / effect["weights"],
                    "accuracy": score(made),
                    "seconds": seconds,
                }
            )
            shown.append(f"{100 * rows[-1]['accuracy']:.2f}")
        print(table_row([form, *shown]), flush=True)
    return rows


def channels() -> Rows:
    """ResNet-8 with 70 % of its MACs, by how channels are chosen and whether layers are fitted again."""
    images, labels = fashion("t10k")
    calibration = fashion("train")[0][:500]
    model = dlcomp.load(NETWORKS / "resnet8.onnx", {"image": (BATCH, 1, 28, 28)})

    def score(made: Any) -> float:
        return float(np.mean(logits(made, images).argmax(axis=1) == labels))

    rows: Rows = []
    print(
        "\n"
        + header(f"resnet8, {100 * score(model):.2f} %", "MACs %", "bytes %", "accuracy %", "and 8 bits %")
    )
    for method in ("magnitude", "lasso", "obs"):
        for repair in (False, True):
            pass_ = dlcomp.PruneChannels(macs=0.7, method=method, repair=repair)
            made = model.compress(pass_, calibration=calibration)
            both = made.compress(dlcomp.Quantize(), calibration=calibration)
            effect = made.history[-1].effect
            row = {
                "network": "resnet8",
                "form": f"{method}, {'repaired' if repair else 'as it is'}",
                "macs": effect["macs"][1] / effect["macs"][0],
                "bytes": effect["bytes"][1] / effect["bytes"][0],
                "accuracy": score(made),
                "quantized": score(both),
                "channels": effect["channels"],
            }
            rows.append(row)
            shares = [f"{100 * row[key]:.2f}" for key in ("macs", "bytes", "accuracy", "quantized")]
            print(table_row([row["form"], *shares]), flush=True)
    return rows


def logits(model: Any, images: Sequence[Any] | np.ndarray) -> np.ndarray:
    """What onnxruntime makes of all ``images`` in batches of the model's size."""
    made = peer.session(model.source.SerializeToString(), 1, optimize=True)
    (value,) = made.get_inputs()
    size = int(value.shape[0])
    found = [made.run(None, {value.name: images[i : i + size]})[0] for i in range(0, len(images), size)]
    return np.concatenate(found)


if __name__ == "__main__":
    run(main)
