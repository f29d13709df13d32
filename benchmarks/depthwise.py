"""Depthwise layers on 8-bit integers against the same layers in float32, on one thread.

A layer is a convolution, bounds and, on integers, the rounding to 8 bits, images in NHWC as between two
layers. Both are timed in turn in one process; sums are compared with NumPy's before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from common import finish, geomean, header, options, run, table_row
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered

# Network, image, channels, kernel, stride.
LAYERS = (
    ("EfficientNet-Lite0", 112, 112, 32, (3, 3), (1, 1)),
    ("EfficientNet-Lite0", 112, 112, 96, (3, 3), (2, 2)),
    ("EfficientNet-Lite0", 56, 56, 144, (3, 3), (1, 1)),
    ("EfficientNet-Lite0", 56, 56, 144, (5, 5), (2, 2)),
    ("EfficientNet-Lite0", 28, 28, 240, (5, 5), (1, 1)),
    ("EfficientNet-Lite0", 28, 28, 240, (3, 3), (2, 2)),
    ("EfficientNet-Lite0", 14, 14, 480, (3, 3), (1, 1)),
    ("EfficientNet-Lite0", 14, 14, 672, (5, 5), (1, 1)),
    ("EfficientNet-Lite0", 7, 7, 1152, (5, 5), (1, 1)),
    ("depthwise-separable network", 28, 28, 32, (3, 3), (1, 1)),
    ("depthwise-separable network", 14, 14, 64, (3, 3), (1, 1)),
    ("PP-OCR's recogniser", 24, 160, 64, (3, 3), (1, 1)),
    ("PP-OCR's recogniser", 12, 80, 240, (5, 5), (1, 1)),
    ("PP-OCR's recogniser", 12, 80, 240, (5, 5), (2, 1)),
)
QUICK = 4


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    arguments = parser.parse_args()
    print(header("depthwise layer", "float32 us", "8 bits us", "ratio"))
    rows = [layer(*each) for each in (LAYERS[::QUICK] if arguments.quick else LAYERS)]
    finish(rows, {"geomean_depthwise_vs_float32": geomean(row["ratio"] for row in rows)}, arguments.json)


def layer(
    net: str, h: int, w: int, channels: int, kernel: tuple[int, int], stride: tuple[int, int]
) -> dict[str, Any]:
    """One layer's row, printed as soon as it is known."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (channels, 1, *kernel)).astype(np.int8)
    image = rng.integers(0, 256, (1, h, w, channels)).astype(np.uint8)
    whole, wide = (dlcomp.load(network(image, weight, stride, bits)).compile("host") for bits in (8, 32))
    assert any("depthwise.integer" in each.schedule for each in whole.kernels)
    reals = {"x": image.astype(np.float32)}
    steps = np.clip(np.rint(wide.run(reals)["y"] * np.float32(0.004)), 0, 255)
    np.testing.assert_array_equal(whole.run({"x": image})["y"], steps)
    ours = whole.session().staged(ordered({"x": image}, whole.signature), 1)
    floats = wide.session().staged(ordered(reals, wide.signature), 1)
    latency, other, ratio = in_turn(ours, floats, min_time_s=0.5)
    shape = f"{net} {h}x{w} {channels} {kernel[0]}x{kernel[1]}/{'x'.join(map(str, stride))}"
    row = {"layer": shape, "float32_s": other.median, "s": latency.median, "ratio": ratio.median}
    spread = f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
    print(table_row([shape, f"{other.median * 1e6:.0f}", f"{latency.median * 1e6:.0f}", spread]), flush=True)
    return row


def network(image: np.ndarray, weight: np.ndarray, stride: tuple[int, int], bits: int) -> onnx.ModelProto:
    """The layer on integers, or in float32 on the same whole numbers with sums as results."""
    kernel = weight.shape[2:]
    attributes = {"group": len(weight), "strides": stride, "pads": [k // 2 for k in (*kernel, *kernel)]}
    numbers = {
        "w": weight if bits == 8 else weight.astype(np.float32),
        "zero": np.uint8(0),
        "one": np.float32(1),
        "scale": np.float32(0.004),
        "low": np.float32(0),
        "high": np.float32(1e9),
    }
    node = helper.make_node
    nodes = [node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2])]
    if bits == 8:
        nodes += [
            node("ConvInteger", ["a", "w", "zero"], ["b"], **attributes),
            node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
            node("Mul", ["c", "scale"], ["d"]),
            node("QuantizeLinear", ["d", "one", "zero"], ["e"]),
        ]
    else:
        nodes += [
            node("Conv", ["a", "w"], ["b"], **attributes),
            node("Clip", ["b", "low", "high"], ["e"]),
        ]
    nodes.append(node("Transpose", ["e"], ["y"], perm=[0, 2, 3, 1]))
    kind = TensorProto.UINT8 if bits == 8 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, list(image.shape))],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    run(main)
