"""Operators that ONNX defines by others: replaced by their function bodies where there is no better way.

The bodies come with the onnx package, for the opset of the network; those that depend on types and attributes
(Attention, the losses) are made for the node at hand.
"""

from __future__ import annotations

import onnx
import onnx.inliner

from dlcomp.frontend.inference import inferred
from dlcomp.frontend.operators import WRITTEN_OUT, UnsupportedOp, is_supported, nodes, qualified, unsupported

# Bodies may hold operators that have bodies themselves.
_DEEPEST = 4


def has_body(node: onnx.NodeProto, opsets: dict[str, int]) -> bool:
    """Whether ONNX defines ``node``'s operator by a function, in the version that is imported."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def opset_versions(network: onnx.ModelProto) -> dict[str, int]:
    """Version by domain; the standard domain by both of its names."""
    found = {entry.domain: entry.version for entry in network.opset_import}
    standard = found.get("", found.get("ai.onnx", 1))
    return {**found, "": standard, "ai.onnx": standard}


def inline_bodies(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with every operator that is not supported, but has a body, replaced by that body."""
    opsets = opset_versions(network)
    for _ in range(_DEEPEST):
        found = {
            (node.domain, node.op_type)
            for node in nodes(network.graph)
            if not is_supported(node) and has_body(node, opsets)
        }
        if not found:
            break
        typed = onnx.ModelProto()
        typed.CopyFrom(network)
        _write_defaults(typed.graph, found, opsets)
        try:
            graph = inferred(network)
        except Exception:  # bodies that need no types are inlined all the same
            graph = network.graph
        del typed.graph.value_info[:]
        typed.graph.value_info.extend(graph.value_info)
        typed.graph.value_info.extend(_type_of(tensor) for tensor in network.graph.initializer)
        # The inliner asks for the type of an operand that is left out, too.
        typed.graph.value_info.append(onnx.helper.make_tensor_value_info("", onnx.TensorProto.FLOAT, None))
        network = onnx.inliner.inline_selected_functions(typed, sorted(found), inline_schema_functions=True)
        kept = [value for value in network.graph.value_info if value.name]
        del network.graph.value_info[:]
        network.graph.value_info.extend(kept)
    return network


def refused(network: onnx.ModelProto) -> tuple[UnsupportedOp, ...]:
    """What an import would refuse, most frequent first; loops count as taken, which their counts decide."""
    try:
        graph = inline_bodies(network).graph
    except Exception:  # bodies that need shapes cannot be made while those are open
        graph = network.graph
    opsets = opset_versions(network)
    samples = {qualified(node): node for node in nodes(graph)}
    return tuple(
        entry
        for entry in unsupported(graph)
        if entry.op not in WRITTEN_OUT and not has_body(samples[entry.op], opsets)
    )


def _write_defaults(graph: onnx.GraphProto, found: set[tuple[str, str]], opsets: dict[str, int]) -> None:
    """Attributes that a node leaves out, as its schema has them: bodies refer to them by name."""
    for node in nodes(graph):
        if (node.domain, node.op_type) not in found:
            continue
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        given = {attribute.name for attribute in node.attribute}
        for name, attribute in schema.attributes.items():
            if name not in given and attribute.default_value.name:
                node.attribute.append(attribute.default_value)


def _type_of(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
