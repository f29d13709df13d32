"""Division of a value's last dimension by fixed factors, inside the weights of what makes the value."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from dlcomp.compress.layers import layers_of
from dlcomp.compress.network import Network

# Where an operand is that the result is proportional to, along the last dimension.
_STORED = {"LayerNormalization": (1, 2), "SimplifiedLayerNormalization": (1,)}
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "Identity"})
# A stored operand, and the axis of it that is the last dimension of the value.
Edit = tuple[onnx.NodeProto, int, int]


def edits_for(network: Network, name: str, size: int) -> list[Edit] | None:
    """The operands to divide so that the value ``name`` is divided; None where there is no such way.

    The way goes through sums with stored vectors and through ReLU, as long as nobody else reads what is
    between, to a normalisation, a product with a stored vector, or a layer.
    """
    makers = {output: node for node in network.nodes for output in node.output}
    readers = Counter(other for node in network.nodes for other in node.input)
    readers.update(network.outputs)
    layers = {layer.output: layer for layer in layers_of(network) if layer.node.op_type in ("MatMul", "Gemm")}
    found: list[Edit] = []
    while True:
        node = makers.get(name)
        if node is None:
            return None
        if name in layers:
            layer = layers[name]
            found.append((node, layer.weight, layer.axis))
            if layer.bias is not None:
                found.append((node, layer.bias, -1))
            return found if all(_is_long(network, *edit, size) for edit in found) else None
        if node.op_type in _STORED and name == node.output[0]:
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            vectors = [(node, place, -1) for place in _STORED[node.op_type] if place < len(node.input)]
            good = axis == -1 and all(_is_long(network, *edit, size) for edit in vectors)
            return [*found, *vectors] if good else None
        if node.op_type in ("Add", "Mul"):
            place = next((p for p in (0, 1) if _is_long(network, node, p, -1, size)), None)
            if place is None:
                return None
            found.append((node, place, -1))
            if node.op_type == "Mul":
                return found
            name = node.input[1 - place]
        elif node.op_type in _HOMOGENEOUS:
            name = node.input[0]
        else:
            return None
        if readers[name] != 1:
            return None


def _is_long(network: Network, node: onnx.NodeProto, place: int, axis: int, size: int) -> bool:
    """Whether the operand is stored and has ``size`` numbers along ``axis``; a vector has no others."""
    array = network.weights.get(node.input[place])
    if array is None or array.dtype != np.float32 or not array.ndim or array.shape[axis] != size:
        return False
    return axis != -1 or array.size == size


def divide(network: Network, edits: list[Edit], factor: np.ndarray) -> None:
    """Make ``edits``."""
    for node, place, axis in edits:
        name = network.own_weight(node, place)
        array = network.weights[name]
        along = [1] * array.ndim
        along[axis] = -1
        network.set_weight(name, (array / factor.reshape(along)).astype(np.float32))
