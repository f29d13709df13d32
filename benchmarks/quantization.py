"""Accuracy of quantized networks, dlcomp's and onnxruntime's, from the same calibration data.

EfficientNet-Lite0 on labelled pictures (``--pictures FOLDER``), and five small networks on the 10,000 test
images of Fashion-MNIST, trained by ``benchmarks/fashion/train.py``. onnxruntime's quantized networks are run
as it runs them by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, header, options, run, table_row
from datasets import fashion, pictures
from models import fetch
from peer_quantizer import by_onnxruntime

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.runtime import peer

FASHION = ("lenet300", "lenet5", "resnet8", "dscnn", "lstm")
NETWORKS = Path(__file__).parent / "fashion"
# The trap of depthwise convolutions: one scale for all channels, and what repairs it.
PLAIN, CORRECTED = "per_channel=no,correct_bias=no", "per_channel=no"
TRAP: dict[str, tuple[str, ...]] = {
    "one scale": (f"quantize:{PLAIN}",),
    "one scale, least squares": (f"quantize:{PLAIN},weight_search=yes",),
    "one scale, biases corrected": (f"quantize:{CORRECTED}",),
    "one scale, equalized": ("equalize:clip=relu", f"quantize:{PLAIN}"),
    "one scale, equalized, biases corrected": ("equalize:clip=relu", f"quantize:{CORRECTED}"),
    "the same with the bounds of ReLU6": ("equalize", f"quantize:{CORRECTED}"),
    "a scale for each channel": ("quantize:correct_bias=no",),
    "a scale for each channel, biases corrected": ("quantize",),
    "the same by least squares": ("quantize:weight_search=yes",),
}
# How weights of few bits are rounded, a scale for each channel and biases corrected.
ROUNDINGS: dict[str, str] = {
    "nearest": "",
    "least squares": "weight_search=yes",
    "GPTQ": "weight_search=yes,rounding=gptq",
    "AdaRound": "weight_search=yes,rounding=adaround",
    "GPTQ, layers in turn": "weight_search=yes,rounding=gptq,sequential=yes",
    "AdaRound, layers in turn": "weight_search=yes,rounding=adaround,sequential=yes",
}
# Range and scale of all layers: the rows of Distiller's table of ResNet-50 (its documentation, "Post-training
# quantization"), and what this project does unless told otherwise.
SYMMETRIC, ONE_SCALE = "symmetric=yes,method=minmax,correct_bias=no", "method=minmax,correct_bias=no"
SCHEMES: dict[str, str] = {
    "symmetric, one scale": f"{SYMMETRIC},per_channel=no",
    "symmetric, a scale for each channel": SYMMETRIC,
    "the same, clipped to average extremes": SYMMETRIC.replace("minmax", "average"),
    "asymmetric, one scale": f"{ONE_SCALE},per_channel=no",
    "asymmetric, a scale for each channel": ONE_SCALE,
    "the same, clipped to average extremes, asymmetric": ONE_SCALE.replace("minmax", "average"),
    "the defaults": "",
}
SCHEMED = ("resnet8", "dscnn")
ROUNDED = ("lenet300", "lenet5", "dscnn", "resnet8")
Rows = list[dict[str, Any]]
Run = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="labelled pictures for EfficientNet")
    arguments = parser.parse_args()
    rows: Rows = []
    summary: dict[str, float] = {}
    if arguments.pictures:
        found = efficientnet(arguments.pictures)
        rows += found
        ours = found[1]
        summary["efficientnet_top1_drop_points"] = 100 * (found[0]["top1"] - ours["top1"])
        summary["efficientnet_agreement"] = 100 * ours["agreement"]
        if not arguments.quick:
            rows += efficientnet_of_few_bits(arguments.pictures)
    names = FASHION[1:2] if arguments.quick else FASHION
    print(header("Fashion-MNIST, 10,000 images", "float32 %", "dlcomp %", "onnxruntime %"))
    found = [row for name in names for row in small(name)]
    rows += found
    drops = [row["drop_points"] for row in found if row["form"] == "dlcomp"]
    summary["fashion_largest_drop_points"] = max(drops)
    if not arguments.quick:
        rows += trap()
        rows += schemes(SCHEMED)
        rows += rounded(ROUNDED)
    finish(rows, summary, arguments.json)


def efficientnet(folder: Path) -> Rows:
    """Top-1, top-5, agreement with float32 and the logits' signal-to-noise ratio."""
    images, accepted, calibration = pictures(folder)
    model = dlcomp.load(fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})
    small = model.compress(dlcomp.Quantize(), calibration=calibration)
    with tempfile.TemporaryDirectory() as where:
        other = by_onnxruntime(
            model.source.SerializeToString(), [{"input": one[None]} for one in calibration], Path(where)
        )
    forms = [
        ("float32", compiled(model)),
        ("dlcomp", compiled(small)),
        ("dlcomp's network in onnxruntime", session(small.source.SerializeToString())),
        ("onnxruntime", session(other)),
    ]
    print(
        f"EfficientNet-Lite0, {len(images)} pictures (standard error {standard_error(images):.1f} points)\n"
    )
    rows = judged(forms, images, accepted)
    print()
    return rows


def efficientnet_of_few_bits(folder: Path, bits: int = 4) -> Rows:
    """Weights of ``bits``, rounded in each way; activations of 8."""
    images, accepted, calibration = pictures(folder)
    model = dlcomp.load(fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})
    print(f"EfficientNet-Lite0, weights of {bits} bits\n")
    with tempfile.TemporaryDirectory() as where:
        cache = Path(where) / "observed"

        def forms() -> Iterator[tuple[str, Run]]:
            yield "float32", compiled(model)
            for title, options_ in ROUNDINGS.items():
                comma = "," if options_ else ""
                recipe = parse(f"quantize:{options_}{comma}bits={bits}")
                yield title, compiled(model.compress(recipe, calibration=calibration, cache=cache))

        rows = judged(forms(), images, accepted)
    print()
    return [{**row, "bits": bits} for row in rows]


def standard_error(images: np.ndarray) -> float:
    """Of a share of 80 %, in points."""
    return float(100 * np.sqrt(0.8 * 0.2 / len(images)))


def judged(forms: Iterable[tuple[str, Run]], images: np.ndarray, accepted: Sequence[set[int]]) -> Rows:
    """A row for each form of EfficientNet, printed; the first is the one to agree with."""
    print(header("form", "top-1 %", "top-5 %", "agreement %", "SQNR dB"))
    rows: Rows = []
    reference = np.zeros(0)
    for form, function in forms:
        logits = np.concatenate([function(images[i : i + 1]) for i in range(len(images))])
        reference = reference if rows else logits
        order = np.argsort(-logits, axis=1)[:, :5].tolist()
        right = list(zip(order, accepted, strict=True))
        row = {
            "network": "efficientnet_lite0",
            "form": form,
            "top1": float(np.mean([best[0] in classes for best, classes in right])),
            "top5": float(np.mean([not classes.isdisjoint(best) for best, classes in right])),
            "agreement": float(np.mean(logits.argmax(axis=1) == reference.argmax(axis=1))),
            "sqnr_db": signal_to_noise(reference, logits),
        }
        rows.append(row)
        shares = [f"{100 * row[key]:.1f}" for key in ("top1", "top5", "agreement")]
        print(table_row([form, *shares, f"{row['sqnr_db']:.1f}"]), flush=True)
    return rows


def small(name: str) -> Rows:
    """Accuracy on the test images of Fashion-MNIST, calibrated on 256 of the training images."""
    images, labels = fashion("t10k")
    calibration = fashion("train")[0][:256]
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    small = model.compress(dlcomp.Quantize(), calibration=calibration)
    with tempfile.TemporaryDirectory() as where:
        other = by_onnxruntime(
            model.source.SerializeToString(), [{"image": one[None]} for one in calibration], Path(where)
        )
    forms = {"float32": compiled(model), "dlcomp": compiled(small), "onnxruntime": session(other)}
    accuracy = {form: score(function, images, labels) for form, function in forms.items()}
    print(table_row([name, *(f"{100 * value:.2f}" for value in accuracy.values())]), flush=True)
    return [
        {
            "network": name,
            "form": form,
            "accuracy": value,
            "drop_points": 100 * (accuracy["float32"] - value),
        }
        for form, value in accuracy.items()
    ]


def trap() -> Rows:
    """What each part of the recipe does for a network of depthwise convolutions, with 8, 6 and 4 bits."""
    print("\n" + header("depthwise network, weights by", "8 bits %", "6 bits %", "4 bits %"))
    return [row for name, texts in TRAP.items() for row in by_bits("dscnn", name, texts, (8, 6, 4))]


def schemes(names: Sequence[str]) -> Rows:
    """Scales and ranges chosen in several ways, weights of 8, 6 and 4 bits and activations of 8."""
    rows: Rows = []
    for name in names:
        print("\n" + header(f"{name}, ranges and scales", "8 bits %", "6 bits %", "4 bits %"))
        for title, options_ in SCHEMES.items():
            rows += by_bits(name, title, (f"quantize:{options_}",), (8, 6, 4))
    return rows


def rounded(names: Sequence[str]) -> Rows:
    """Weights of 4, 3 and 2 bits by each way of rounding."""
    rows: Rows = []
    for name in names:
        print("\n" + header(f"{name}, weights by", "4 bits %", "3 bits %", "2 bits %"))
        for title, options_ in ROUNDINGS.items():
            rows += by_bits(name, title, (f"quantize:{options_}",), (4, 3, 2))
    return rows


def by_bits(network: str, title: str, texts: Sequence[str], widths: Sequence[int]) -> Rows:
    """Accuracy after the passes ``texts``, the last of which gets each of the ``widths``; a row, printed."""
    images, labels = fashion("t10k")
    calibration = fashion("train")[0][:256]
    model = dlcomp.load(NETWORKS / f"{network}.onnx", {"image": (1, 1, 28, 28)})
    rows: Rows = []
    for bits in widths:
        comma = "," if ":" in texts[-1] and not texts[-1].endswith(":") else ":"
        last = f"{texts[-1].rstrip(':')}{comma}bits={bits}"
        small = model.compress(*map(parse, [*texts[:-1], last]), calibration=calibration)
        value = score(compiled(small), images, labels)
        rows.append({"network": network, "form": title, "bits": bits, "accuracy": value})
    print(table_row([title, *(f"{100 * row['accuracy']:.2f}" for row in rows)]), flush=True)
    return rows


def compiled(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    artifact = model.compile("host")
    (name,) = [spec.name for spec in artifact.signature.inputs]
    return lambda batch: next(iter(artifact.run({name: batch}).values()))


def session(network: bytes) -> Callable[[np.ndarray], np.ndarray]:
    made = peer.session(network, 1, optimize=True)
    (value,) = made.get_inputs()
    return lambda batch: np.asarray(made.run(None, {value.name: batch})[0])


def score(function: Callable[[np.ndarray], np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    found = [int(function(images[i : i + 1]).argmax()) for i in range(len(images))]
    return float(np.mean(np.array(found) == labels))


def signal_to_noise(right: np.ndarray, found: np.ndarray) -> float:
    noise = float(((right - found) ** 2).sum())
    return float("inf") if noise == 0 else float(10 * np.log10((right**2).sum() / noise))


if __name__ == "__main__":
    run(main)
