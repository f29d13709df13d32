"""A layer as low rank plus sparse blocks, against either alone with as many bytes.

GoDec (Zhou and Tao, 2011): what the sparse part leaves gets its best low rank, what that leaves gets sparse
again. Both steps are those of dlcomp's passes: singular values in the metric of the inputs, and the optimal
brain surgeon with blocks of 16 outputs by 1 input (64 bytes and an index of 2). Errors are of a layer's
outputs about their mean on samples that nothing was fitted to, over their energy, in percent.
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
from dlcomp.compress.lowrank.methods import leading
from dlcomp.compress.lowrank.moments import as_matrix, moments_of
from dlcomp.compress.network import Network
from dlcomp.compress.refit import error_of
from dlcomp.compress.sparsify.obs import obs
from dlcomp.compress.sparsify.patterns import Pattern

NETWORKS = Path(__file__).parent / "fashion"
BLOCK = Pattern(16, 1)
BLOCK_BYTES = 16 * 4 + 2
# Of the bytes that the dense layer has; of those, what the low rank gets.
BUDGETS = (0.5, 0.25)
SHARES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
SWEEPS = 6
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
    total = budget * 4 * matrix.size
    whole = error_of(matrix, judge)
    tried = []
    for share in SHARES:
        rank = int(share * total / (4 * sum(matrix.shape)))
        blocks = int((total - 4 * rank * sum(matrix.shape)) / BLOCK_BYTES)
        kept = blocks / (-(-matrix.shape[0] // 16) * matrix.shape[1])
        made = decomposed(matrix, metric, rank, kept if share < 1 else 0.0)
        tried.append((error_of(matrix - made, metric), error_of(matrix - made, judge) / whole, rank, kept))
    sparse, low = tried[0], tried[-1]
    _, error, rank, kept = min(tried[1:-1])
    alone = min(sparse[1], low[1])
    return {
        "rank only": low[1],
        "sparse only": sparse[1],
        "both": error,
        "alone": alone,
        "rank": rank,
        "kept": kept,
    }


def decomposed(matrix: np.ndarray, metric: np.ndarray, rank: int, kept: float) -> np.ndarray:
    """The sum of a matrix of ``rank`` and one of which a share ``kept`` of the blocks is not zero."""
    sparse = np.zeros_like(matrix)
    best, least = sparse, np.inf
    for _ in range(SWEEPS if rank and kept else 1):
        low = lowered(matrix - sparse, metric, rank)
        if kept:
            sparse = obs(matrix - low, metric, BLOCK, 1 - kept)
        error = error_of(matrix - low - sparse, metric)
        if error < least:
            best, least = low + sparse, error
    return best


def lowered(matrix: np.ndarray, metric: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of ``rank``, in the metric of the inputs."""
    if not rank:
        return np.zeros_like(matrix)
    rows = leading(matrix, metric, rank)
    return np.asarray(matrix @ metric @ rows.T @ rows)


if __name__ == "__main__":
    run(main)
