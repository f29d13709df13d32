"""Takes channels out of a network: out of its weights, what else is stored for each, and stored shapes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from dlcomp.compress.channels.rules import Stored
from dlcomp.compress.channels.trace import Linked, Trace
from dlcomp.compress.network import Network


def shrink(trace: Trace, gone: Collection[int]) -> None:
    """Remove every channel whose root is in ``gone`` from the traced network, in place."""
    network = trace.network
    for linked in trace.layers:
        _layer(trace, linked, gone)
    for stored in trace.slices:
        stays = keeps(trace, stored.numbers, gone)
        if not stays.all():
            _cut(network, stored.node, stored.place, stored.axis, stays)
    for stored in trace.entries:
        _entry(trace, stored, gone)
    # Shapes of values that are not true any more.
    del network.proto.graph.value_info[:]


def keeps(trace: Trace, numbers: np.ndarray, gone: Collection[int]) -> np.ndarray:
    """A mask of the channels that stay."""
    return ~np.isin(trace.roots(numbers), list(gone))


def _layer(trace: Trace, linked: Linked, gone: Collection[int]) -> None:
    network, layer = trace.network, linked.layer
    outputs = keeps(trace, linked.outputs, gone)
    if not outputs.all():
        _cut(network, layer.node, layer.weight, layer.axis, outputs)
        if layer.bias is not None and network.weights[layer.node.input[layer.bias]].size > 1:
            _cut(network, layer.node, layer.bias, -1, outputs)
    if linked.inputs is None:
        return
    inputs = keeps(trace, linked.inputs, gone)
    if inputs.all():
        return
    if linked.depthwise:
        _set_group(layer.node, int(inputs.sum()))
        return
    # The groups of a convolution have lost the same places.
    inputs = inputs[: len(inputs) // layer.groups]
    _cut(network, layer.node, layer.weight, 1 - layer.axis, inputs)


def _cut(network: Network, node: onnx.NodeProto, place: int, axis: int, stays: np.ndarray) -> None:
    name = network.own_weight(node, place)
    network.set_weight(name, np.compress(stays, network.weights[name], axis=axis))


def _entry(trace: Trace, stored: Stored, gone: Collection[int]) -> None:
    """A stored shape says how many channels there are now; 0 and -1 in it mean what they meant."""
    network = trace.network
    count = int(keeps(trace, stored.numbers, gone).sum())
    shape = network.weights[stored.node.input[stored.place]]
    if count == len(stored.numbers) or shape[stored.axis] <= 0:
        return
    name = network.own_weight(stored.node, stored.place)
    changed = shape.copy()
    changed[stored.axis] = count
    network.set_weight(name, changed)


def _set_group(node: onnx.NodeProto, count: int) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != "group"]
    copies = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, helper.make_attribute("group", count)])
