"""Which values of a network become integers, and which of them share their scale."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from dlcomp.compress.network import Network, attributes_of

# Operators with a stored weight, and where they read data, weight and bias.
_WEIGHTED: Mapping[str, tuple[int, int, int]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1, -1),
}
# What integers pass through unchanged, so that the result has the scale of the operand.
_PASSING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
_SUMS = frozenset({"Add", "AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True)
class Layer:
    """A node with a weight.

    Attributes
    ----------
    axis : int
        That of the weight which counts output channels, for scales of their own.
    """

    node: onnx.NodeProto
    data: str
    weight: int
    bias: int | None
    axis: int

    @property
    def channels(self) -> int:
        """The axis of the data that counts input channels."""
        return 1 if self.node.op_type in ("Conv", "ConvTranspose") else -1


@dataclass(frozen=True)
class Plan:
    """What is to be quantized.

    Attributes
    ----------
    layers : sequence of Layer
    reads : set of (node output, operand number)
        Where an operator reads an activation as integers.
    shares : sequence of sets of str
        Values that have one scale.
    """

    layers: Sequence[Layer]
    reads: frozenset[tuple[str, int]]
    shares: Sequence[frozenset[str]]

    @property
    def values(self) -> list[str]:
        """Every value that becomes integers, once."""
        return sorted({name for share in self.shares for name in share})


def plan(network: Network, keep: Sequence[str] = ()) -> Plan:
    """Every layer with a weight but those that ``keep`` (regular expressions of names) leaves in float.

    Softmax, normalisations and other functions stay in float; sums, means and what moves elements are integer
    operators where their operands come from layers.
    """
    kinds = network.kinds()
    layers = [
        layer
        for layer in layers_of(network)
        if kinds.get(layer.data) == TensorProto.FLOAT and not _matches(layer.node, keep)
    ]
    chosen = {layer.node.output[0] for layer in layers}
    from_layers = _descends(network, chosen)
    reads = {(layer.node.output[0], 0) for layer in layers}
    wanted = {layer.data for layer in layers}
    stored = set(network.weights)
    shares = _Sets()
    for node in reversed(network.nodes):
        if not node.output or kinds.get(node.output[0]) != TensorProto.FLOAT or _matches(node, keep):
            continue
        result = node.output[0]
        if node.op_type in _SUMS and all(name in from_layers for name in node.input):
            reads.update((result, place) for place in range(len(node.input)))
            wanted.update(node.input)
        elif node.op_type in _PASSING and result in wanted and node.input[0] not in stored:
            reads.add((result, 0))
            wanted.add(node.input[0])
            shares.join(result, node.input[0])
        elif node.op_type == "Concat" and result in wanted and stored.isdisjoint(node.input):
            reads.update((result, place) for place in range(len(node.input)))
            for name in node.input:
                wanted.add(name)
                shares.join(result, name)
    for name in wanted:
        shares.join(name, name)
    return Plan(layers, frozenset(reads), shares.groups())


def layers_of(network: Network) -> Iterator[Layer]:
    """Every node of ``network`` with a stored weight, in order."""
    for node in network.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _WEIGHTED:
            continue
        data, weight, bias = _WEIGHTED[node.op_type]
        names = list(node.input)
        if names[weight] not in network.weights or names[data] in network.weights:
            continue
        array = network.weights[names[weight]]
        if array.dtype != "float32" or array.ndim < 2:
            continue
        attributes = attributes_of(node)
        if node.op_type == "Gemm" and (attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0):
            continue
        axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": array.ndim - 1}.get(node.op_type)
        if axis is None:
            axis = 0 if attributes.get("transB", 0) else 1
        if node.op_type == "ConvTranspose" and attributes.get("group", 1) != 1:
            continue
        has_bias = 0 <= bias < len(names) and bool(names[bias])
        if has_bias and not _is_bias(network.weights.get(names[bias]), array.shape[axis]):
            continue
        if has_bias and attributes.get("beta", 1.0) != 1.0:
            continue
        yield Layer(node, names[data], weight, bias if has_bias else None, axis)


def _is_bias(array: np.ndarray | None, outputs: int) -> bool:
    """A number for each output, or one for all; what Gemm adds may also differ by row."""
    return array is not None and array.size in (1, outputs) and array.size == math.prod(array.shape[-1:])


def _descends(network: Network, made: set[str]) -> set[str]:
    """What layers make, directly or through sums, activations of one operand, and moves."""
    through = (
        _SUMS | _PASSING | {"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Concat", "Mul", "Sigmoid"}
    )
    found = set(made)
    for node in network.nodes:
        if node.op_type in through and any(name in found for name in node.input):
            found.update(node.output)
    return found


def _matches(node: onnx.NodeProto, keep: Sequence[str]) -> bool:
    return any(re.search(pattern, node.name or node.output[0]) for pattern in keep)


class _Sets:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def _root(self, name: str) -> str:
        parent = self._parent.setdefault(name, name)
        if parent != name:
            self._parent[name] = parent = self._root(parent)
        return parent

    def join(self, a: str, b: str) -> None:
        self._parent[self._root(a)] = self._root(b)

    def groups(self) -> list[frozenset[str]]:
        found: dict[str, set[str]] = {}
        for name in self._parent:
            found.setdefault(self._root(name), set()).add(name)
        return [frozenset(group) for _, group in sorted(found.items())]
