"""Evaluates the nodes of an ONNX graph whose operands are constants or static shapes.

Exporters compute shapes in the graph (Shape, Gather, Concat, Reshape). ONNX's reference evaluator runs each
such node, so that what is folded does not depend on which runtime is installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import Shapes, static_shapes
from dlcomp.frontend.recurrent import GATES
from dlcomp.frontend.stored import array_of

# A larger result (of a ConstantOfShape, an Expand) would trade work for weights.
_LARGEST_BYTES = 256 << 20
_MOST_ROUNDS = 16
# Quantized weights stay quantized; the random and the slow ones (in NumPy) stay what they are.
KEPT = frozenset(
    """
    QuantizeLinear DequantizeLinear DynamicQuantizeLinear Bernoulli Multinomial RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Dropout Conv ConvTranspose ConvInteger QLinearConv LSTM GRU RNN If Loop
    Scan
    """.split()
)
# No larger than their operands, though of a size that depends on the values.
_SHRINKING = frozenset({"NonZero", "Unique", "Compress"})


def fold(network: onnx.ModelProto) -> None:
    """Replace what can be evaluated by initializers, in place.

    A folded Reshape lets shape inference see further, so this goes on until nothing more is found.
    """
    for _ in range(_MOST_ROUNDS):
        if not _round(network):
            return


def _round(network: onnx.ModelProto) -> bool:
    graph = network.graph
    try:
        known = inferred(network)
    except Exception:  # an inconsistent graph is left to the importer's messages
        known = graph
    shapes: Shapes = static_shapes(known)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*known.value_info, *known.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    factored = factored_states(graph)
    kept = []
    for node in graph.node:
        results = _empty(node, shapes, kinds)
        if results is None and node.output[0] not in factored:
            results = _evaluate(node, constants, shapes, network.opset_import)
        if results is None:
            kept.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            if name:
                constants[name] = numpy_helper.from_array(np.asarray(array), name)
    if len(kept) == len(graph.node):
        return False
    replace_nodes(graph, kept)
    graph.initializer.extend(list(constants.values())[len(graph.initializer) :])
    return True


def factored_states(graph: onnx.GraphProto) -> frozenset[str]:
    """The recurrent weights of layers that are products of two smaller stored ones, and read as nothing else.

    ONNX has no recurrent layer with a factored state; a product before it says the same.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    read = {node.input[2] for node in graph.node if node.op_type in GATES and len(node.input) > 2}
    for node in graph.node:
        others = (name for n, name in enumerate(node.input) if n != 2 or node.op_type not in GATES)
        read -= set(others)
    read -= {value.name for value in graph.output}
    found = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.output[0] not in read or not all(n in shapes for n in node.input):
            continue
        left, right = (shapes[name] for name in node.input)
        if len(left) == len(right) == 3 and left[2] * (left[1] + right[2]) < left[1] * right[2]:
            found.append(str(node.output[0]))
    return frozenset(found)


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make ``nodes``, which may belong to ``graph``, its only ones."""
    # Copied first: deleting from the graph frees its messages.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _empty(node: onnx.NodeProto, shapes: Shapes, kinds: Mapping[str, int]) -> list[np.ndarray] | None:
    """The results of ``node`` where none has an element, whatever its operands are."""
    names = [name for name in node.output if name]
    if not names or any(0 not in shapes.get(name, ()) or not kinds.get(name) for name in names):
        return None
    if any(kinds[name] == onnx.TensorProto.STRING for name in names):
        return None
    return [
        np.zeros(shapes[name], helper.tensor_dtype_to_np_dtype(kinds[name])) if name else np.zeros(0)
        for name in node.output
    ]


def _evaluate(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    shapes: Shapes,
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> list[np.ndarray] | None:
    """The results of ``node``, or None if it stays."""
    if node.domain not in ("", "ai.onnx") or node.op_type in KEPT:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        return [_shape_or_size(node, shapes[node.input[0]])]
    operands = [name for name in node.input if name]
    if not operands or not all(name in constants for name in operands) or not _is_small(node, shapes):
        return None
    return _run(node, {name: constants[name] for name in operands}, opsets)


def _shape_or_size(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(math.prod(shape), "int64")
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], "int64")


def _is_small(node: onnx.NodeProto, shapes: Shapes) -> bool:
    if node.op_type in _SHRINKING:
        return True
    # 8 bytes an element: the widest type.
    return all(
        name in shapes and math.prod(shapes[name]) * 8 <= _LARGEST_BYTES for name in node.output if name
    )


def _run(
    node: onnx.NodeProto, operands: Mapping[str, onnx.TensorProto], opsets: Iterable[onnx.OperatorSetIdProto]
) -> list[np.ndarray] | None:
    from onnx.reference import ReferenceEvaluator

    inputs = [helper.make_tensor_value_info(n, t.data_type, list(t.dims)) for n, t in operands.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "one", inputs, outputs)
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(opsets)))
            found = evaluator.run(None, {n: array_of(t) for n, t in operands.items()})
    except Exception:  # the evaluator does not know every operator and form
        return None
    results = iter(found)
    every = [next(results) if name else np.zeros(0) for name in node.output]
    return every if all(isinstance(array, np.ndarray | np.generic) for array in every) else None
