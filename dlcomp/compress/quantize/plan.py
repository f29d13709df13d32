"""Which values of a network become integers, and which of them share their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from dlcomp.compress.layers import Layer, layers_of, matches
from dlcomp.compress.network import Network

# What integers pass through unchanged, so that the result has the scale of the operand.
_PASSING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
_SUMS = frozenset({"Add", "AveragePool", "GlobalAveragePool"})
# What floats pass through on the way from a layer to integers, element by element.
_ELEMENTWISE = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Mul", "Sigmoid", "Min"})
_THROUGH = _SUMS | _PASSING | _ELEMENTWISE | {"Concat"}


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
    operators where their operands come from layers and their results become integers again, at most with
    functions of single elements between. So a sum that a normalisation reads, as in every transformer, adds
    what it is given and not what is left of it in 8 bits.
    """
    kinds = network.kinds()
    layers = [
        layer
        for layer in layers_of(network)
        if kinds.get(layer.data) == TensorProto.FLOAT and not matches(layer.node, keep)
    ]
    chosen = {layer.node.output[0] for layer in layers}
    from_layers = _descends(network, chosen)
    reads = {(layer.node.output[0], 0) for layer in layers}
    wanted = {layer.data for layer in layers}
    # What becomes integers, or is on the way to it.
    ending = set(wanted)
    stored = set(network.weights)
    shares = _Sets()
    for node in reversed(network.nodes):
        if not node.output or kinds.get(node.output[0]) != TensorProto.FLOAT or matches(node, keep):
            continue
        result = node.output[0]
        if node.op_type in _THROUGH and result in ending:
            ending.update(node.input)
        if node.op_type in _SUMS and result in ending and all(name in from_layers for name in node.input):
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


def _descends(network: Network, made: set[str]) -> set[str]:
    """What layers make, directly or through sums, activations of one operand, and moves."""
    found = set(made)
    for node in network.nodes:
        if node.op_type in _THROUGH and any(name in found for name in node.input):
            found.update(node.output)
    return found


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
