"""Scan, and Loop with a known number of turns, written out turn by turn; If with a known condition.

A turn is the body with names of its own. What results is an ordinary graph that folding, fusion and the
memory planner see through. Loops of unknown or many turns stay, and are refused by name later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import Shapes, static_shapes

# More nodes than this after writing out one loop are more than is worth compiling.
_MOST_NODES = 20_000


def unroll(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` without the loops and branches that can be written out; others are left as they are."""
    while True:
        changed = _first(network)
        if changed is None:
            return network
        network = changed


def _first(network: onnx.ModelProto) -> onnx.ModelProto | None:
    """The network with its first such node replaced; None if there is none."""
    if not any(node.op_type in ("Scan", "Loop", "If") for node in network.graph.node):
        return None
    try:
        shapes = static_shapes(inferred(network))
    except Exception:  # an inconsistent graph is left to the importer's messages
        shapes = static_shapes(network.graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    version = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 1)
    for place, node in enumerate(network.graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        writer = _Writer(node.name or node.output[0] or node.op_type, version)
        if node.op_type == "If":
            done = _branch(node, constants, writer)
        elif node.op_type == "Scan" and version >= 9:
            done = _scan(node, shapes, writer)
        elif node.op_type == "Loop":
            done = _loop(node, constants, writer)
        else:
            continue
        if not done or len(writer.nodes) > _MOST_NODES:
            continue
        result = onnx.ModelProto()
        result.CopyFrom(network)
        before, after = list(network.graph.node[:place]), list(network.graph.node[place + 1 :])
        del result.graph.node[:]
        result.graph.node.extend([*before, *writer.nodes, *after])
        result.graph.initializer.extend(writer.initializers)
        # Inferred for another graph.
        del result.graph.value_info[:]
        return result
    return None


class _Writer:
    """Nodes and constants that replace one node."""

    def __init__(self, prefix: str, version: int) -> None:
        self.prefix, self.version, self.count = prefix, version, 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def name(self, hint: str) -> str:
        self.count += 1
        return f"{self.prefix}/{self.count}/{hint}"

    def constant(self, value: Any, hint: str) -> str:
        name = self.name(hint)
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, operands: Sequence[str], output: str = "", **attributes: Any) -> str:
        name = output or self.name(kind)
        self.nodes.append(helper.make_node(kind, list(operands), [name], name=name, **attributes))
        return name

    def body(self, graph: onnx.GraphProto, given: Sequence[str]) -> list[str]:
        """A copy of ``graph`` with its inputs being ``given``; the names of its outputs."""
        turn = self.name("turn")
        names = {value.name: name for value, name in zip(graph.input, given, strict=True)}
        for tensor in graph.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name] = f"{turn}/{tensor.name}"
            self.initializers.append(copy)
        for node in graph.node:
            names |= {output: f"{turn}/{output}" for output in node.output if output}
        for node in graph.node:
            self.nodes.append(_renamed(node, names, turn))
        return [names.get(value.name, value.name) for value in graph.output]


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], turn: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{turn}/{node.name or node.op_type}"
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            _rename_inside(graph, names, turn)
    return copy


def _rename_inside(graph: onnx.GraphProto, names: Mapping[str, str], turn: str) -> None:
    """What a nested graph takes from outside, under its new name; its own names hide those outside."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {output for node in graph.node for output in node.output}
    seen = {old: new for old, new in names.items() if old not in own}
    for index, node in enumerate(graph.node):
        graph.node[index].CopyFrom(_renamed(node, seen, turn))
    for value in graph.output:
        value.name = seen.get(value.name, value.name)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _alias(writer: _Writer, names: Sequence[str], outputs: Sequence[str]) -> None:
    for name, output in zip(names, outputs, strict=False):
        if output:
            writer.op("Identity", [name], output)


def _branch(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], writer: _Writer) -> bool:
    condition = constants.get(node.input[0])
    if condition is None:
        return False
    taken = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
    _alias(writer, writer.body(_attributes(node)[taken], []), node.output)
    return True


def _scan(node: onnx.NodeProto, shapes: Shapes, writer: _Writer) -> bool:
    attributes = _attributes(node)
    body = attributes["body"]
    scanned = int(attributes["num_scan_inputs"])
    states = len(node.input) - scanned
    results = len(body.output) - states
    axes = list(attributes.get("scan_input_axes") or [0] * scanned)
    back = list(attributes.get("scan_input_directions") or [0] * scanned)
    out_axes = list(attributes.get("scan_output_axes") or [0] * results)
    out_back = list(attributes.get("scan_output_directions") or [0] * results)
    inputs = list(node.input[states:])
    if any(name not in shapes for name in inputs):
        return False
    turns = {shapes[name][axis] for name, axis in zip(inputs, axes, strict=True)}
    if len(turns) != 1:
        return False
    count = turns.pop()
    if count == 0 or count * len(body.node) > _MOST_NODES:
        return False
    state = list(node.input[:states])
    collected: list[list[str]] = [[] for _ in range(results)]
    for turn in range(count):
        slices = []
        for name, axis, backwards in zip(inputs, axes, back, strict=True):
            index = writer.constant(np.array(count - 1 - turn if backwards else turn, "int64"), "index")
            slices.append(writer.op("Gather", [name, index], axis=int(axis)))
        outputs = writer.body(body, [*state, *slices])
        state = outputs[:states]
        for place, name in enumerate(outputs[states:]):
            collected[place].append(name)
    _alias(writer, state, node.output[:states])
    for place, name in enumerate(node.output[states:]):
        if name:
            ordered = collected[place][::-1] if out_back[place] else collected[place]
            _stack(writer, ordered, int(out_axes[place]), name)
    return True


def _loop(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], writer: _Writer) -> bool:
    body = _attributes(node)["body"]
    most = constants.get(node.input[0]) if node.input[0] else None
    go = node.input[1] if len(node.input) > 1 else ""
    begins = constants.get(go) if go else np.array(True)
    carried = list(node.input[2:])
    if most is None or begins is None or not _goes_on(body):
        return False
    count = int(most.reshape(-1)[0]) if bool(begins.reshape(-1)[0]) else 0
    if count <= 0 or count * max(1, len(body.node)) > _MOST_NODES:
        return False
    states = len(carried)
    collected: list[list[str]] = [[] for _ in range(len(body.output) - 1 - states)]
    condition = go or writer.constant(np.array(True), "go")
    for turn in range(count):
        number = writer.constant(np.array(turn, "int64"), "turn")
        outputs = writer.body(body, [number, condition, *carried])
        carried = outputs[1 : 1 + states]
        for place, name in enumerate(outputs[1 + states :]):
            collected[place].append(name)
    _alias(writer, carried, node.output[:states])
    for place, name in enumerate(node.output[states:]):
        if name:
            _stack(writer, collected[place], 0, name)
    return True


def _goes_on(body: onnx.GraphProto) -> bool:
    """Whether the body's condition is always true: passed through, or a constant."""
    result, condition = body.output[0].name, body.input[1].name
    producers = {output: node for node in body.node for output in node.output}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    while result in producers and producers[result].op_type == "Identity":
        result = producers[result].input[0]
    if result == condition:
        return True
    if result in producers and producers[result].op_type == "Constant":
        value = helper.get_attribute_value(producers[result].attribute[0])
        is_tensor = isinstance(value, onnx.TensorProto)
        stored[result] = numpy_helper.to_array(value) if is_tensor else np.array(value)
    return result in stored and bool(stored[result].reshape(-1)[0])


def _stack(writer: _Writer, parts: Sequence[str], axis: int, output: str) -> None:
    if writer.version < 13:
        lifted = [writer.op("Unsqueeze", [part], axes=[axis]) for part in parts]
    else:
        place = writer.constant(np.array([axis], "int64"), "axis")
        lifted = [writer.op("Unsqueeze", [part, place]) for part in parts]
    writer.op("Concat", lifted, output, axis=axis)
