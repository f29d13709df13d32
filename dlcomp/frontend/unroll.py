"""Scan, recurrent layers and Loop with a known number of turns, written out; If with a known condition.

A turn is the body with names of its own. What results is an ordinary graph that folding, fusion and the
memory planner see through. Loops of unknown or many turns stay, and are refused by name later.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from dlcomp.frontend import recurrent
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import Shapes, static_shapes
from dlcomp.frontend.operators import WRITTEN_OUT
from dlcomp.frontend.stored import array_of
from dlcomp.frontend.writer import Writer, alias, attributes_of, stack

# More nodes than this after writing out one loop are more than is worth compiling.
_MOST_NODES = 20_000


def unroll(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` without the loops and branches that can be written out; others are left as they are."""
    while True:
        changed = _first(network)
        if changed is None:
            return network
        network = changed


def has_loops(graph: onnx.GraphProto) -> bool:
    """Whether ``graph`` has nodes that may be written out."""
    return any(node.op_type in WRITTEN_OUT for node in graph.node)


def _first(network: onnx.ModelProto) -> onnx.ModelProto | None:
    """The network with its first such node replaced; None if there is none."""
    if not has_loops(network.graph):
        return None
    try:
        shapes = static_shapes(inferred(network))
    except Exception:  # an inconsistent graph is left to the importer's messages
        shapes = static_shapes(network.graph)
    constants = {tensor.name: array_of(tensor) for tensor in network.graph.initializer}
    version = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 1)
    for place, node in enumerate(network.graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        writer = Writer(node.name or node.output[0] or node.op_type, version)
        if node.op_type == "If":
            done = _branch(node, constants, shapes, writer)
        elif node.op_type == "Scan" and version >= 9:
            done = _scan(node, shapes, writer)
        elif node.op_type == "Loop":
            done = _loop(node, constants, writer)
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            if recurrent.is_plain(node):
                continue  # stays one operator, with a kernel
            done = recurrent.write_out(node, shapes, writer)
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


def _branch(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray], shapes: Shapes, writer: Writer
) -> bool:
    """The branch that is taken; both, and a choice, where the run decides and both give the same shapes."""
    condition = constants.get(node.input[0])
    if condition is None:
        if not all(name in shapes for name in node.output if name):
            return False
        return _both(node, writer)
    taken = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
    alias(writer, writer.body(attributes_of(node)[taken], []), node.output)
    return True


def _both(node: onnx.NodeProto, writer: Writer) -> bool:
    attributes = attributes_of(node)
    branches = [attributes["then_branch"], attributes["else_branch"]]
    if any(v.type.WhichOneof("value") != "tensor_type" for branch in branches for v in branch.output):
        return False
    kinds = [value.type.tensor_type.elem_type for branch in branches for value in branch.output]
    if TensorProto.STRING in kinds:
        return False
    scalar = writer.constant(np.zeros(0, "int64"), "scalar")
    choice = writer.op("Reshape", [node.input[0], scalar])
    made = [writer.body(branch, []) for branch in branches]
    for then, other, output in zip(*made, node.output, strict=True):
        if output:
            writer.op("Where", [choice, then, other], output)
    return True


def _scan(node: onnx.NodeProto, shapes: Shapes, writer: Writer) -> bool:
    attributes = attributes_of(node)
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
    alias(writer, state, node.output[:states])
    for place, name in enumerate(node.output[states:]):
        if name:
            ordered = collected[place][::-1] if out_back[place] else collected[place]
            stack(writer, ordered, int(out_axes[place]), name)
    return True


def _loop(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], writer: Writer) -> bool:
    body = attributes_of(node)["body"]
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
    alias(writer, carried, node.output[:states])
    for place, name in enumerate(node.output[states:]):
        if name:
            stack(writer, collected[place], 0, name)
    return True


def _goes_on(body: onnx.GraphProto) -> bool:
    """Whether the body's condition is always true: passed through, or a constant."""
    result, condition = body.output[0].name, body.input[1].name
    producers = {output: node for node in body.node for output in node.output}
    stored = {tensor.name: array_of(tensor) for tensor in body.initializer}
    while result in producers and producers[result].op_type == "Identity":
        result = producers[result].input[0]
    if result == condition:
        return True
    if result in producers and producers[result].op_type == "Constant":
        value = helper.get_attribute_value(producers[result].attribute[0])
        is_tensor = isinstance(value, onnx.TensorProto)
        stored[result] = array_of(value) if is_tensor else np.array(value)
    return result in stored and bool(stored[result].reshape(-1)[0])
