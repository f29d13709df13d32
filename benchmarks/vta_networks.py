"""Whole networks on VTA: ResNet-18 at 224 x 224 with random weights, trained networks, all bit by bit.

Every layer that has integers runs on the accelerator, in one program; the host quantizes the picture and
multiplies the sums of the last layer by their scale. Results are compared with the integer reference of the
network, and labels with those of the same network in int8 on the CPU.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import models
import numpy as np
from common import finish, header, options, run, table_row
from datasets import fashion, pictures
from onnx import TensorProto, helper
from onnx_graph import GraphBuilder

import dlcomp
from dlcomp.codegen.vta import VtaNetwork, compile_network

FASHION = ("resnet8", "dscnn", "lenet5", "lenet300")
NETWORKS = Path(__file__).parent / "fashion"
POWER_OF_TWO = dlcomp.Quantize(scales="power_of_two")
COLUMNS = (
    "network",
    "pictures",
    "layers",
    "cycles",
    "ms at 100 MHz",
    "utilisation",
    "bit-equal",
    "simulated in s",
)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--target", default="pynq", help="a description in vta_targets/")
    parser.add_argument("--images", type=int, default=1000, help="test pictures for accuracy")
    parser.add_argument("--pictures", metavar="FOLDER", help="labelled pictures: EfficientNet-Lite0 too")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(header(*COLUMNS))
    if not arguments.quick:
        rows.append(random_resnet18(arguments.target))
        print(table_row(rows[-1][name] for name in COLUMNS), flush=True)
        if arguments.pictures:
            rows.append(efficientnet(arguments.target, Path(arguments.pictures), arguments.images))
            print(table_row(rows[-1][name] for name in COLUMNS), flush=True)
    names = FASHION[:1] if arguments.quick else FASHION
    for name in names:
        rows.append(trained(name, arguments.target, 100 if arguments.quick else arguments.images))
        print(table_row(rows[-1][column] for column in COLUMNS), flush=True)
    print("\n" + header("top-1", "float32 %", "int8 on the CPU %", "VTA %"))
    for row in rows:
        if "vta" in row:
            figures = (f"{100 * row[kind]:.2f}" for kind in ("float32", "int8", "vta"))
            print(table_row([row["network"], *figures]))
    summary = {
        "networks_bit_equal": int(all(row["bit-equal"] for row in rows)),
        "largest_drop_points": max(100 * (row["int8"] - row["vta"]) for row in rows if "vta" in row),
        **{f"{row['network']}_cycles": row["cycles"] for row in rows},
    }
    finish(rows, summary, arguments.json)


def random_resnet18(target: str) -> dict[str, Any]:
    """ResNet-18 with random weights: what the layers cost does not depend on them."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (4, 3, 224, 224)).astype(np.float32)
    model = dlcomp.load(resnet18(rng)).compress(POWER_OF_TWO, calibration=noise)
    return _row("resnet18", compile_network(model, target), {"image": noise[:1]})


def resnet18(rng: np.random.Generator) -> Any:
    """The network of He et al., 2015, batch normalisation folded, with random weights."""
    graph = GraphBuilder()

    def normal(name: str, spread: float, *shape: int) -> str:
        return graph.weight(name, rng.normal(0, spread, shape).astype(np.float32))

    def conv(data: str, name: str, outputs: int, inputs: int, kernel: int, stride: int) -> str:
        spread = float(np.sqrt(2 / (inputs * kernel**2)))
        weight = normal(f"{name}_w", spread, outputs, inputs, kernel, kernel)
        bias = normal(f"{name}_b", 0.1, outputs)
        pad = kernel // 2
        return graph.op("Conv", data, weight, bias, name=name, strides=[stride] * 2, pads=[pad] * 4)

    value = graph.op("Relu", conv("image", "stem", 64, 3, 7, 2), name="stem_relu")
    value = graph.op("MaxPool", value, name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            name = f"s{stage}b{block}"
            inner = graph.op("Relu", conv(value, f"{name}a", outputs, inputs, 3, stride), name=f"{name}ar")
            inner = conv(inner, f"{name}b", outputs, outputs, 3, 1)
            if stride > 1:
                value = conv(value, f"{name}s", outputs, inputs, 1, stride)
            value = graph.op("Relu", graph.op("Add", inner, value, name=f"{name}sum"), name=f"{name}r")
            inputs = outputs
    value = graph.op("GlobalAveragePool", value, name="mean")
    value = graph.op("Flatten", value, name="flat")
    weight, bias = normal("fc_w", 0.04, 1000, 512), normal("fc_b", 0.1, 1000)
    graph.op("Gemm", value, weight, bias, name="logits", transB=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])
    return graph.finish("resnet18", [image], [logits])


def trained(name: str, target: str, images: int) -> dict[str, Any]:
    """A network of ``benchmarks/fashion``: labels of the test pictures, ten at a time."""
    model = dlcomp.load(NETWORKS / f"{name}.onnx", {"image": (10, 1, 28, 28)})
    calibration = fashion("train")[0][:400]
    integers = model.compress(POWER_OF_TWO, calibration=calibration)
    compiled = compile_network(integers, target)
    images_of, labels = (part[:images] for part in fashion("t10k"))
    row = _row(name, compiled, {"image": images_of[:10]})
    runs = {
        "float32": model.compile("host").run,
        "int8": model.compress(dlcomp.Quantize(), calibration=calibration).compile("host").run,
        "vta": compiled.run,
    }
    for kind, function in runs.items():
        found = [function({"image": images_of[n : n + 10]})["logits"].argmax(1) for n in range(0, images, 10)]
        row[kind] = float((np.concatenate(found) == labels).mean())
    return row


def efficientnet(target: str, folder: Path, images: int) -> dict[str, Any]:
    """EfficientNet-Lite0 (depthwise convolutions, ReLU6) on objects with ImageNet's classes."""
    model = dlcomp.load(models.fetch("efficientnet_lite0"), {"input": (1, 3, 224, 224)})
    found, accepted, calibration = pictures(folder)
    integers = model.compress(POWER_OF_TWO, calibration=calibration)
    begin = time.perf_counter()
    compiled = compile_network(integers, target)
    seconds = time.perf_counter() - begin
    row = _row("efficientnet_lite0", compiled, {"input": found[:1]}) | {"compiled in s": round(seconds, 1)}
    runs = {
        "float32": model.compile("host").run,
        "int8": model.compress(dlcomp.Quantize(), calibration=calibration).compile("host").run,
        "vta": compiled.run,
    }
    chosen = range(0, len(found), max(1, len(found) // images))
    for kind, function in runs.items():
        labels = [int(function({"input": found[n : n + 1]})["logits"].argmax()) for n in chosen]
        row[kind] = float(np.mean([label in accepted[n] for label, n in zip(labels, chosen, strict=True)]))
    return row


def _row(name: str, compiled: VtaNetwork, feed: dict[str, np.ndarray]) -> dict[str, Any]:
    found = compiled.run(feed)["logits"]
    begin = time.perf_counter()
    compiled.run(feed)
    seconds = time.perf_counter() - begin
    wanted = compiled.run(feed, engine="reference")["logits"]
    layers = compiled.cycles()
    cycles = sum(layer.cycles for layer in layers)
    return {
        "network": name,
        "pictures": len(next(iter(feed.values()))),
        "layers": len(layers),
        "cycles": cycles,
        "ms at 100 MHz": round(cycles / 1e5, 2),
        "utilisation": round(compiled.macs / compiled.config.macs_per_cycle / cycles, 3),
        "bit-equal": bool(np.array_equal(found, wanted)),
        "simulated in s": round(seconds, 2),
        "of layers": {layer.name: layer.cycles for layer in layers},
    }


if __name__ == "__main__":
    run(main)
