"""How each operator of a network is handled, told before anything is compiled."""

from __future__ import annotations

import onnx

from dlcomp.frontend import contrib, recurrent, sequences
from dlcomp.frontend.bodies import has_body, opset_versions
from dlcomp.frontend.fold import KEPT
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import static_shapes
from dlcomp.frontend.operators import WRITTEN_OUT, deciding, is_supported, nodes, qualified, runs_on_host

NATIVE, BODY, REWRITTEN, FOLDED = "native", "function body", "rewritten", "folded"
WRITTEN, APART, HOST, NONE = "written out", "taken apart", "host", "unsupported"
_ON_STRINGS = frozenset({"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"})
MEANING = {
    NATIVE: "compiled by a converter of its own",
    BODY: "by the function that ONNX defines it with",
    REWRITTEN: "as standard operators",
    FOLDED: "evaluated when the model is loaded",
    WRITTEN: "turn by turn, or the branch taken; on the host where only the run knows",
    APART: "sequences become their elements",
    HOST: "beside the compiled code, in Python",
    NONE: "refused",
}


def handling(network: onnx.ModelProto) -> dict[str, str]:
    """For each operator of ``network``, one or more of the words above, joined by `` / ``."""
    opsets = opset_versions(network)
    made = {output for node in nodes(network.graph) for output in node.output}
    constant = {o for node in nodes(network.graph) if node.op_type == "Constant" for o in node.output}
    # What only the run knows: inputs that decide about shapes. Computed shapes are mostly folded.
    given = {value.name for value in network.graph.input} - {t.name for t in network.graph.initializer}
    folded = _folded(network)
    found: dict[str, dict[str, None]] = {}
    for node in nodes(network.graph):
        if any(output in folded for output in node.output):
            found.setdefault(qualified(node), {})[FOLDED] = None
            continue
        decided = not given.isdisjoint(set(deciding(node)) - made - constant)
        found.setdefault(qualified(node), {})[HOST if decided else _way(node, opsets)] = None
    return {op: " / ".join(ways) for op, ways in found.items()}


def _folded(network: onnx.ModelProto) -> set[str]:
    """What constants and the shapes that are known make, by name."""
    graph = network.graph
    try:
        shapes = static_shapes(inferred(network))
    except Exception:  # an inconsistent network is another's to refuse
        shapes = static_shapes(graph)
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        operands = [name for name in node.input if name]
        of_shape = node.op_type in ("Shape", "Size") and node.input[0] in shapes
        made = node.op_type == "Constant" or (bool(operands) and known.issuperset(operands))
        if node.domain in ("", "ai.onnx") and node.op_type not in KEPT and (of_shape or made):
            known.update(node.output)
    return known - {tensor.name for tensor in graph.initializer}


def _way(node: onnx.NodeProto, opsets: dict[str, int]) -> str:
    standard = node.domain in ("", "ai.onnx")
    if contrib.rewrites(node):
        return REWRITTEN
    if standard and node.op_type in sequences.OPERATORS:
        return APART
    if standard and node.op_type in ("LSTM", "GRU", "RNN"):
        return NATIVE if recurrent.is_plain(node) else WRITTEN
    if standard and node.op_type in WRITTEN_OUT:
        return WRITTEN
    if runs_on_host(node) or (standard and node.op_type in _ON_STRINGS):
        return HOST
    if is_supported(node):
        return NATIVE
    return BODY if has_body(node, opsets) else NONE
