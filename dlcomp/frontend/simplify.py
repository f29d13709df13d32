"""An ONNX network as TVM's importer likes it: constants folded, normalisations fused, nothing left over.

Exporters leave chains such as Shape, Gather, Concat, Reshape; with bound shapes they are constants, and the
importer needs them so. ``fold.py`` evaluates them, and onnxsim's graph passes do the rest (batch
normalisation into convolutions, no-ops, dead ends, common subexpressions). onnxsim can fold as well, but
through onnxruntime, which compiling must not need: its fallback fails on Constants before opset 12. Neither
touches what reads a quantized weight's DequantizeLinear.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import onnx.inliner
from onnx import numpy_helper

from dlcomp.frontend.bodies import inline_bodies
from dlcomp.frontend.contrib import standardise
from dlcomp.frontend.fold import fold, replace_nodes
from dlcomp.frontend.pooling import without_ceil_mode
from dlcomp.frontend.unroll import has_loops, unroll

# Loops and branches inside each other.
_DEEPEST = 16

_LOG = logging.getLogger(__name__)

# Fusions that change which layer is which, or put reshapes around a matrix product; the graph passes of
# dlcomp decide on those.
_SKIPPED = [
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
    "fuse_qkv",
    "fuse_transpose_into_gemm",
]


def simplify(network: onnx.ModelProto) -> onnx.ModelProto:
    """An equivalent network that is easier to import; ``network`` (shapes bound, checked) is not changed.

    The inputs and outputs keep their names, order and types. If onnxsim fails or what it made is not
    sound, the network comes back with its constants folded only.
    """
    plain = normalise(inline_bodies(normalise(without_ceil_mode(standardise(network)))))
    fold(plain)
    # What is folded may decide about the next branch or the number of turns of the next loop.
    for _ in range(_DEEPEST):
        if not has_loops(plain.graph):
            break
        written = unroll(plain)
        if written is plain:
            break
        plain = normalise(inline_bodies(normalise(written)))
        fold(plain)
    try:
        folded = _onnxsim(plain)
        onnx.checker.check_model(folded)
        if _border(folded) != _border(plain):
            raise ValueError("the inputs or outputs changed")
    except Exception as error:
        _LOG.warning("onnxsim could not simplify the network (%s); importing it as it is", error)
        return plain
    result = normalise(folded)
    fold(result)
    return result


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


def _onnxsim(network: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded, _ = onnxsim.simplify(
            network,
            skipped_optimizers=list(_SKIPPED),
            skip_constant_folding=True,
        )
    return folded


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
    import numpy as np

    return numpy_helper.from_array(np.array(value, dtype[attribute.name]), node.output[0])


def _border(network: onnx.ModelProto) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    graph = network.graph
    return (
        [(value.name, value.type.tensor_type.elem_type) for value in graph.input],
        [(value.name, value.type.tensor_type.elem_type) for value in graph.output],
    )
