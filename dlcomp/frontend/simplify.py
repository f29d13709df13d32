"""An ONNX network as TVM's importer likes it: constants folded, bodies inlined, loops written out.

Exporters leave chains such as Shape, Gather, Concat, Reshape; with bound shapes they are constants, and the
importer needs them so. ``fold.py`` evaluates them. Nothing here touches what reads a quantized weight's
DequantizeLinear.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from dlcomp.frontend.batch_norm import fold_batch_norm
from dlcomp.frontend.bodies import inline_bodies
from dlcomp.frontend.contrib import standardise
from dlcomp.frontend.fold import fold, replace_nodes
from dlcomp.frontend.operators import taken
from dlcomp.frontend.pooling import without_ceil_mode
from dlcomp.frontend.sequences import without_sequences
from dlcomp.frontend.unroll import has_loops, unroll

# Loops and branches inside each other.
_DEEPEST = 16


def simplify(network: onnx.ModelProto) -> onnx.ModelProto:
    """An equivalent network that is easier to import; ``network`` (shapes bound, checked) is not changed.

    The inputs and outputs keep their names, order and types.
    """
    plain = normalise(without_ceil_mode(standardise(network)))
    plain = normalise(inline_bodies(without_sequences(plain)))
    fold(plain)
    # Of poolings whose image is known only now: before, shapes computed from what they make would be wrong.
    plain = without_ceil_mode(plain)
    # What is folded may decide about the next branch or the number of turns of the next loop.
    for _ in range(_DEEPEST):
        if not has_loops(plain.graph):
            break
        written = unroll(plain)
        if written is plain:
            break
        plain = normalise(inline_bodies(without_sequences(normalise(written))))
        fold(plain)
    fold_batch_norm(plain)
    drop_unread(plain.graph)
    return plain


def normalise(network: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with local functions inlined, Constant nodes as initializers, and initializers not as inputs."""
    if network.functions:
        result = onnx.inliner.inline_local_functions(network)
    else:
        result = onnx.ModelProto()
        result.CopyFrom(network)
    graph = result.graph
    kept = []
    for node in graph.node:
        tensor = _constant(node)
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.append(tensor)
    replace_nodes(graph, kept)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) < len(graph.input):
        copied = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
        del graph.input[:]
        graph.input.extend(copied)
    # Before IR version 4 every initializer had to be an input.
    result.ir_version = max(result.ir_version, 4)
    return result


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that no output depends on; operators there need no converter."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.isdisjoint(node.output):
            continue
        kept.append(node)
        read.update(taken(node))
    replace_nodes(graph, kept[::-1])
    unread = [tensor for tensor in graph.initializer if tensor.name not in read]
    if unread:
        copies = [tensor for tensor in graph.initializer if tensor.name in read]
        held = onnx.GraphProto()
        held.initializer.extend(copies)
        del graph.initializer[:]
        graph.initializer.extend(held.initializer)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node under its output's name, or None for any other node."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    dtype = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    if attribute.name not in dtype:
        return None
    return numpy_helper.from_array(np.array(value, dtype[attribute.name]), node.output[0])
