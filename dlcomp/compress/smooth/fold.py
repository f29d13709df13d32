"""Division of a value's channels by fixed factors, inside the weights of what makes the value.

The channels are those of the last dimension behind products and normalisations, and the second of what
convolutions read; ``place`` is theirs counted from the end, 1 for the last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx

from dlcomp.compress.layers import Layer, layers_of
from dlcomp.compress.network import Network

# Where an operand is that the result is proportional to, along the last dimension.
_STORED = {"LayerNormalization": (1, 2), "SimplifiedLayerNormalization": (1,)}
# What a positive factor of a channel passes through.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "Identity"})
_POOLING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True)
class Edit:
    """A stored operand to divide.

    Attributes
    ----------
    operand : int
    axis : int or None
        Of a weight, that of the channels; None for a vector of them, or a number for all, next to the value.
    """

    node: onnx.NodeProto
    operand: int
    axis: int | None


def edits_for(network: Network, name: str, size: int, place: int) -> list[Edit] | None:
    """The operands to divide so that the value ``name`` is divided; None where there is no such way.

    The way goes through sums with stored vectors, ReLU and pooling, as long as nobody else reads what is
    between, to a normalisation, a product with a stored vector, or a layer.
    """
    makers = {output: node for node in network.nodes for output in node.output}
    readers = Counter(other for node in network.nodes for other in node.input)
    readers.update(network.outputs)
    layers = {layer.output: layer for layer in layers_of(network)}
    found: list[Edit] = []
    while True:
        node = makers.get(name)
        if node is None:
            return None
        if name in layers:
            made = _of_layer(network, layers[name], size, place)
            return None if made is None else [*found, *made]
        if node.op_type in _STORED and name == node.output[0]:
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            vectors = [operand for operand in _STORED[node.op_type] if operand < len(node.input)]
            good = axis == -1 and place == 1 and all(_is_vector(network, node, v, size, 1) for v in vectors)
            return [*found, *(Edit(node, vector, None) for vector in vectors)] if good else None
        if node.op_type in ("Add", "Mul"):
            operand = next((p for p in (0, 1) if _is_vector(network, node, p, size, place)), None)
            if operand is None:
                return None
            found.append(Edit(node, operand, None))
            if node.op_type == "Mul":
                return found
            name = node.input[1 - operand]
        elif node.op_type in _HOMOGENEOUS or (node.op_type in _POOLING and place > 1):
            name = node.input[0]
        else:
            return None
        if readers[name] != 1:
            return None


def _of_layer(network: Network, layer: Layer, size: int, place: int) -> list[Edit] | None:
    """The weight and the bias of a layer whose outputs are the channels."""
    weight = network.weights[layer.node.input[layer.weight]]
    behind = weight.ndim - 1 if layer.node.op_type in ("Conv", "ConvTranspose") else 1
    if place != behind or weight.shape[layer.axis] != size:
        return None
    edits = [Edit(layer.node, layer.weight, layer.axis)]
    if layer.bias is None:
        return edits
    edits.append(Edit(layer.node, layer.bias, 0))
    return edits if network.weights[layer.node.input[layer.bias]].shape == (size,) else None


def _is_vector(network: Network, node: onnx.NodeProto, operand: int, size: int, place: int) -> bool:
    """Whether the operand is stored and has a number for each channel, or one for all."""
    array = network.weights.get(node.input[operand])
    if array is None or array.dtype != np.float32:
        return False
    if array.size == 1:
        # A number may have fewer dimensions than the value, and the other operand has them all.
        return array.ndim <= place
    return array.size == size and array.ndim >= place and array.shape[-place] == size


def divide(network: Network, edits: list[Edit], factor: np.ndarray, place: int) -> None:
    """Make ``edits``."""
    for edit in edits:
        name = network.own_weight(edit.node, edit.operand)
        array = network.weights[name]
        if edit.axis is None:
            along = factor.reshape([-1] + [1] * (place - 1))
        else:
            along = factor.reshape([-1 if d == edit.axis % array.ndim else 1 for d in range(array.ndim)])
        network.set_weight(name, (array / along).astype(np.float32))
