"""Networks with strings: cut into a part before the compiled one, and a part after it, which the host runs.

Compiled code knows numbers alone. Nodes on strings that depend only on inputs go before it; what depends on
other strings goes after it. Both parts are ONNX networks, which ``dlcomp.runtime.text`` evaluates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import TensorProto, helper

from dlcomp.errors import ModelError
from dlcomp.frontend.check import dtype_name, real_inputs
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.operators import label, qualified, taken
from dlcomp.frontend.shapes import declared
from dlcomp.model import Signature, TensorSpec, TextStages

# The output of a compiled part that has nothing to compute.
_NOTHING = "nothing"
# Strings inside these operators are keys; what goes in or comes out may be numbers.
_KEYED = frozenset({"LabelEncoder", "CategoryMapper", "OneHotEncoder", "TfIdfVectorizer", "DictVectorizer"})


def has_text(network: onnx.ModelProto) -> bool:
    """Whether a value at the border of ``network``, or inside it, is a tensor of strings."""
    graph = network.graph
    border = any(_is_text(value) for value in (*real_inputs(graph), *graph.output))
    return border or any(t.data_type == TensorProto.STRING for t in graph.initializer)


def split(network: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, TextStages]:
    """The part to compile, and the parts around it.

    Raises
    ------
    ModelError
        If a value between two parts is of unknown type or rank.
    """
    graph = network.graph
    try:
        known = inferred(network)
    except Exception:  # an inconsistent graph is found out when the parts are checked
        known = graph
    types = {v.name: v for v in (*graph.input, *known.value_info, *graph.output, *known.output)}
    strings = {value.name for value in types.values() if _is_text(value)}
    strings |= {t.name for t in graph.initializer if t.data_type == TensorProto.STRING}
    stored = {tensor.name for tensor in graph.initializer}

    ready = stored | {value.name for value in real_inputs(graph)}
    before: list[onnx.NodeProto] = []
    core: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    late: set[str] = set()
    for node in graph.node:
        texts = not strings.isdisjoint((*taken(node), *node.output)) or node.op_type in _KEYED
        if not late.isdisjoint(taken(node)):
            after.append(node)
            late.update(node.output)
        elif not texts:
            core.append(node)
        elif ready.issuperset(taken(node)):
            before.append(node)
            ready.update(node.output)
        else:
            after.append(node)
            late.update(node.output)
    wanted = {value.name for value in graph.output}
    first = _part(network, before, _read((*core, *after), wanted), types, name)
    last = _part(network, after, wanted, types, name)
    for part, some in ((first, before), (last, after)):
        _require_known(part, bool(some), name)
    middle = _part(network, core, _read(after, wanted), types, name)
    stages = TextStages(
        Signature(
            tuple(_spec(value) for value in real_inputs(graph)),
            tuple(_spec(types.get(value.name, value)) for value in graph.output),
        ),
        first.SerializeToString() if before else None,
        last.SerializeToString() if after else None,
    )
    return middle, stages


def _require_known(part: onnx.ModelProto, used: bool, name: str) -> None:
    """Refuse operators that the host's evaluator does not have."""
    from onnx.reference import ReferenceEvaluator

    if not used:
        return
    try:
        ReferenceEvaluator(part)
    except Exception as error:  # it raises many kinds, each naming the operator
        kinds = ", ".join(sorted({qualified(node) for node in part.graph.node}))
        text = str(error).splitlines()[0][:160]
        raise ModelError(f"the part on strings ({kinds}) cannot be evaluated: {text}", where=name) from error


def _read(nodes: Iterable[onnx.NodeProto], wanted: set[str]) -> set[str]:
    return wanted | {name for node in nodes for name in taken(node)}


def _part(
    network: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    wanted: set[str],
    types: dict[str, onnx.ValueInfoProto],
    name: str,
) -> onnx.ModelProto:
    """The network of ``nodes`` alone: what it gives of ``wanted``, from what it takes."""
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    made = [output for node in nodes for output in node.output if output]
    read = dict.fromkeys(operand for node in nodes for operand in taken(node))
    outputs = [output for output in made if output in wanted]
    inputs = [operand for operand in read if operand not in stored and operand not in made]
    for value in (*inputs, *outputs):
        if value not in types:
            maker = next((label(node) for node in network.graph.node if value in node.output), value)
            raise ModelError(f"the type of what {maker!r} gives cannot be told", where=name)
    part = onnx.ModelProto()
    part.CopyFrom(network)
    graph = part.graph
    for field in ("node", "input", "output", "value_info", "initializer"):
        del getattr(graph, field)[:]
    graph.node.extend(nodes)
    graph.input.extend(types[value] for value in inputs)
    graph.output.extend(types[value] for value in outputs)
    graph.initializer.extend(stored[value] for value in read if value in stored)
    if not any(entry.domain in ("", "ai.onnx") for entry in part.opset_import):
        part.opset_import.append(helper.make_opsetid("", onnx.defs.onnx_opset_version()))
    if not nodes:
        zero = helper.make_tensor(f"{_NOTHING}_zero", TensorProto.FLOAT, [1], [0.0])
        graph.initializer.append(zero)
        graph.node.append(helper.make_node("Identity", [zero.name], [_NOTHING]))
        graph.output.append(helper.make_tensor_value_info(_NOTHING, TensorProto.FLOAT, [1]))
    return part


def _is_text(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.STRING)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    dims = declared(value, least=0) or ()
    shape = tuple(f"{value.name}_{axis}" if dim == "?" else dim for axis, dim in enumerate(dims))
    kind = "str" if _is_text(value) else dtype_name(value.type.tensor_type.elem_type)
    return TensorSpec(value.name, shape, kind)
