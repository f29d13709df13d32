"""The first node of a network that diverges from the reference, found by making every value an output.

The network with all its values as outputs is compiled anew, and hardly anything in it can be fused. So this
finds a wrong operator, but not a wrong fusion: if the artifact is wrong and no node is, that is the finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcomp.errors import UsageError
from dlcomp.frontend.stored import message_of
from dlcomp.model import Model
from dlcomp.runtime import peer
from dlcomp.runtime.metric import Difference, difference
from dlcomp.target import Target

# ONNX's codes of the types compared: float, uint8, int8, float16, double. The rest are shapes and masks.
_COMPARED = (1, 2, 3, 10, 11)
_LISTED = 10


@dataclass(frozen=True)
class Layer:
    """One value of the network: the node that makes it, and how far it is from the reference."""

    node: str
    op: str
    output: str
    difference: Difference
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class LayerReport:
    """What :func:`first_divergence` found.

    Attributes
    ----------
    compared, skipped : int
        Values compared, and values that could not be (integers, unknown types).
    first : Layer or None
        The first node, in topological order, whose output diverges while its inputs do not.
    worst : tuple of Layer
        The values with the largest errors.
    """

    compared: int
    skipped: int
    first: Layer | None
    worst: tuple[Layer, ...]

    def __str__(self) -> str:
        if self.first is None:
            return (
                f"no node diverges ({self.compared} values compared, each computed almost unfused); "
                "a wrong output then comes from a fusion"
            )
        first = self.first
        return f"first divergence: {first.op} {first.node!r}, output {first.output!r}: {first.difference}"


def first_divergence(
    model: Model, target: Target, inputs: Mapping[str, np.ndarray], rtol: float
) -> LayerReport:
    """Where the error of a network compiled for ``target`` begins."""
    import dlcomp

    if model.source is None:
        raise UsageError("this model keeps no ONNX source to compare with", hint="load it from an .onnx file")
    extended, skipped = expose(model.source)
    expected = peer.run(peer.session(message_of(extended, model.name), 1, optimize=False), inputs)
    compiled = dlcomp.load(extended).compile(target)
    found = compiled.run({spec.name: inputs[spec.name] for spec in compiled.signature.inputs})
    return compare(extended, found, expected, rtol, skipped)


def compare(
    network: Any,
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    rtol: float,
    skipped: int = 0,
) -> LayerReport:
    """Walk the nodes of ``network`` (an onnx.ModelProto) and compare what is in both mappings."""
    layers: list[Layer] = []
    wrong: set[str] = set()
    first = None
    for number, node in enumerate(network.graph.node):
        # What is not compared passes a divergence on.
        if not any(name in found for name in node.output):
            if wrong & set(node.input):
                wrong |= set(node.output)
            continue
        for name in node.output:
            if name not in found or name not in expected:
                continue
            gap = difference(found[name], expected[name])
            layer = Layer(node.name or f"#{number}", node.op_type, name, gap, tuple(node.input))
            layers.append(layer)
            if not gap.within(rtol):
                if first is None and not wrong & set(node.input):
                    first = layer
                wrong.add(name)
    worst = tuple(sorted(layers, key=lambda layer: -layer.difference.error)[:_LISTED])
    return LayerReport(len(layers), skipped, first, worst)


def expose(source: Any) -> tuple[Any, int]:
    """A copy of ``source`` (an onnx.ModelProto) with every inner value an output, and how many are not."""
    import onnx

    network = onnx.ModelProto()
    network.CopyFrom(source)
    inferred = onnx.shape_inference.infer_shapes(network)
    known = {value.name: value for value in inferred.graph.value_info}
    present = {value.name for value in network.graph.output}
    skipped = 0
    for node in network.graph.node:
        if node.op_type == "Constant":
            continue
        for name in filter(None, node.output):
            if name in present:
                continue
            value = known.get(name)
            if value is None or not _comparable(value):
                skipped += 1
                continue
            network.graph.output.append(value)
            present.add(name)
    return network, skipped


def _comparable(value: Any) -> bool:
    tensor = value.type.tensor_type
    static = all(dim.HasField("dim_value") for dim in tensor.shape.dim)
    return (
        value.type.HasField("tensor_type")
        and tensor.HasField("shape")
        and static
        and tensor.elem_type in _COMPARED
    )
