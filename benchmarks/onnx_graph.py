"""A few lines that make writing an ONNX graph by hand bearable."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def one_node(
    kind: str, inputs: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray], **attributes: Any
) -> onnx.ModelProto:
    """A network of a single operator, float32; its operands are the inputs and then the weights."""
    node = helper.make_node(kind, [*inputs, *weights], ["y"], name="y", **attributes)
    kinds = {**inputs, "y": None}
    *values, result = (helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in kinds.items())
    stored = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph([node], kind, values, [result], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv_chain(
    shape: tuple[int, ...], weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, groups: int = 1
) -> onnx.ModelProto:
    """A convolution that keeps the size (over its stride), on an image x (n, c, h, w)."""
    pad = weight.shape[2] // 2
    attributes = {"strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
    return one_node("Conv", {"x": shape}, {"weight": weight, "bias": bias}, **attributes)


def channels_last(network: onnx.ModelProto) -> onnx.ModelProto:
    """A network of one image in and one out, with both in NHWC."""
    turned = onnx.ModelProto()
    turned.CopyFrom(network)
    graph = turned.graph
    (image,), (result,) = graph.input, graph.output
    first = helper.make_node("Transpose", ["x_nhwc"], [image.name], perm=[0, 3, 1, 2])
    last = helper.make_node("Transpose", [result.name], ["y_nhwc"], perm=[0, 2, 3, 1])
    nodes = [first, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
    dims = image.type.tensor_type.shape.dim
    n, c, h, w = (dim.dim_value for dim in dims)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x_nhwc", onnx.TensorProto.FLOAT, (n, h, w, c)))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y_nhwc", onnx.TensorProto.FLOAT, None))
    return turned


class GraphBuilder:
    """Collects nodes and weights; every ``op`` call returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, array: np.ndarray) -> str:
        """Store ``array`` once under ``name``."""
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def op(self, kind: str, *operands: str, name: str, **attributes: Any) -> str:
        """Append a node called ``name`` whose one output is called the same."""
        self.nodes.append(helper.make_node(kind, list(operands), [name], name=name, **attributes))
        return name

    def finish(
        self,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        opset: int = 17,
    ) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.weights.values()))
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="dlcomp-suite")
        onnx.checker.check_model(model)
        return model
