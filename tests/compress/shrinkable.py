"""Networks whose channels depend on each other, one for each way in which they can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import networks
import onnx
from onnx import helper

node, value, weight = helper.make_node, networks.value, networks.weight


def conv(read: str, made: str, outputs: int, inputs: int, kernel: int = 3, **attributes: Any) -> list[Any]:
    """A convolution with its weight and bias, of the same image size."""
    weights = [weight(f"w_{made}", outputs, inputs, kernel, kernel), weight(f"b_{made}", outputs)]
    pads = [kernel // 2] * 4
    operands = [read, f"w_{made}", f"b_{made}"]
    return [node("Conv", operands, [made], name=made, pads=pads, **attributes), *weights]


def net(*parts: Any, opset: int = 17, outputs: int = 1, inputs: list[int] | None = None) -> onnx.ModelProto:
    """The nodes and weights of ``parts`` from ``x`` to ``y`` (of unknown sizes)."""
    flat = [part for group in parts for part in (group if isinstance(group, list) else [group])]
    nodes = [part for part in flat if isinstance(part, onnx.NodeProto)]
    stored = [part for part in flat if isinstance(part, onnx.TensorProto)]
    rank = {1: ["n", "c"], 2: ["n", "c", "h", "w"], 3: ["n", "c", "s"]}[outputs]
    return networks.model(
        nodes, [value("x", inputs or [2, 3, 8, 8])], [value("y", rank)], stored, opset=opset
    )


def head(read: str, inputs: int) -> list[Any]:
    return [
        node("GlobalAveragePool", [read], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "w_head", "b_head"], ["y"], name="head", transB=1),
        weight("w_head", 5, inputs),
        weight("b_head", 5),
    ]


def residual() -> onnx.ModelProto:
    """Two blocks on one sum, and a layer whose channels nobody adds to."""
    return net(
        conv("x", "a", 8, 3), node("Relu", ["a"], ["b"]),
        conv("b", "c", 16, 8), node("Relu", ["c"], ["d"]), conv("d", "e", 8, 16),
        node("Add", ["e", "b"], ["f"]), node("Relu", ["f"], ["g"]),
        conv("g", "h", 8, 8), node("Add", ["g", "h"], ["i"]), head("i", 8),
    )  # fmt: skip


def joined() -> onnx.ModelProto:
    """Branches joined, one of them also added to something of the width of both; the input is joined too."""
    return net(
        conv("x", "a", 4, 3), conv("x", "b", 8, 3), node("Concat", ["a", "b"], ["c"], axis=1),
        conv("x", "d", 12, 3), node("Add", ["c", "d"], ["e"]),
        node("Concat", ["e", "x", "b"], ["f"], axis=-3),
        node("Sigmoid", ["f"], ["g"]), conv("g", "h", 6, 23, 1), head("h", 6),
    )  # fmt: skip


def depthwise() -> onnx.ModelProto:
    """Depthwise convolutions, also with two outputs for each input, and squeeze and excitation."""
    return net(
        conv("x", "a", 8, 3, 1), node("HardSwish", ["a"], ["b"]), conv("b", "c", 8, 1, group=8),
        node("GlobalAveragePool", ["c"], ["d"]), conv("d", "e", 4, 8, 1), node("Relu", ["e"], ["f"]),
        conv("f", "g", 8, 4, 1), node("Sigmoid", ["g"], ["h"]), node("Mul", ["c", "h"], ["i"]),
        conv("i", "j", 16, 1, group=8), conv("j", "k", 8, 16, 1), head("k", 8),
    )  # fmt: skip


def grouped() -> onnx.ModelProto:
    """A grouped convolution: what goes from one group goes from the others, of inputs and outputs."""
    return net(
        conv("x", "a", 8, 3), node("Relu", ["a"], ["b"]), conv("b", "c", 12, 4, group=2),
        node("Relu", ["c"], ["d"]), conv("d", "e", 8, 12), head("e", 8),
    )  # fmt: skip


def flattened() -> onnx.ModelProto:
    """An image flattened and reshaped on its way into matrix products; pooling, padding, means."""
    return net(
        conv("x", "a", 8, 3), node("Pad", ["a", "pads"], ["b"]),
        networks.constant("pads", [0, 0, 1, 1, 0, 0, 0, 1], "int64"),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[4, 4]),
        node("Reshape", ["c", "shape"], ["d"]), networks.constant("shape", [2, 48], "int64"),
        node("MatMul", ["d", "w1"], ["e"], name="first"), weight("w1", 48, 10),
        node("Add", ["e", "b1"], ["f"]), weight("b1", 10), node("Relu", ["f"], ["g"]),
        node("Reshape", ["g", "deep"], ["h"]), networks.constant("deep", [0, 10, 1, 1], "int64"),
        conv("h", "i", 8, 10, 1), node("ReduceMean", ["i"], ["j"], axes=[2, 3], keepdims=0),
        node("Gemm", ["j", "w2"], ["y"], name="last"), weight("w2", 8, 5),
    )  # fmt: skip


def stored() -> onnx.ModelProto:
    """Numbers for each channel that are no layer's: normalisation, slopes, scales; an image made larger."""
    names = ("gamma", "beta", "mean")
    return net(
        conv("x", "a", 8, 3), node("Relu", ["a"], ["b"]),
        node("BatchNormalization", ["b", *names, "variance"], ["c"]), *(weight(n, 8) for n in names),
        networks.constant("variance", [1, 2, 3, 4, 5, 6, 7, 8], "float32"),
        node("PRelu", ["c", "slope"], ["d"]), weight("slope", 8, 1, 1),
        node("Mul", ["factor", "d"], ["e"]), weight("factor", 1, 8, 1, 1),
        node("Resize", ["e", "", "", "sizes"], ["f"], mode="nearest"),
        networks.constant("sizes", [2, 8, 12, 10], "int64"), conv("f", "g", 8, 8), head("g", 8),
    )  # fmt: skip


def sequence() -> onnx.ModelProto:
    """Channels last: a block of two matrix products beside a short cut, moved to where convolutions read."""
    return net(
        node("MatMul", ["x", "w1"], ["a"], name="widen"), weight("w1", 6, 16),
        node("Add", ["b1", "a"], ["b"]), weight("b1", 16), node("Erf", ["b"], ["c"]),
        node("MatMul", ["c", "w2"], ["d"], name="narrow"), weight("w2", 16, 8, seed=1),
        node("Transpose", ["d"], ["e"], perm=[0, 2, 1]),
        node("Conv", ["e", "w3"], ["f"], name="conv"), weight("w3", 8, 8, 2),
        node("Unsqueeze", ["f", "axes"], ["g"]), networks.constant("axes", [1], "int64"),
        node("Squeeze", ["g", "axes"], ["h"]),
        node("Conv", ["h", "w4"], ["y"], name="last"), weight("w4", 4, 8, 1),
        outputs=3, inputs=[2, 7, 6],
    )  # fmt: skip


FAMILY: Mapping[str, Callable[[], onnx.ModelProto]] = {
    made.__name__: made for made in (residual, joined, depthwise, grouped, flattened, stored, sequence)
}
