"""Networks with 30 % fewer multiplications by ``channels``: measured time, accuracy, and 8 bits behind it.

ResNet-8 on the 10,000 test images of Fashion-MNIST, EfficientNet-Lite0 on labelled pictures (``--pictures
FOLDER``). Times are of one thread, the shrunk network in turn with the whole one. Then residual networks, and
such with joins, of the suite: whether they shrink, and by how much the time falls.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from datasets import fashion, pictures
from models import SUITE, fetch

import dlcomp
from dlcomp.compress.search.stopwatch import Timing, networks_in_turn

NETWORKS = Path(__file__).parent / "fashion"
MACS = 0.7
# What a vector of float32 holds with AVX-512: at multiples of 8 half of a vector is empty in many layers.
MULTIPLE = 16
# Sums, joins, depthwise convolutions and attention between layers.
SHAPES = ("yolox_det", "ppocr_det", "ppocr_rec", "ppocr_cls", "resnet50_thin")
SECONDS = 3.0
Rows = list[dict[str, Any]]
Score = Callable[[dlcomp.Model], float]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="labelled pictures for EfficientNet")
    parser.add_argument("--only", choices=("resnet8", "efficientnet", "suite"), help="one of the parts")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], Rows]] = {"resnet8": resnet8}
    if arguments.pictures:
        parts["efficientnet"] = lambda: efficientnet(arguments.pictures)
    parts["suite"] = suite
    chosen = [arguments.only] if arguments.only else ["resnet8"] if arguments.quick else list(parts)
    if arguments.only and arguments.only not in parts:
        parser.error("efficientnet needs --pictures FOLDER")
    rows = [row for name in chosen for row in parts[name]()]
    summary: dict[str, float] = {}
    for row in rows:
        key = f"{row['network']}_{row['form']}"
        summary[f"{key}_ms_saved_percent"] = 100 * (1 - 1 / row["speed"])
        if "drop_points" in row:
            summary[f"{key}_drop_points"] = row["drop_points"]
        if (row["network"], row["form"]) == ("efficientnet", "repaired"):
            summary["efficientnet_ms_saved_percent"] = 100 * (1 - 1 / row["speed"])
    finish(rows, summary, arguments.json)


def resnet8() -> Rows:
    images, labels = fashion("t10k")
    model = dlcomp.load(NETWORKS / "resnet8.onnx", {"image": (1, 1, 28, 28)})

    def score(made: dlcomp.Model) -> float:
        return float(np.mean(answers(made, images) == labels))

    return forms("resnet8", model, fashion("train")[0][:200], score)


def efficientnet(folder: Path) -> Rows:
    images, accepted, calibration = pictures(folder)
    model = dlcomp.load(fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})

    def score(made: dlcomp.Model) -> float:
        best = answers(made, images)
        return float(np.mean([int(one) in classes for one, classes in zip(best, accepted, strict=True)]))

    return forms("efficientnet", model, calibration, score)


def forms(name: str, model: dlcomp.Model, calibration: np.ndarray, score: Score) -> Rows:
    """As it is, with fewer channels, fitted again, and then in 8 bits."""
    whole = model.compile("host")
    dense = score(model)
    print(
        "\n"
        + header(f"{name}, {100 * dense:.2f} %", "MACs %", "bytes %", "accuracy %", "ms", "after", "speed")
    )
    rows: Rows = []
    made = model
    for form, passes in (
        ("repaired", [dlcomp.PruneChannels(macs=MACS, multiple=MULTIPLE)]),
        ("quantized", [dlcomp.Quantize()]),
        ("unrepaired", [dlcomp.PruneChannels(macs=MACS, multiple=MULTIPLE, repair=False)]),
    ):
        # The second form is what becomes of the first one in 8 bits.
        made = (made if form == "quantized" else model).compress(*passes, calibration=calibration)
        timing = networks_in_turn(made.compile("host"), whole, 1, SECONDS)
        effect = made.history[1].effect
        shares = [effect[key][1] / effect[key][0] for key in ("macs", "bytes")]
        value = score(made)
        rows.append(
            {
                "network": name,
                "form": form,
                "macs": shares[0],
                "bytes": shares[1],
                "accuracy": value,
                "drop_points": 100 * (dense - value),
                **measured(timing),
            }
        )
        cells = [f"{100 * share:.1f}" for share in shares] + [f"{100 * value:.2f}"]
        print(table_row([form, *cells, *times(timing)]), flush=True)
    return rows


def suite() -> Rows:
    """Networks of other shapes: three inputs are enough to see whether they shrink and run."""
    rows: Rows = []
    print("\n" + header("network", "MACs %", "channels that went", "ms", "after", "speed"))
    for name in SHAPES:
        entry = SUITE[name]
        model = dlcomp.load(fetch(name), entry.shapes)
        feeds = [entry.example(seed=seed) for seed in range(3)]
        made = model.compress(dlcomp.PruneChannels(macs=MACS, multiple=MULTIPLE), calibration=feeds)
        effect = made.history[-1].effect
        timing = networks_in_turn(made.compile("host"), model.compile("host"), 1, SECONDS)
        share = effect["macs"][1] / effect["macs"][0]
        gone = sum(before - after for before, after in effect["channels"].values())
        rows.append({"network": name, "form": "shrunk", "macs": share, "gone": gone, **measured(timing)})
        print(table_row([name, f"{100 * share:.1f}", gone, *times(timing)]), flush=True)
    return rows


def measured(timing: Timing) -> dict[str, float]:
    ratios = {"speed": timing.ratio, "speed_low": timing.low, "speed_high": timing.high}
    return {"seconds_before": timing.before, "seconds": timing.after, **ratios}


def times(timing: Timing) -> list[str]:
    speed = f"{timing.ratio:.2f} ({timing.low:.2f}-{timing.high:.2f})"
    return [f"{timing.before * 1e3:.3f}", f"{timing.after * 1e3:.3f}", speed]


def answers(model: dlcomp.Model, images: np.ndarray) -> np.ndarray:
    """The class of each image, as dlcomp computes it."""
    artifact = model.compile("host")
    (spec,) = artifact.signature.inputs
    found = [next(iter(artifact.run({spec.name: image[None]}).values())).argmax() for image in images]
    return np.array(found)


if __name__ == "__main__":
    run(main)
