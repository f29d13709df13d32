"""Cuts a quantized network into regions for the accelerator and segments for the host, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcomp.codegen.vta.graph import Graph
from dlcomp.codegen.vta.match import Found, Matcher
from dlcomp.codegen.vta.operators import Conv, Operator, Residual, Sum, operands

# Of an ALU shift, and of the identity matrix that adds a residual.
_LARGEST_OWN, _LARGEST_OTHER = 15, 6


@dataclass(frozen=True)
class HostSegment:
    """An ONNX network that the host runs."""

    network: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class DeviceSegment:
    """Operators for one program.

    Attributes
    ----------
    outputs : tuple of str
        Tensors that others read.
    shapes : dict
        ONNX's shape of each value that is not ``(N, C, H, W)`` itself.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Partition:
    """Segments in order; ``views`` are values that are another in a different shape."""

    segments: tuple[HostSegment | DeviceSegment, ...]
    views: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class _Unit:
    """A node of the host, or what a pattern computes: reads values, makes values."""

    reads: list[str]
    makes: list[str]
    node: onnx.NodeProto | None = None
    found: Found | None = None
    done: bool = field(default=False)


def partition(proto: onnx.ModelProto) -> Partition:
    """Everything that matches a pattern goes to the accelerator, as many layers at a time as can.

    Raises
    ------
    UsageError
        A shape is open.
    """
    graph = Graph(proto)
    units = _needed(_units(graph), graph)
    _fuse_residuals(units, graph)
    views = {unit.found.result: unit.found.view for unit in units if unit.found and unit.found.view}
    segments: list[HostSegment | DeviceSegment] = []
    known = {*graph.inputs, *graph.initializers, ""}
    while not all(unit.done for unit in units):
        for host in (True, False):
            taken = _ready(units, known, host)
            later = {name for unit in units if not unit.done for name in unit.reads} | set(graph.outputs)
            later |= {views[name] for name in later if name in views}
            if taken:
                segments.append(_host(graph, taken, later) if host else _device(taken, later))
    shapes = {name: graph.shape(name) for name in graph.types if _is_static(graph, name)}
    for unit in units:
        if unit.found and unit.found.real:
            shapes[unit.found.result] = graph.shape(unit.found.real)
    kept = [s for s in segments if not isinstance(s, DeviceSegment) or s.operators]
    return Partition(tuple(kept), views, shapes, tuple(graph.inputs), tuple(graph.outputs))


def _is_static(graph: Graph, name: str) -> bool:
    return all(dim.HasField("dim_value") for dim in graph.types[name].shape.dim)


def _units(graph: Graph) -> list[_Unit]:
    """Every node, those of a pattern replaced by what it computes."""
    matcher = Matcher(graph)
    found = {id(node): one for node in graph.nodes if (one := matcher.quantize(node)) is not None}
    inside = {one.operator.name for one in found.values() if one.operator is not None}
    units = []
    for node in graph.nodes:
        one = found.get(id(node))
        if one is None and not inside.intersection(node.output):
            one = matcher.sums(node)
        if one is None:
            units.append(_Unit([n for n in node.input if n], list(node.output), node))
            continue
        units.append(_Unit(_reads(one), [one.result], found=one))
        if one.real is not None:
            units.append(_read_back(graph, one))
    return units


def _reads(found: Found) -> list[str]:
    if found.view is not None:
        return [found.view]
    assert found.operator is not None
    return [tensor.name for tensor in operands(found.operator)]


def _read_back(graph: Graph, found: Found) -> _Unit:
    """A node of the host that multiplies sums by their scale."""
    assert found.real is not None
    assert found.scale is not None
    scale = f"{found.result}_scale"
    values = found.scale.reshape(-1) if found.scale.size > 1 else found.scale.reshape(())
    graph.initializers[scale] = numpy_helper.from_array(values, scale)
    node = helper.make_node(
        "DequantizeLinear", [found.result, scale], [found.real], name=found.result, axis=1
    )
    return _Unit([found.result], [found.real], node)


def _needed(units: list[_Unit], graph: Graph) -> list[_Unit]:
    """Those that an output depends on: nodes inside a pattern are left out unless others read them."""
    wanted = set(graph.outputs)
    kept = []
    for unit in reversed(units):
        if wanted.intersection(unit.makes):
            wanted.update(unit.reads)
            kept.append(unit)
    return kept[::-1]


def _fuse_residuals(units: list[_Unit], graph: Graph) -> None:
    """A sum of a convolution's result that nobody else reads becomes part of the convolution."""
    makers = {unit.makes[0]: unit for unit in units}
    position = {id(unit): place for place, unit in enumerate(units)}
    for unit in units:
        one = unit.found.operator if unit.found else None
        if not isinstance(one, Sum):
            continue
        pairs = [(one.left, one.left_shift, one.right, one.right_shift)]
        pairs.append((one.right, one.right_shift, one.left, one.left_shift))
        # The later of two convolutions: the other's result is there by then.
        pairs.sort(key=lambda p: -position[id(makers[p[0].name])] if p[0].name in makers else 1)
        for own, own_shift, other, other_shift in pairs:
            maker = makers.get(own.name)
            layer = maker.found.operator if maker and maker.found else None
            readers = sum(unit_.reads.count(own.name) for unit_ in units)
            fits = own_shift <= _LARGEST_OWN and other_shift <= _LARGEST_OTHER and own.name != other.name
            if not isinstance(layer, Conv) or layer.residual or readers != 1 or not fits:
                continue
            if own.name in graph.outputs:
                continue
            more = Residual(other, own_shift, other_shift, one.requantize)
            fused = replace(layer, result=one.result, residual=more)
            unit.found = Found(one.result.name, fused)
            unit.reads = _reads(unit.found)
            assert maker is not None
            units.remove(maker)
            _fuse_residuals(units, graph)
            return


def _ready(units: list[_Unit], known: set[str], host: bool) -> list[_Unit]:
    taken = []
    for unit in units:
        mine = (unit.node is not None) == host
        if not unit.done and mine and known.issuperset(unit.reads):
            unit.done = True
            known.update(unit.makes)
            taken.append(unit)
    return taken


def _device(units: Sequence[_Unit], later: set[str]) -> DeviceSegment:
    found = [unit.found for unit in units if unit.found is not None]
    operators = tuple(one.operator for one in found if one.operator is not None)
    made = {one.result.name for one in operators}
    reads = [name for unit in units for name in unit.reads]
    inputs = tuple(dict.fromkeys(name for name in reads if name not in made and not _is_view(name, found)))
    return DeviceSegment(operators, inputs, tuple(sorted(made & later)))


def _is_view(name: str, found: Iterable[Found]) -> bool:
    return any(one.view is not None and one.result == name for one in found)


def _host(graph: Graph, units: Sequence[_Unit], later: set[str]) -> HostSegment:
    nodes = [unit.node for unit in units if unit.node is not None]
    made = {name for unit in units for name in unit.makes}
    reads = list(dict.fromkeys(name for unit in units for name in unit.reads))
    stored = [graph.initializers[name] for name in reads if name in graph.initializers]
    # Scales and the like that a subgraph takes besides its first operand.
    extra = {name for node in nodes for name in node.input if name in graph.initializers} - set(reads)
    stored += [graph.initializers[name] for name in sorted(extra)]
    inputs = [name for name in reads if name not in made and name not in graph.initializers]
    outputs = sorted(made & later)
    body = helper.make_graph(
        nodes,
        "host",
        [_value(graph, name) for name in inputs],
        [_value(graph, name) for name in outputs],
        stored,
    )
    network = helper.make_model(body, opset_imports=list(graph.proto.opset_import))
    network.ir_version = graph.proto.ir_version
    return HostSegment(network, tuple(inputs), tuple(outputs))


def _value(graph: Graph, name: str) -> onnx.ValueInfoProto:
    if name.endswith("_sums") and name not in graph.types:
        shape = graph.shape(name.removesuffix("_sums"))
        return helper.make_tensor_value_info(name, TensorProto.INT32, shape)
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.CopyFrom(graph.types[name])
    return value
