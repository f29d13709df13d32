"""Layers behind each other whose channels can be scaled: by one, and back by the next.

Between the two is what keeps a positive factor of a channel, f(s x) = s f(x), and nobody else reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from dlcomp.compress.layers import Layer, layers_of, weight_of
from dlcomp.compress.network import Network, attributes_of

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True)
class Pair:
    """A layer, what stands behind it, and the layer that reads that.

    Attributes
    ----------
    bounds : node or None
        A Clip from 0 between the two, whose upper bound is to become one for each channel.
    between : sequence of nodes
        All that is between them.
    """

    first: Layer
    second: Layer
    bounds: onnx.NodeProto | None
    between: Sequence[onnx.NodeProto]

    @property
    def title(self) -> str:
        return f"{self.first.name} -> {self.second.name}"


def pairs_of(network: Network) -> Iterator[Pair]:
    """Every pair of ``network``, in order."""
    readers = Counter(name for node in network.nodes for name in node.input)
    readers.update(network.outputs)
    followers = {name: node for node in network.nodes for name in node.input}
    layers = {layer.output: layer for layer in layers_of(network) if layer.node.op_type in ("Conv", "Gemm")}
    for first in layers.values():
        chain: list[onnx.NodeProto] = []
        bounds: onnx.NodeProto | None = None
        name = first.output
        while readers[name] == 1 and name in followers:
            node = followers[name]
            second = layers.get(node.output[0])
            if second is not None and second.data == name:
                if _fits(network, first, second):
                    yield Pair(first, second, bounds, chain)
                break
            if bounds is None and _is_clip(network, node) and not any(map(_flattens, chain)):
                bounds = node
            elif (node.op_type not in _HOMOGENEOUS and not _flattens(node)) or node.input[0] != name:
                break
            chain.append(node)
            name = node.output[0]


def upper_bound(network: Network, node: onnx.NodeProto) -> float:
    """That of a Clip."""
    return float(network.weights[node.input[2]].reshape(-1)[0])


def _is_clip(network: Network, node: onnx.NodeProto) -> bool:
    """Whether it is a ReLU with a bound, such as ReLU6."""
    if node.op_type != "Clip" or len(node.input) != 3:
        return False
    stored = [network.weights.get(name) for name in node.input[1:]]
    return all(array is not None and array.size == 1 for array in stored) and not np.any(stored[0])


def _flattens(node: onnx.NodeProto) -> bool:
    return node.op_type == "Flatten" and int(attributes_of(node).get("axis", 1)) == 1


def _fits(network: Network, first: Layer, second: Layer) -> bool:
    """Whether the inputs of the second are the channels of the first, or pixels of them, flattened."""
    outputs = weight_of(network, first).shape[first.axis]
    inputs = inputs_of(network, second)
    return inputs == outputs or (str(second.node.op_type) == "Gemm" and inputs % outputs == 0)


def inputs_of(network: Network, layer: Layer) -> int:
    shape = weight_of(network, layer).shape
    if layer.node.op_type == "Conv":
        return int(shape[1]) * layer.groups
    return int(math.prod(shape) // shape[layer.axis])


def by_inputs(network: Network, layer: Layer) -> np.ndarray:
    """A view ``(G, O / G, I / G, taps)`` of the weight."""
    weight = weight_of(network, layer)
    if layer.node.op_type == "Conv":
        return weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1)
    return (weight if layer.axis == 0 else weight.T)[None, :, :, None]


def by_outputs(network: Network, layer: Layer) -> np.ndarray:
    """A view ``(O, inputs)`` of the weight."""
    weight = weight_of(network, layer)
    moved = np.moveaxis(weight, layer.axis, 0)
    return moved.reshape(len(moved), -1)


def scale_channels(network: Network, pair: Pair, factor: np.ndarray) -> None:
    """Divide the channels between the two by ``factor``; bounds between them are the caller's."""
    first, second = pair.first, pair.second
    weight = weight_of(network, first)
    along = [-1 if axis == first.axis else 1 for axis in range(weight.ndim)]
    _set(network, first, first.weight, weight / factor.reshape(along))
    if first.bias is not None:
        bias = network.weights[first.node.input[first.bias]]
        _set(network, first, first.bias, bias / (factor if bias.ndim == 1 else factor[None]))
    weight = weight_of(network, second)
    each = np.repeat(factor, inputs_of(network, second) // len(factor))
    if second.node.op_type == "Conv":
        split = by_inputs(network, second) * each.reshape(second.groups, 1, -1, 1)
        _set(network, second, second.weight, split.reshape(weight.shape))
    else:
        _set(network, second, second.weight, weight * (each[None] if second.axis == 0 else each[:, None]))


def _set(network: Network, layer: Layer, place: int, array: np.ndarray) -> None:
    network.set_weight(layer.node.input[place], array.astype(np.float32))
