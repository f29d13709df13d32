"""Batch normalisation behind a convolution, folded into its weights (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from dlcomp.frontend.stored import array_of
from dlcomp.frontend.writer import attributes_of

_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}


def fold_batch_norm(network: onnx.ModelProto) -> None:
    """Replace, in place, every inference-mode BatchNormalization that is the only reader of a convolution.

    The convolution's weight and bias must be stored, and a weight that others read too gets a copy. A bias is
    added where there is none.
    """
    graph = network.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    makers = {
        node.output[0]: node for node in graph.node if node.op_type in _CONVOLUTIONS and not node.domain
    }
    gone: list[onnx.NodeProto] = []
    for norm in graph.node:
        conv = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or readers[norm.input[0]] != 1 or not _is_inference(norm):
            continue
        if any(name not in stored for name in (*norm.input[1:5], *conv.input[1:3])):
            continue
        if conv.op_type == "ConvTranspose" and int(attributes_of(conv).get("group", 1)) != 1:
            continue
        weight, bias = _folded(conv, norm, stored)
        for place, (array, hint) in enumerate(((weight, "weight"), (bias, "bias")), start=1):
            tensor = numpy_helper.from_array(array, f"{norm.output[0]}/{hint}")
            graph.initializer.append(tensor)
            stored[tensor.name] = tensor
            if place < len(conv.input):
                conv.input[place] = tensor.name
            else:
                conv.input.append(tensor.name)
        conv.output[0] = norm.output[0]
        makers[norm.output[0]] = conv
        gone.append(norm)
    for norm in gone:
        graph.node.remove(norm)


def _is_inference(norm: onnx.NodeProto) -> bool:
    attributes = attributes_of(norm)
    return not attributes.get("training_mode", 0) and sum(bool(name) for name in norm.output) == 1


def _folded(
    conv: onnx.NodeProto, norm: onnx.NodeProto, stored: dict[str, onnx.TensorProto]
) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of the convolution that does both; computed in float64."""
    scale, shift, mean, variance = (array_of(stored[name]).astype(np.float64) for name in norm.input[1:5])
    factor = scale / np.sqrt(variance + float(attributes_of(norm).get("epsilon", 1e-5)))
    weight = array_of(stored[conv.input[1]])
    bias = array_of(stored[conv.input[2]]).astype(np.float64) if len(conv.input) > 2 else 0.0
    axis = _CONVOLUTIONS[conv.op_type]
    along = factor.reshape([-1 if d == axis else 1 for d in range(weight.ndim)])
    return (weight * along).astype(weight.dtype), ((bias - mean) * factor + shift).astype(weight.dtype)
