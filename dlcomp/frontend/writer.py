"""Writing nodes and constants that stand in one node's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Writer:
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


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node, by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def alias(writer: Writer, names: Sequence[str], outputs: Sequence[str]) -> None:
    """``outputs`` as other names of ``names``; empty ones are not wanted."""
    for name, output in zip(names, outputs, strict=False):
        if output:
            writer.op("Identity", [name], output)


def stack(writer: Writer, parts: Sequence[str], axis: int, output: str) -> None:
    """``output`` as ``parts`` along a new axis."""
    if writer.version < 13:
        lifted = [writer.op("Unsqueeze", [part], axes=[axis]) for part in parts]
    else:
        place = writer.constant(np.array([axis], "int64"), "axis")
        lifted = [writer.op("Unsqueeze", [part, place]) for part in parts]
    writer.op("Concat", lifted, output, axis=axis)
