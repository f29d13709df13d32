"""What is in an ONNX file, without importing it: works with unbound shapes and unsupported operators."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx

from dlcomp.frontend.bodies import refused
from dlcomp.frontend.check import check_network, dtype_name, infer, real_inputs
from dlcomp.frontend.coverage import handling
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import count_macs
from dlcomp.frontend.operators import UnsupportedOp, nodes, qualified
from dlcomp.frontend.read import read, tensors
from dlcomp.frontend.relay import PRODUCER
from dlcomp.frontend.shapes import bind, declared
from dlcomp.frontend.simplify import simplify
from dlcomp.frontend.text import has_text, split
from dlcomp.frontend.values import fix, values_of
from dlcomp.model import TensorSpec

if TYPE_CHECKING:
    import torch

# Constants of these types are shapes, axes and flags, not weights.
_NOT_WEIGHTS = frozenset(
    {onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED}
)


@dataclass(frozen=True)
class Inspection:
    """An account of a network.

    Attributes
    ----------
    parameters, parameter_bytes : int
        Elements and bytes of the stored tensors that are not int64 or bool (those are shapes and axes).
    macs : int or None
        Of one run (see ``macs.py`` for what counts); None while a shape that matters is not known.
    ops : mapping of str to int
        Nodes of each type as the file has them, most frequent first.
    symbols : mapping of str to tuple of str
        Each symbolic dimension and the places that have it, like ``x[0]``; ``?`` has no name in the file.
    unsupported : tuple of UnsupportedOp
        What ``load`` would refuse. With unbound shapes this can list operators that folding would remove.
    handling : mapping of str to str
        How each operator is handled: the words of ``dlcomp.frontend.coverage``.
    """

    name: str
    opset: int
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    parameter_bytes: int
    macs: int | None
    ops: Mapping[str, int]
    symbols: Mapping[str, tuple[str, ...]]
    unsupported: tuple[UnsupportedOp, ...]
    handling: Mapping[str, str] = field(default_factory=dict)


def inspect(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | torch.export.ExportedProgram,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    values: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> Inspection:
    """Look into a network; with ``shapes`` (for every symbolic input, or none) the MACs are known.

    ``values`` are inputs to fix, as in :func:`dlcomp.frontend.load`.

    Raises
    ------
    UsageError, ModelError
        As :func:`dlcomp.frontend.load`, but for unsupported operators.
    """
    known = values_of(values)
    network, name = read(source, known, shapes)
    network = fix(network, {} if network.producer_name == PRODUCER else known)
    whole = network
    if has_text(network):
        network, _ = split(network, name)
    check_network(network, name)
    symbols = _symbols(network.graph)
    typed = infer(bind(network, shapes or {}), name)
    # Folding removes operators, and finds shapes that the graph as it is does not show.
    plain = simplify(typed)
    effective = _infer_loosely(plain)
    given = real_inputs((typed if network is whole else whole).graph)
    weights = [tensor for tensor in tensors(network.graph) if tensor.data_type not in _NOT_WEIGHTS]
    counts = Counter(qualified(node) for node in nodes(whole.graph))
    return Inspection(
        name=name,
        opset=next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 1),
        producer=f"{network.producer_name} {network.producer_version}".strip(),
        inputs=tuple(_spec(value) for value in given),
        outputs=tuple(_spec(value) for value in effective.output),
        parameters=sum(_elements(tensor) for tensor in weights),
        parameter_bytes=sum(_elements(tensor) * _itemsize(tensor) for tensor in weights),
        macs=count_macs(effective),
        ops=dict(counts.most_common()),
        symbols=symbols,
        unsupported=refused(plain),
        handling=handling(whole),
    )


def _infer_loosely(network: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return inferred(network)
    except Exception:
        return network.graph


def _symbols(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    places: dict[str, list[str]] = {}
    for value in real_inputs(graph):
        dims = declared(value)
        if dims is None:
            places.setdefault("?", []).append(f"{value.name} (unknown rank)")
            continue
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                places.setdefault(dim, []).append(f"{value.name}[{axis}]")
    return {symbol: tuple(where) for symbol, where in places.items()}


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    dims = declared(value)
    shape = ("...",) if dims is None else dims
    return TensorSpec(value.name, shape, dtype_name(value.type.tensor_type.elem_type))


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= int(dim)
    return count


def _itemsize(tensor: onnx.TensorProto) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
