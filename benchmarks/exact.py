"""How far compiled int8 networks are from the arithmetic that their files say, in steps of 8 bits.

A QDQ network says what it computes node by node. onnxruntime without optimizations does that in float32, and
is the measure for dlcomp's compiled network and for onnxruntime as it runs by default, whose fused kernels
add pairs of products in 16 bits on processors without VNNI. Compared are the integers of the last
QuantizeLinear, which every layer before it has a part in, and the outputs: in its scale where a
QuantizeLinear makes the output, else in steps of 1/255 of its range.

A sum in float32 is not exact, though: where it falls near the middle between two integers its last digits
decide, and layers behind carry the difference on. The integers of dlcomp are also compared with those of the
arithmetic that the nodes stand for, exact sums of integers, in NumPy (``integer_reference.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import finish, header, options, run, table_row
from datasets import fashion, pictures
from integer_reference import evaluated
from models import SUITE, fetch

import dlcomp
from dlcomp.compress.network import Network
from dlcomp.compress.quantize.saturation import check_saturation
from dlcomp.errors import ModelError
from dlcomp.runtime import peer

NETWORKS = Path(__file__).parent / "fashion"
FASHION = ("resnet8", "dscnn", "lenet5")
LINES = 5
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A network, what its ranges are chosen by, and the samples that it is compared on."""

    name: str
    model: dlcomp.Model
    calibration: Iterable[Feed]
    samples: Sequence[Feed]


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="pictures for EfficientNet")
    arguments = parser.parse_args()
    cases: list[Callable[[], Case]] = [lambda name=name: small(name, arguments.quick) for name in FASHION]
    if not arguments.quick:
        cases += [text_line, lambda: efficientnet(arguments.pictures)]
    vnni = any("vnni" in feature for feature in dlcomp.Target.parse("host").features)
    about = "with VNNI: onnxruntime never saturates" if vnni else "without VNNI: onnxruntime can saturate"
    print(f"A processor {about}\n")
    names = ("dlcomp", "onnxruntime")
    columns = [f"{name}, {what}" for name in names for what in ("last largest", "mean", "output largest")]
    columns += [f"dlcomp to exact sums, {what}" for what in ("largest", "share that differs")]
    print(header("int8 network, in steps", "samples", *columns, "pairs that can saturate"))
    rows = [row for case in cases for row in compared(case())]
    summary = {
        "steps_from_exact": max(row["last_largest"] for row in rows if row["form"] == "dlcomp"),
        "steps_from_exact_sums": max(row["sums_largest"] for row in rows if row["form"] == "dlcomp"),
        "output_steps_from_exact": max(row["output_largest"] for row in rows if row["form"] == "dlcomp"),
        "onnxruntime_steps_from_exact": max(row["last_largest"] for row in rows if row["form"] != "dlcomp"),
    }
    finish(rows, summary, arguments.json)


def small(name: str, quick: bool) -> Case:
    """Trained by ``benchmarks/fashion/train.py``; the test images of Fashion-MNIST."""
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    images = fashion("t10k")[0][: 16 if quick else 256]
    chosen = fashion("train")[0][: 32 if quick else 256]
    return Case(
        name, model, [{"image": one[None]} for one in chosen], [{"image": one[None]} for one in images]
    )


def text_line() -> Case:
    """PP-OCR's recogniser: one line of text, the ranges chosen by others."""
    entry = SUITE["ppocr_rec"]
    lines = [entry.example(seed=seed) for seed in range(LINES)]
    return Case("ppocr_rec", dlcomp.load(fetch("ppocr_rec"), entry.shapes), lines[:-1], lines[-1:])


def efficientnet(folder: Path | None) -> Case:
    """EfficientNet-Lite0 on the first of the labelled pictures, or on a made one."""
    entry = SUITE["efficientnet_lite0"]
    model = dlcomp.load(fetch("efficientnet_lite0"), entry.shapes)
    if folder is None:
        made = [entry.example(seed=seed) for seed in range(9)]
        return Case("efficientnet_lite0", model, made[1:], made[:1])
    images, _, calibration = pictures(folder)
    feeds = [{"input": one[None]} for one in calibration[:16]]
    return Case("efficientnet_lite0", model, feeds, [{"input": images[:1]}])


def compared(case: Case) -> list[dict[str, Any]]:
    """A row for dlcomp and one for onnxruntime's default."""
    small = case.model.compress(dlcomp.Quantize(), calibration=case.calibration)
    shown, last, scales = with_last(small)
    data = shown.SerializeToString()
    artifact, exact, default = dlcomp.load(shown).compile("host"), *sessions(data)
    right = [peer.run(exact, feed) for feed in case.samples]
    found = {
        "dlcomp": [artifact.run(feed) for feed in case.samples],
        "onnxruntime": [peer.run(default, feed) for feed in case.samples],
    }
    layers = check_saturation(small).layers
    risky = sum(layer.risky for layer in layers) / sum(layer.pairs for layer in layers)
    sums = evaluated(shown, case.samples)
    apart = distances([r[last] for r in found["dlcomp"]], [r[last] for r in sums], 1.0)
    rows: list[dict[str, Any]] = []
    for form, results in found.items():
        counts = distances([r[last] for r in results], [r[last] for r in right], 1.0)
        ends = [
            distances([r[name] for r in results], [r[name] for r in right], scale)
            for name, scale in scales.items()
        ]
        rows.append({
            "network": case.name, "form": form, "samples": len(case.samples), "last": last,
            "last_largest": float(counts.max()), "last_mean": float(counts.mean()),
            "last_differing": float((counts > 0).mean()),
            "output_largest": max(float(one.max()) for one in ends),
            "output_mean": float(np.mean([one.mean() for one in ends])),
            "risky_pairs": risky,
        })  # fmt: skip
    rows[0] |= {"sums_largest": float(apart.max()), "sums_differing": float((apart > 0).mean())}
    cells = [f"{row[key]:.3g}" for row in rows for key in ("last_largest", "last_mean", "output_largest")]
    cells += [f"{apart.max():.3g}", f"{100 * (apart > 0).mean():.2g} %"]
    print(table_row([case.name, len(case.samples), *cells, f"{100 * risky:.2g} %"]), flush=True)
    return rows


def sessions(data: bytes) -> tuple[Any, Any]:
    """onnxruntime's: every node as written, and as it is by default."""
    return peer.session(data, 1, optimize=False), peer.session(data, 1)


def with_last(small: dlcomp.Model) -> tuple[onnx.ModelProto, str, dict[str, float | None]]:
    """The network with the last quantized value as one more output, its name, and the outputs' scales.

    The scale is None where no QuantizeLinear makes the output.
    """
    network = Network(small)
    quantizing = [node for node in network.nodes if node.op_type == "QuantizeLinear"]
    if not quantizing:
        raise ModelError(f"{small.name} quantizes nothing", hint="compress it with quantize first")
    makers = {name: node for node in network.nodes for name in node.output}
    scales: dict[str, float | None] = {}
    for name in network.outputs:
        node = makers[name]
        while node.op_type in ("Reshape", "Flatten", "Squeeze", "Identity") and node.input[0] in makers:
            node = makers[node.input[0]]
        stepped = node.op_type == "DequantizeLinear"
        scales[name] = float(network.weights[node.input[1]]) if stepped else None
    last = str(quantizing[-1].output[0])
    return network.exposing([*network.outputs, last]), last, scales


def distances(found: Sequence[np.ndarray], right: Sequence[np.ndarray], scale: float | None) -> np.ndarray:
    """|found - right| of every element, in steps of ``scale`` or of 1/255 of the range of ``right``."""
    both = [
        np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays])
        for arrays in (found, right)
    ]
    step = scale or float(np.ptp(both[1])) / 255
    return np.asarray(np.abs(both[0] - both[1]) / (step or 1.0))


if __name__ == "__main__":
    run(main)
