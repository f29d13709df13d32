"""Single convolutions in float32 against onnxruntime's Conv, on one thread.

Both sides are timed in turn in one process, image in and image out in NCHW as the network has them, the
transposes at dlcomp's border included; a ratio is onnxruntime's time over dlcomp's. "In a network" is the
same convolution with dlcomp's images in NHWC, as between two layers, where it transposes nothing;
onnxruntime's time is that of its single Conv again, with what that does at its borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from onnx_graph import channels_last, conv_chain

import dlcomp
from dlcomp.runtime import peer
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.bench import in_turn


@dataclass(frozen=True)
class Shape:
    """Image (size x size or h x w), channels in and out, kernel, stride, groups (0: one a channel)."""

    net: str
    h: int
    w: int
    ci: int
    co: int
    k: int
    s: int = 1
    groups: int = 1

    def __str__(self) -> str:
        kind = "depthwise " if self.groups == 0 else f"{self.groups} groups " if self.groups > 1 else ""
        return f"{self.net} {self.h}x{self.w} {kind}{self.ci}-{self.co} {self.k}x{self.k}/{self.s}"


def _square(net: str, size: int, *rest: int) -> Shape:
    return Shape(net, size, size, *rest)


RESNET = [
    _square("ResNet", *shape)
    for shape in (
        (224, 3, 64, 7, 2),
        (56, 64, 64, 3),
        (56, 64, 128, 3, 2),
        (56, 64, 128, 1, 2),
        (28, 128, 128, 3),
        (28, 128, 256, 3, 2),
        (14, 256, 256, 3),
        (14, 256, 512, 3, 2),
        (7, 512, 512, 3),
        (56, 64, 256, 1),
        (56, 256, 64, 1),
        (56, 256, 512, 1, 2),
        (28, 512, 128, 1),
        (28, 128, 512, 1),
        (14, 1024, 256, 1),
        (14, 256, 1024, 1),
        (7, 2048, 512, 1),
        (7, 512, 2048, 1),
    )
]
MOBILE = [
    _square("EfficientNet-Lite0", *shape)
    for shape in (
        (224, 3, 32, 3, 2),
        (112, 32, 32, 3, 1, 0),
        (112, 32, 16, 1),
        (112, 96, 96, 3, 2, 0),
        (56, 96, 24, 1),
        (56, 24, 144, 1),
        (56, 144, 144, 3, 1, 0),
        (56, 144, 144, 5, 2, 0),
        (28, 40, 240, 1),
        (28, 240, 240, 5, 1, 0),
        (14, 80, 480, 1),
        (14, 480, 480, 3, 1, 0),
        (14, 672, 672, 5, 1, 0),
        (14, 112, 672, 1),
        (7, 1152, 1152, 5, 1, 0),
        (7, 192, 1152, 1),
        (7, 320, 1280, 1),
    )
]
YOLOX = [
    _square("YOLOX", *shape)
    for shape in (
        (208, 12, 32, 3),
        (208, 32, 64, 3, 2),
        (104, 64, 32, 1),
        (104, 32, 32, 3),
        (52, 64, 64, 3),
        (52, 128, 128, 3),
        (26, 128, 128, 3),
        (26, 256, 512, 3, 2),
        (13, 256, 256, 3),
        (13, 512, 512, 1),
    )
]
PPOCR = [
    Shape("PP-OCR", 120, 160, 96, 24, 3),
    Shape("PP-OCR", 60, 80, 96, 24, 3),
    Shape("PP-OCR", 240, 320, 32, 32, 3, 1, 0),
    Shape("PP-OCR", 120, 160, 64, 128, 1),
    Shape("PP-OCR", 12, 80, 128, 128, 5, 1, 0),
    Shape("PP-OCR", 3, 80, 256, 256, 5, 1, 0),
    Shape("PP-OCR", 1, 80, 480, 60, 1),
]
QUICK = (RESNET[1], RESNET[4], RESNET[9], RESNET[16], MOBILE[1], MOBILE[9], YOLOX[1], PPOCR[0])

COLUMNS = (
    "algorithm",
    "onnxruntime ms",
    "dlcomp ms",
    "ratio",
    "in a network",
    "without Winograd",
    "error",
)


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    shapes = QUICK if arguments.quick else (*RESNET, *MOBILE, *YOLOX, *PPOCR)
    seconds = 0.2 if arguments.quick else 0.5
    print(header("convolution", *COLUMNS))
    rows = [measure(shape, seconds) for shape in shapes]
    ratios = [row["ratio"] for row in rows]
    wide = [
        row["ratio"]
        for row in rows
        if row["k"] == 3 and row["s"] == 1 and min(row["ci"], row["co"]) >= 64 and row["groups"] == 1
    ]
    summary = {
        "geomean_vs_onnxruntime": geomean(ratios),
        "min_vs_onnxruntime": min(ratios),
        "geomean_3x3_s1_64up": geomean(wide),
        "geomean_in_network": geomean(row["ratio_in_network"] for row in rows),
        "min_in_network": min(row["ratio_in_network"] for row in rows),
        "max_error": max(row["error"] for row in rows),
    }
    finish(rows, summary, arguments.json)


def measure(shape: Shape, seconds: float) -> dict[str, Any]:
    groups = shape.groups or shape.ci
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, shape.ci, shape.h, shape.w), dtype=np.float32)
    fan_in = shape.ci // groups * shape.k**2
    weight = (
        rng.standard_normal((shape.co, shape.ci // groups, shape.k, shape.k), dtype=np.float32) / fan_in**0.5
    )
    bias = rng.standard_normal(shape.co, dtype=np.float32)
    network = conv_chain(x.shape, weight, bias, stride=shape.s, groups=groups)
    model = dlcomp.load(network)
    artifact = model.compile("host")
    error = dlcomp.verify(model, artifact, {"x": x}).max_error
    options: dict[str, Any] = {"threads": 1, "compare": "onnxruntime", "model": model, "min_time_s": seconds}
    result = artifact.bench({"x": x}, **options)
    assert result.ratio is not None
    assert result.peer_latency is not None
    row = {**vars(shape), "algorithm": algorithm(artifact), "ratio": result.ratio.median, "error": error}
    row |= {"groups": groups, "dlcomp_s": result.latency.median, "onnxruntime_s": result.peer_latency.median}
    other = ""
    if "winograd" in row["algorithm"]:
        direct = model.compile("host", winograd=False).bench({"x": x}, **options).ratio
        assert direct is not None
        row["ratio_direct"] = direct.median
        other = f"{direct.median:.2f}"
    inside = dlcomp.load(channels_last(network)).compile("host")
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    theirs = peer.runner(peer.session(network.SerializeToString(), 1), {"x": x})
    *_, between = in_turn(inside.session().staged([turned], 1), theirs, min_time_s=seconds)
    row["ratio_in_network"] = between.median
    cells = [row["algorithm"], f"{row['onnxruntime_s'] * 1e3:.3f}", f"{row['dlcomp_s'] * 1e3:.3f}"]
    ratio = f"{result.ratio.median:.2f} ({result.ratio.low:.2f}-{result.ratio.high:.2f})"
    print(
        table_row([shape, *cells, ratio, f"{row['ratio_in_network']:.2f}", other, f"{error:.0e}"]), flush=True
    )
    return row


def algorithm(artifact: Artifact) -> str:
    """The template of the kernel that does the work."""
    main = max(artifact.kernels, key=lambda kernel: kernel.flops)
    return main.schedule.split("{")[0]


if __name__ == "__main__":
    run(main)
