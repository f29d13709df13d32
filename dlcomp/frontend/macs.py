"""Multiply-accumulates of ONNX nodes, from the shapes of their operands.

Counted are convolutions, matrix products and recurrent cells, in float and in integer form; element-wise
work, normalisation and pooling are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx

from dlcomp.frontend.check import real_inputs
from dlcomp.frontend.shapes import declared

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_RECURRENT_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}


def count_macs(graph: onnx.GraphProto) -> int | None:
    """MACs of one run of ``graph``, or None if a shape that is needed is not known.

    ``graph`` has value_info from shape inference.
    """
    counts = [macs for _, macs in macs_of_nodes(graph)]
    return None if any(macs is None for macs in counts) else sum(macs or 0 for macs in counts)


def macs_of_nodes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, int | None]]:
    """Every node of ``graph`` that multiplies, and its MACs, None if a shape that is needed is not known."""
    shapes = static_shapes(graph)
    stored = {tensor.name for tensor in graph.initializer}
    # Products of stored matrices are no work of a run: recurrent layers take their factors one by one.
    factors = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "MatMul" and all(name in stored for name in node.input)
    }
    for node in graph.node:
        rule = _RULES.get(node.op_type)
        if rule is None or node.output[0] in factors:
            continue
        try:
            macs = rule(node, shapes)
            if node.op_type in _RECURRENT_GATES and node.input[2] in factors:
                macs -= _spared_by_rank(node, factors[node.input[2]], shapes)
        except (KeyError, IndexError, StopIteration):
            yield node, None
        else:
            yield node, macs


def static_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """The shapes that are known in full, by value name."""
    known: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*real_inputs(graph), *graph.value_info, *graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            continue
        dims = declared(value, least=0)
        if dims is not None and all(isinstance(dim, int) for dim in dims):
            known[value.name] = tuple(int(dim) for dim in dims)
    return known


def _conv(weight: int) -> Callable[[onnx.NodeProto, Shapes], int]:
    """Weight is input number ``weight``: (O, I / groups, K...)."""

    def macs(node: onnx.NodeProto, shapes: Shapes) -> int:
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])

    return macs


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(left: int) -> Callable[[onnx.NodeProto, Shapes], int]:
    def macs(node: onnx.NodeProto, shapes: Shapes) -> int:
        return math.prod(shapes[node.output[0]]) * shapes[node.input[left]][-1]

    return macs


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    depth = shapes[node.input[0]][0 if _attribute(node, "transA", 0) else 1]
    return math.prod(shapes[node.output[0]]) * depth


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Input (S, N, I), or (N, S, I) with layout 1; weight W (directions, gates * hidden, I)."""
    first, second, width = shapes[node.input[0]]
    directions = 2 if _attribute(node, "direction", b"forward") == b"bidirectional" else 1
    gates = _RECURRENT_GATES[node.op_type]
    hidden = int(_attribute(node, "hidden_size", 0)) or shapes[node.input[1]][1] // gates
    return first * second * directions * gates * hidden * (width + hidden)


def _spared_by_rank(node: onnx.NodeProto, product: onnx.NodeProto, shapes: Shapes) -> int:
    """Of a weight for the states (directions, gates * hidden, rank) by (directions, rank, hidden)."""
    first, second, _ = shapes[node.input[0]]
    left, right = (shapes[name] for name in product.input)
    whole = left[0] * left[1] * right[2]
    return first * second * (whole - math.prod(left) - math.prod(right))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found: Sequence[onnx.AttributeProto] = [a for a in node.attribute if a.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else default


_RULES: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul(0),
    "MatMulInteger": _matmul(0),
    "QLinearMatMul": _matmul(0),
    **{op: _recurrent for op in _RECURRENT_GATES},
}
