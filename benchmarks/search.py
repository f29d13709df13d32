"""Which layer gets what: searches under a budget, reported on samples that nothing was chosen by.

Small networks on Fashion-MNIST (``--networks``), and EfficientNet-Lite0 on labelled pictures (``--pictures
FOLDER``), half of them to choose by and half to report on. Times are of one thread, in turn with the network
as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from datasets import fashion, pictures
from models import fetch
from rich.console import Console

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.errors import CheckFailed
from dlcomp.report.search import save_search_plot, search_table

FASHION = ("resnet8", "dscnn", "lstm", "lenet5")
NETWORKS = Path(__file__).parent / "fashion"
DROP = 0.005
# Passes and what they are for: zeros have no kernel that is faster for them.
RUNS = (
    ("quantize", "speed"),
    ("channels", "speed"),
    ("lowrank:method=whitened", "speed"),
    ("sparsify", "size"),
)
CLASSES = 1000


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="labelled pictures for EfficientNet")
    parser.add_argument("--networks", nargs="*", choices=FASHION, default=list(FASHION))
    parser.add_argument("--passes", nargs="*", metavar="PASS", default=[text for text, _ in RUNS])
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw the curves")
    parser.add_argument("--details", action="store_true", help="every layer, too")
    arguments = parser.parse_args()
    goals = dict(RUNS)
    cases = {name: lambda name=name: small(name) for name in arguments.networks}
    if arguments.pictures:
        cases["efficientnet_lite0"] = lambda: efficientnet(arguments.pictures)
    if arguments.quick:
        cases, arguments.passes = {"lenet5": lambda: small("lenet5")}, ["quantize"]
    columns = (
        "layers changed",
        "accuracy %",
        "after %",
        "agreement %",
        "bytes",
        "after",
        "MACs left %",
        "speed",
    )
    print(header("network, pass", *columns))
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        model, samples = case()
        for text in arguments.passes:
            rows.append(row(name, model, text, goals.get(text, "speed"), samples, arguments))
    summary = {
        f"{found['network']}_{found['pass']}_drop_points": 100 * (found["accuracy"][0] - found["accuracy"][1])
        for found in rows
        if "accuracy" in found
    }
    finish(rows, summary, arguments.json)


def row(
    name: str, model: Any, text: str, goal: str, samples: dict[str, Any], arguments: Any
) -> dict[str, Any]:
    label = f"{name}, {text.partition(':')[0]} for {goal}"
    budget = dlcomp.Budget(max_drop=DROP, goal=goal, threads=1)
    try:
        found = dlcomp.search(model, parse(text), budget, **samples)
    except CheckFailed as error:
        print(table_row([label, error.message, *[""] * 7]), flush=True)
        return {"network": name, "pass": text, "goal": goal, "nothing": error.message}
    if arguments.details:
        Console(width=160, stderr=True).print(search_table(found))
    if arguments.plots:
        save_search_plot(found.to_json(), arguments.plots / f"{name}_{text.partition(':')[0]}.png")
    timing = found.timing
    speed = "" if timing is None else f"{timing.ratio:.2f} ({timing.low:.2f}-{timing.high:.2f})"
    shares = [100 * float(score.accuracy or 0) for score in (found.before, found.after)]
    cells = [
        f"{len(found.choice)} of {len(found.trials)}",
        *(f"{share:.2f}" for share in shares),
        f"{100 * found.after.agreement:.1f}",
        *(f"{size:,}" for size in found.bytes),
        f"{100 * found.macs[1] / max(1, found.macs[0]):.0f}",
        speed,
    ]
    print(table_row([label, *cells]), flush=True)
    return {
        "network": name,
        "goal": goal,
        "accuracy": [found.before.accuracy, found.after.accuracy],
        **found.to_json(),
        "pass": text.partition(":")[0],
    }


def small(name: str) -> tuple[Any, dict[str, Any]]:
    """A network of Fashion-MNIST and 4,000 of its test images, half of them to choose by."""
    images, labels = fashion("t10k")
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    observed = fashion("train")[0][:256]
    return model, {"calibration": observed, "labels": labels[:4000], "evaluate": images[:4000]}


def efficientnet(folder: Path) -> tuple[Any, dict[str, Any]]:
    images, accepted, calibration = pictures(folder)
    right = np.zeros((len(images), CLASSES), bool)
    for number, classes in enumerate(accepted):
        right[number, sorted(classes)] = True
    model = dlcomp.load(fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})
    return model, {"calibration": calibration, "labels": right, "evaluate": images}


if __name__ == "__main__":
    run(main)
