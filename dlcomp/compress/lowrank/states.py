"""The products of recurrent layers with their own states, as products of two: each direction by itself.

The gates of a direction read the same state and share the right factor (Prabhavalkar et al., "On the
compression of recurrent neural networks", ICASSP 2016, section 2). ONNX has no recurrent layer with a
factored state. It is written as a product of two stored matrices in front of the layer, which any runtime
multiplies when it loads the network, and which dlcomp's kernel keeps apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, matches
from dlcomp.compress.lowrank.choose import Candidate
from dlcomp.compress.lowrank.moments import RECURRENT, Moments
from dlcomp.compress.lowrank.subject import Subject, metric_of
from dlcomp.compress.network import Network, attributes_of
from dlcomp.compress.observe import runs
from dlcomp.frontend.recurrent import is_plain

# Where a node has its recurrent weight and its biases: of the inputs, then of the states.
_WEIGHT, _BIAS, _FIRST = 2, 3, 5


@dataclass(frozen=True)
class StateLayer(Layer):
    """A recurrent layer as what multiplies its states; ``data`` are all of them."""

    @property
    def name(self) -> str:
        return f"{super().name}_states"

    @property
    def whole(self) -> Layer:
        """The layer with the product that it begins with: no other part of it can be computed alone."""
        return Layer(self.node, str(self.node.input[0]), 1, None, 0)


def state_subjects(
    network: Network, data: Calibration | None, shapes: Mapping[str, tuple[int, ...]], keep: Sequence[str]
) -> list[Subject]:
    """The recurrent weights of ``network`` that may be factored, with what ``data`` say of the states.

    Left out are those that several layers read, layers that no kernel computes, and a GRU that resets its
    state before the product: its gates read different ones.
    """
    layers = [layer for layer in state_layers(network) if not matches(layer.node, keep)]
    moments = _moments(network, layers, data) if data is not None and layers else {}
    found = []
    for layer in layers:
        weights = network.weights[layer.node.input[_WEIGHT]].astype(np.float64)
        read = shapes.get(layer.node.input[0], (1, 1))
        rows = max(1, read[0] * read[1])
        parts = []
        for direction, weight in enumerate(weights):
            seen = moments[layer.output][direction] if moments else None
            metric, mean = metric_of(seen, _has_bias(network, layer))
            parts.append(Subject(layer, weight, metric, mean, (), (), rows))
        first = parts[0]
        rows *= len(parts)
        found.append(Subject(layer, first.weight, first.metric, first.mean, (), (), rows, tuple(parts)))
    return found


def write_states(network: Network, subject: Subject, candidate: Candidate) -> float:
    """Write the recurrent weight of ``subject`` as ``candidate`` says; the error, as a share."""
    # Its inputs may have been factored by now, in a node of their own.
    node = next(n for n in network.nodes if n.output[0] == subject.layer.output)
    parts = subject.parts
    made = [candidate.stages(part) for part in parts]
    factors = [np.stack([stages[place].kernel for stages, _ in made]) for place in (1, 0)]
    names = []
    for array in factors:
        names.append(network.name(f"{subject.title}_factor"))
        network.set_weight(names[-1], np.ascontiguousarray(array, np.float32))
    product = network.name(f"{subject.title}_weight")
    changes = [part.matrix - weight for part, (_, weight) in zip(parts, made, strict=True)]
    _move_bias(network, subject, node, changes)
    node.input[_WEIGHT] = product
    before = helper.make_node("MatMul", names, [product], name=f"{subject.title}_product")
    network.rewrite(lambda other: [before, other] if product in other.input else [other])
    energy = sum(part.energy(part.matrix) for part in parts)
    lost = sum(part.energy(change) for part, change in zip(parts, changes, strict=True))
    return lost / energy if energy else 0.0


def state_layers(network: Network) -> Iterator[StateLayer]:
    """The recurrent layers of ``network`` whose weight for the states may be factored."""
    for node in network.nodes:
        if node.op_type not in RECURRENT or node.domain not in ("", "ai.onnx") or not is_plain(node):
            continue
        name = node.input[_WEIGHT]
        weight = network.weights.get(name)
        readers = sum(list(other.input).count(name) for other in network.nodes)
        if weight is None or weight.dtype != "float32" or readers > 1 or min(weight.shape[1:]) < 2:
            continue
        if node.op_type == "GRU" and not attributes_of(node).get("linear_before_reset", 0):
            continue
        yield StateLayer(node, str(node.output[0]), _WEIGHT, None, 0)


def _has_bias(network: Network, layer: Layer) -> bool:
    """Whether the mean error can go into a bias: one that is stored, or a new one."""
    names = [*layer.node.input, ""]
    return not names[_BIAS] or names[_BIAS] in network.weights


def _moments(network: Network, layers: Sequence[StateLayer], data: Calibration) -> dict[str, list[Moments]]:
    """Those of the states that each direction of each layer begins its steps with."""
    found = {}
    for layer in layers:
        directions, _, hidden = network.weights[layer.node.input[_WEIGHT]].shape
        found[layer.output] = [
            Moments(0, np.zeros(hidden), np.zeros((hidden, hidden))) for _ in range(directions)
        ]
    firsts = {layer.output: _first(layer) for layer in layers}
    computed = {name for name in firsts.values() if name and name not in network.weights}
    for values in runs(network, {layer.data for layer in layers} | computed, data):
        for layer in layers:
            first = firsts[layer.output]
            begin = network.weights.get(first, values.get(first))
            states = np.asarray(values[layer.data], np.float32)
            for moments, rows in zip(found[layer.output], read_by(layer, states, begin), strict=True):
                moments.add(rows)
    return found


def _first(layer: Layer) -> str:
    names = [*layer.node.input, *[""] * (_FIRST + 1)]
    return str(names[_FIRST])


def read_by(layer: Layer, states: np.ndarray, first: np.ndarray | None) -> list[np.ndarray]:
    """The states (steps * batch, hidden) that the steps of each direction begin with.

    ``states`` and ``first`` are what the layer makes and is given, in its own layout.
    """
    attributes = attributes_of(layer.node)
    if attributes.get("layout", 0):
        states = states.transpose(1, 2, 0, 3)
        first = None if first is None else first.transpose(1, 0, 2)
    backward = attributes.get("direction", b"forward") in (b"reverse", "reverse")
    found = []
    for direction in range(states.shape[1]):
        ordered = states[:, direction]
        if backward or direction == 1:
            ordered = ordered[::-1]
        begin = np.zeros_like(ordered[:1]) if first is None else first[direction : direction + 1]
        found.append(np.concatenate([begin, ordered[:-1]]).reshape(-1, states.shape[-1]))
    return found


def _move_bias(
    network: Network, subject: Subject, node: onnx.NodeProto, changes: Sequence[np.ndarray]
) -> None:
    """The mean of what each of ``changes`` (gates * hidden, hidden) leaves out goes into the states' bias."""
    if any(part.mean is None for part in subject.parts):
        return
    while len(node.input) <= _BIAS:
        node.input.append("")
    rows = len(changes[0])
    old = network.weights.get(node.input[_BIAS])
    bias = np.zeros((len(changes), 2 * rows)) if old is None else old.astype(np.float64)
    shifts = [change @ part.mean for part, change in zip(subject.parts, changes, strict=True)]
    bias = np.concatenate([bias[:, :rows], bias[:, rows:] + np.stack(shifts)], axis=1)
    node.input[_BIAS] = network.name(f"{subject.title}_bias")
    network.set_weight(str(node.input[_BIAS]), bias.astype(np.float32))
