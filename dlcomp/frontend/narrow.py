"""Stored integers of 4 and 2 bits as those of 8, which the compiler has: the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dlcomp.frontend.stored import array_of

# Each with the type of 8 bits that holds it.
_WIDER = {
    getattr(TensorProto, narrow): wide
    for narrow, wide in (("INT4", np.int8), ("UINT4", np.uint8), ("INT2", np.int8), ("UINT2", np.uint8))
    if hasattr(TensorProto, narrow)
}


def bytes_of_nibbles(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with such weights and zero points of DequantizeLinear in 8 bits; a copy if there are any.

    Where something else reads them, they stay what they are.
    """
    graph = network.graph
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type in _WIDER}
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            narrow.difference_update(node.input)
    narrow.difference_update(value.name for value in graph.output)
    if not narrow:
        return network
    result = onnx.ModelProto()
    result.CopyFrom(network)
    for tensor in result.graph.initializer:
        if tensor.name in narrow:
            wide = array_of(tensor).astype(_WIDER[tensor.data_type])
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return result
