"""A layer as low rank plus sparse blocks, against either alone with as many bytes.

As the pass ``lowrank_sparse`` decides, with blocks of 16 outputs by 1 input (64 bytes and an index of 2).
Errors are of a layer's outputs about their mean on samples that nothing was fitted to, over their energy, in
percent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from datasets import fashion, pictures
from models import fetch

import dlcomp
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import layers_of, weight_of
from dlcomp.compress.lowrank.mixture import mixtures
from dlcomp.compress.lowrank.moments import as_matrix, moments_of
from dlcomp.compress.network import Network
from dlcomp.compress.refit import error_of
from dlcomp.compress.sparsify.patterns import Pattern

NETWORKS = Path(__file__).parent / "fashion"
BLOCK = Pattern(16, 1)
# Of the bytes that the dense layer has.
BUDGETS = (0.5, 0.25)
DAMPING = 0.01
SMALLEST = 10_000
Rows = list[dict[str, Any]]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="pictures for EfficientNet-Lite0")
    parser.add_argument("--networks", nargs="*", default=["lenet300", "lenet5", "resnet8"])
    arguments = parser.parse_args()
    print(
        header("layer", "outputs x inputs", "bytes %", "low rank", "sparse", "both", "rank", "blocks kept %")
    )
    rows: Rows = []
    images = fashion("train")[0]
    for name in arguments.networks[:1] if arguments.quick else arguments.networks:
        model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (100, 1, 28, 28)})
        rows += layers(name, model, images[:2000], images[3000:5000])
    if arguments.pictures:
        found, _, fit = pictures(arguments.pictures)
        model = dlcomp.load(fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})
        rows += layers("efficientnet_lite0", model, fit, found, wanted=4)
    summary: dict[str, float] = {
        "layers_where_both_is_best": sum(row["both"] < 0.99 * row["alone"] for row in rows)
    }
    summary["cases"] = len(rows)
    summary["error_both_over_better_alone"] = geomean(row["both"] / row["alone"] for row in rows)
    finish(rows, summary, arguments.json)


def layers(name: str, model: dlcomp.Model, fit: np.ndarray, check: np.ndarray, wanted: int = 0) -> Rows:
    """Every large layer of a network, or the ``wanted`` largest, with each budget."""
    network = Network(model)
    chosen = []
    for layer in layers_of(network):
        matrix = as_matrix(layer, weight_of(network, layer))
        if matrix is not None and matrix.size >= SMALLEST and min(matrix.shape) >= 16:
            chosen.append((layer, matrix.astype(np.float64)))
    if wanted:
        chosen = sorted(chosen, key=lambda one: -one[1].size)[:wanted]
    only = [layer for layer, _ in chosen]
    seen, other = (moments_of(network, only, Calibration(part, model.signature)) for part in (fit, check))
    rows: Rows = []
    for layer, matrix in chosen:
        metric, judge = (moments[layer.output].covariance for moments in (seen, other))
        metric = metric + DAMPING * np.trace(metric) / len(metric) * np.eye(len(metric))
        for budget in BUDGETS:
            found = compared(matrix, metric, judge, budget)
            rows.append(
                {"network": name, "layer": layer.name, "shape": matrix.shape, "budget": budget, **found}
            )
            cells = [f"{100 * found[key]:.3g}" for key in ("rank only", "sparse only", "both")]
            cells += [found["rank"], f"{100 * found['kept']:.0f}"]
            label = [f"{name} {layer.name}", "{}x{}".format(*matrix.shape), f"{100 * budget:.0f}"]
            print(table_row([*label, *cells]), flush=True)
    return rows


def compared(matrix: np.ndarray, metric: np.ndarray, judge: np.ndarray, budget: float) -> dict[str, Any]:
    """Errors of the two alone and of the best mixture; which mixture is decided by what was fitted to."""
    whole = error_of(matrix, judge)
    found = mixtures(matrix, metric, BLOCK, budget * 4 * matrix.size)
    sparse, low = (error_of(matrix - m.low - m.sparse, judge) / whole for m in (found[0], found[-1]))
    best = min(found[1:-1], key=lambda m: m.error)
    return {
        "rank only": low,
        "sparse only": sparse,
        "both": error_of(matrix - best.low - best.sparse, judge) / whole,
        "alone": min(sparse, low),
        "rank": best.rank,
        "kept": best.kept,
    }


if __name__ == "__main__":
    run(main)
