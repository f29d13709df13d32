"""Shape inference over the structure of a network, without copying its weights back and forth."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from dlcomp.frontend.stored import is_mapped, without_weights

# Tensors of more bytes than this are weights; smaller ones may be shapes, whose values inference needs.
_WEIGHT_BYTES = 4096


def inferred(network: onnx.ModelProto, *, strict: bool = False) -> onnx.GraphProto:
    """The graph of ``network`` with value_info and outputs inferred, but without the data of its weights.

    With ``strict``, inconsistent operands raise what ONNX raises.
    """
    light = without_weights(network)
    graph = light.graph
    for tensor in network.graph.initializer:
        if len(tensor.raw_data) <= _WEIGHT_BYTES and not is_mapped(tensor):
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    # Not with data_prop: it writes out each element of a ConstantOfShape as a message (5 GB for 2^26 of
    # them). What it would find, fold.py finds.
    return shape_inference.infer_shapes(light, check_type=strict, strict_mode=strict).graph
