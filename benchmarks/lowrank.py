"""Low rank on the networks of ``benchmarks/fashion``: what data-aware factors save and keep.

First, parameters at an equal error of each layer's outputs on 2,000 images that no factor was fitted to, for
plain and for whitened singular values. Then the accuracy on the 10,000 test images against the parameters
that remain, nothing trained again: plain SVD without data, whitened SVD, whichever of it, Tucker-2 and
spatial SVD is best for each layer, and CP for convolutions of several taps. At last, the numbers that low
rank and a tensor train take for dense layers at an equal error of the weights, and for a matrix that trains
are made for, a blur of images along both axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from datasets import fashion

import dlcomp
from dlcomp.compress.data import Calibration
from dlcomp.compress.lowrank.methods import leading
from dlcomp.compress.lowrank.moments import Moments, as_matrix, moments_of
from dlcomp.compress.lowrank.subject import recurrent_layers
from dlcomp.compress.lowrank.tensor_train import low_rank_parameters, smallest_train
from dlcomp.compress.network import Network
from dlcomp.compress.quantize.plan import layers_of

NETWORKS = Path(__file__).parent / "fashion"
NAMES = ("lenet300", "lenet5", "resnet8", "dscnn", "lstm")
BATCH = 100
ERRORS = (0.1, 0.03, 0.01)
TARGETS = (0.75, 0.5, 0.35)
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"method": "svd", "data": False},
    "whitened": {"method": "whitened"},
    "auto": {"method": "auto"},
    "cp": {"method": "cp"},
}
# Those with convolutions of several taps that no group divides.
CONVOLUTIONAL = ("lenet5", "resnet8", "dscnn")
BLUR = "blur"
Rows = list[dict[str, Any]]


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    names = NAMES[:1] if arguments.quick else NAMES
    images = fashion("train")[0]
    print(header("network", "error of outputs", "plain: parameters", "whitened: parameters", "ratio"))
    rows = [row for name in names for row in at_equal_error(name, images[:3000], images[3000:5000])]
    summary = {
        f"parameters_whitened_over_plain_at_{error:g}": geomean(
            row["whitened"] / row["plain"] for row in rows if row["error"] == error
        )
        for error in ERRORS
    }
    print("\n" + header("network", "factors", "float32 %", *(f"{100 * t:.0f} % left" for t in TARGETS)))
    for name in names:
        found = accuracies(name, images[:2000])
        rows += found
        for row in found:
            if row["target"] == 0.5:
                summary[f"{name}_drop_points_at_half_{row['method']}"] = row["drop_points"]
    found = trains(("lenet300",) if arguments.quick else ("lenet300", "lenet5", "lstm"))
    layers = [row["train"] / row["low_rank"] for row in found if row["layer"] != BLUR]
    summary |= {"train_over_low_rank_layers": geomean(layers), "train_over_low_rank_least": min(layers)}
    finish([*rows, *found], summary, arguments.json)


def trains(names: Sequence[str]) -> Rows:
    """Numbers of low rank and of the smallest tensor train, for each dense layer and error."""
    subjects: list[tuple[str, np.ndarray]] = []
    for name in names:
        network = Network(dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (1, 1, 28, 28)}))
        layers = [one for one in layers_of(network) if one.node.op_type in ("Gemm", "MatMul")]
        for number, layer in enumerate([*layers, *recurrent_layers(network)], 1):
            matrix = as_matrix(layer, network.weights[layer.node.input[layer.weight]])
            if matrix is not None and min(matrix.shape) >= 32:
                subjects.append((f"{name} {number}", matrix.astype(np.float64)))
    place = np.arange(16)
    along = np.exp(-((place[:, None] - place) ** 2) / 8)
    subjects.append((BLUR, np.kron(along, along) + 0.1 * np.kron(along @ along, np.eye(16))))
    print("\n" + header("matrix", "outputs x inputs", "error", "low rank", "train", "ratio", "ranks"))
    rows: Rows = []
    for name, matrix in subjects:
        for error in (0.3, 0.1, 0.01):
            train, low = smallest_train(matrix, error), low_rank_parameters(matrix, error)
            rows.append({"layer": name, "error": error, "low_rank": low, "train": train.parameters})
            shape = "x".join(map(str, matrix.shape))
            cells = [
                f"{100 * error:g} %",
                f"{low:,}",
                f"{train.parameters:,}",
                f"{train.parameters / low:.2f}",
            ]
            print(table_row([name, shape, *cells, "-".join(map(str, train.ranks))]), flush=True)
    return rows


def at_equal_error(name: str, fit: np.ndarray, check: np.ndarray) -> Rows:
    """Parameters of the least ranks whose error, on images that were not seen, is small enough, by layer."""
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (BATCH, 1, 28, 28)})
    network = Network(model)
    layers = [*layers_of(network), *recurrent_layers(network)]
    seen, other = (moments_of(network, layers, Calibration(part, model.signature)) for part in (fit, check))
    kept = {(error, method): 0 for error in ERRORS for method in ("plain", "whitened")}
    for layer in layers:
        matrix = as_matrix(layer, network.weights[layer.node.input[layer.weight]])
        if matrix is None or min(matrix.shape) < 2:
            continue
        key = layer.node.output[0]
        for method in ("plain", "whitened"):
            errors = errors_of_ranks(matrix.astype(np.float64), method, seen[key], other[key])
            for error in ERRORS:
                rank = next((r for r, found in enumerate(errors) if found <= error), len(errors))
                kept[error, method] += min(rank * sum(matrix.shape), matrix.size)
    rows: Rows = []
    for error in ERRORS:
        plain, whitened = (kept[error, method] for method in ("plain", "whitened"))
        rows.append({"network": name, "error": error, "plain": plain, "whitened": whitened})
        cells = [f"{100 * error:g} %", f"{plain:,}", f"{whitened:,}", f"{whitened / plain:.2f}"]
        print(table_row([name, *cells]), flush=True)
    return rows


def errors_of_ranks(matrix: np.ndarray, method: str, seen: Moments, other: Moments) -> Sequence[float]:
    """The error of the outputs about their mean, for each rank from 0 up; factors are fitted to ``seen``."""
    damping = 1e-5 * np.trace(seen.covariance) / len(seen.covariance) * np.eye(len(seen.covariance))
    metric = seen.covariance + damping
    full = min(matrix.shape)
    rows = leading(matrix, None if method == "plain" else metric, full)
    # Each rank adds one term to the sum that makes the matrix.
    columns = matrix @ rows.T if method == "plain" else matrix @ metric @ rows.T
    error, whole = matrix.copy(), float(((matrix @ other.covariance) * matrix).sum())
    found = [1.0]
    for rank in range(full):
        error -= np.outer(columns[:, rank], rows[rank])
        found.append(float(((error @ other.covariance) * error).sum()) / whole)
    return found


def accuracies(name: str, calibration: np.ndarray) -> Rows:
    """On all test images, for each method and share of the parameters."""
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (BATCH, 1, 28, 28)})
    whole = score(model)
    rows: Rows = []
    for method, choice in METHODS.items():
        if method == "cp" and name not in CONVOLUTIONAL:
            continue
        shown = []
        for target in TARGETS:
            small = model.compress(
                dlcomp.LowRank(target=target, of="parameters", **choice), calibration=calibration
            )
            effect, value = small.history[-1].effect, score(small)
            rows.append(
                {
                    "network": name,
                    "method": method,
                    "target": target,
                    "parameters": effect["parameters"],
                    "macs": effect["macs"],
                    "accuracy": value,
                    "drop_points": whole - value,
                }
            )
            left = 100 * effect["parameters"][1] / effect["parameters"][0]
            shown.append(f"{value:.2f} ({left:.0f})")
        print(table_row([name, method, f"{whole:.2f}", *shown]), flush=True)
    return rows


def score(model: dlcomp.Model) -> float:
    """Accuracy in percent on the test images."""
    images, labels = fashion("t10k")
    artifact = model.compile("host")
    right = 0
    for start in range(0, len(images), BATCH):
        logits = artifact.run({"image": images[start : start + BATCH]})["logits"]
        right += int((logits.argmax(axis=1) == labels[start : start + BATCH]).sum())
    return 100 * right / len(images)


if __name__ == "__main__":
    run(main)
