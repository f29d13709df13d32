"""Sequences and optionals of known length, taken apart: each element becomes a value of its own.

What remains is a graph of tensors. A sequence whose length only the run knows stays, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import Shapes, static_shapes
from dlcomp.frontend.operators import nodes
from dlcomp.frontend.stored import array_of
from dlcomp.frontend.writer import Writer, attributes_of, stack

OPERATORS = frozenset(
    """
    SequenceConstruct SequenceEmpty SequenceInsert SequenceErase SequenceAt SequenceLength SplitToSequence
    ConcatFromSequence SequenceMap Optional OptionalGetElement OptionalHasElement
    """.split()
)


def without_sequences(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with every sequence of known length taken apart; others are left as they are."""
    if not any(node.op_type in OPERATORS for node in nodes(network.graph)):
        return network
    try:
        shapes = static_shapes(inferred(network))
    except Exception:  # an inconsistent graph is left to the importer's messages
        shapes = static_shapes(network.graph)
    version = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 1)
    pieces = _Pieces(network.graph, shapes, version)
    for node in network.graph.node:
        pieces.take(node)
    result = onnx.ModelProto()
    result.CopyFrom(network)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in pieces.kept]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    result.graph.initializer.extend(pieces.initializers)
    # Values of sequence type among them.
    del result.graph.value_info[:]
    return result


class _Unknown(Exception):
    """The run decides about a length or a position."""


class _Pieces:
    """The names of the elements of every sequence so far, and the nodes that make them."""

    def __init__(self, graph: onnx.GraphProto, shapes: Shapes, version: int) -> None:
        self.shapes, self.version = shapes, version
        self.constants = {tensor.name: array_of(tensor) for tensor in graph.initializer}
        self.sequences: dict[str, list[str]] = {}
        # An optional holds the name of a value, or nothing.
        self.optionals: dict[str, str | None] = {}
        self.kept: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def take(self, node: onnx.NodeProto) -> None:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        writer = Writer(node.name or node.output[0] or node.op_type, self.version)
        try:
            done = rule is not None and rule(self, node, writer) is not False
        except (_Unknown, KeyError, IndexError):
            done = False
        if not done:
            self.kept.append(node)
            return
        self.kept.extend(writer.nodes)
        self.initializers.extend(writer.initializers)
        self.constants |= {t.name: array_of(t) for t in writer.initializers}

    def position(self, name: str, length: int, default: int) -> int:
        """A constant position in a sequence of ``length``; negative ones count from the end."""
        if not name:
            return default
        if name not in self.constants:
            raise _Unknown
        place = int(self.constants[name].reshape(-1)[0])
        if not -length <= place <= length:
            raise IndexError
        return place + length if place < 0 else place

    def of(self, name: str) -> list[str]:
        """The elements of a sequence."""
        return self.sequences[name]


Rule = Callable[[_Pieces, onnx.NodeProto, Writer], "bool | None"]


def _operand(node: onnx.NodeProto, place: int) -> str:
    return node.input[place] if place < len(node.input) else ""


def _construct(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    p.sequences[node.output[0]] = list(node.input)


def _insert(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    elements = list(p.of(node.input[0]))
    place = p.position(_operand(node, 2), len(elements), len(elements))
    elements.insert(place, node.input[1])
    p.sequences[node.output[0]] = elements


def _erase(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    elements = list(p.of(node.input[0]))
    elements.pop(p.position(_operand(node, 1), len(elements), len(elements) - 1))
    p.sequences[node.output[0]] = elements


def _at(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    elements = p.of(node.input[0])
    writer.op("Identity", [elements[p.position(node.input[1], len(elements), 0)]], node.output[0])


def _constant(writer: Writer, value: np.ndarray, output: str) -> None:
    tensor = numpy_helper.from_array(value, output)
    writer.initializers.append(tensor)


def _length(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    _constant(writer, np.array(len(p.of(node.input[0])), np.int64), node.output[0])


def _split(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    attributes = attributes_of(node)
    axis, lengths = int(attributes.get("axis", 0)), _operand(node, 1)
    keep = bool(attributes.get("keepdims", 1)) or bool(lengths)
    if lengths and lengths not in p.constants:
        # How many parts there are may be known where their sizes are not.
        count = p.shapes[lengths][0]
        names = [writer.name("part") for _ in range(count)]
        writer.nodes.append(onnx.helper.make_node("Split", [node.input[0], lengths], names, axis=axis))
        p.sequences[node.output[0]] = names
        return
    size = p.shapes[node.input[0]][axis]
    if not lengths:
        sizes = [1] * size
    else:
        given = p.constants[lengths]
        chunk = int(given.reshape(-1)[0])
        sizes = [chunk] * (size // chunk) if given.ndim == 0 else [int(v) for v in given]
        if given.ndim == 0 and size % chunk:
            sizes.append(size % chunk)
    names = [writer.name("part") for _ in sizes]
    if p.version >= 13:
        operands = [node.input[0], writer.constant(np.array(sizes, np.int64), "sizes")]
        writer.nodes.append(onnx.helper.make_node("Split", operands, names, axis=axis))
    else:
        writer.nodes.append(onnx.helper.make_node("Split", [node.input[0]], names, axis=axis, split=sizes))
    p.sequences[node.output[0]] = names if keep else [_squeezed(p, writer, name, axis) for name in names]


def _squeezed(p: _Pieces, writer: Writer, name: str, axis: int) -> str:
    if p.version < 13:
        return writer.op("Squeeze", [name], axes=[axis])
    return writer.op("Squeeze", [name, writer.constant(np.array([axis], np.int64), "axis")])


def _concat(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    attributes = attributes_of(node)
    axis, parts = int(attributes["axis"]), p.of(node.input[0])
    if attributes.get("new_axis", 0):
        stack(writer, parts, axis, node.output[0])
    else:
        writer.op("Concat", parts, node.output[0], axis=axis)


def _map(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    """The body for every element of the first sequence; other operands are sequences or tensors."""
    body = attributes_of(node)["body"]
    results: list[list[str]] = [[] for _ in node.output]
    for turn in range(len(p.of(node.input[0]))):
        given = [p.of(name)[turn] if name in p.sequences else name for name in node.input]
        for place, name in enumerate(writer.body(body, given)):
            results[place].append(name)
    p.sequences |= {name: parts for name, parts in zip(node.output, results, strict=True) if name}


def _optional(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> None:
    name = _operand(node, 0)
    p.optionals[node.output[0]] = name or None
    if name in p.sequences:
        p.sequences[node.output[0]] = p.of(name)


def _has_element(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> bool:
    name = _operand(node, 0)
    if name and name not in p.optionals and name not in p.sequences and name not in p.shapes:
        return False
    held = bool(name) and p.optionals.get(name, name) is not None
    _constant(writer, np.array(held), node.output[0])
    return True


def _get_element(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> bool:
    name = node.input[0]
    if name in p.sequences:
        p.sequences[node.output[0]] = p.of(name)
        return True
    held = p.optionals.get(name, name if name in p.shapes else None)
    if held is None:
        return False
    writer.op("Identity", [held], node.output[0])
    return True


def _identity(p: _Pieces, node: onnx.NodeProto, writer: Writer) -> bool:
    name, output = node.input[0], node.output[0]
    if name in p.sequences:
        p.sequences[output] = p.of(name)
    if name in p.optionals:
        p.optionals[output] = p.optionals[name]
    return name in p.sequences or name in p.optionals


_RULES: Mapping[str, Rule] = {
    "ConcatFromSequence": _concat,
    "Identity": _identity,
    "Optional": _optional,
    "OptionalGetElement": _get_element,
    "OptionalHasElement": _has_element,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _construct,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SequenceMap": _map,
    "SplitToSequence": _split,
}
