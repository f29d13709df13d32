"""The layers of a network that have a stored weight."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from dlcomp.compress.network import Network, attributes_of
from dlcomp.errors import UsageError

# Operators with a stored weight, and where they read data, weight and bias.
_WEIGHTED: Mapping[str, tuple[int, int, int]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1, -1),
}


@dataclass(frozen=True)
class Layer:
    """A node with a weight.

    Attributes
    ----------
    axis : int
        That of the weight which counts output channels, for scales of their own.
    """

    node: onnx.NodeProto
    data: str
    weight: int
    bias: int | None
    axis: int

    @property
    def name(self) -> str:
        """As people know it: the node's name, or that of its output."""
        return str(self.node.name or self.node.output[0])

    @property
    def output(self) -> str:
        """What it makes, which no other layer does; names may repeat."""
        return str(self.node.output[0])

    @property
    def channels(self) -> int:
        """The axis of the data that counts input channels."""
        return 1 if self.node.op_type in ("Conv", "ConvTranspose") else -1

    @property
    def groups(self) -> int:
        """Groups of a convolution, each with inputs and outputs of its own."""
        return int(attributes_of(self.node).get("group", 1)) if self.node.op_type == "Conv" else 1


def layers_of(network: Network) -> Iterator[Layer]:
    """Every node of ``network`` with a stored weight, in order."""
    for node in network.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _WEIGHTED:
            continue
        data, weight, bias = _WEIGHTED[node.op_type]
        names = list(node.input)
        if names[weight] not in network.weights or names[data] in network.weights:
            continue
        array = network.weights[names[weight]]
        if array.dtype != "float32" or array.ndim < 2:
            continue
        attributes = attributes_of(node)
        if node.op_type == "Gemm" and (attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0):
            continue
        axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": array.ndim - 1}.get(node.op_type)
        if axis is None:
            axis = 0 if attributes.get("transB", 0) else 1
        if node.op_type == "ConvTranspose" and attributes.get("group", 1) != 1:
            continue
        has_bias = 0 <= bias < len(names) and bool(names[bias])
        if has_bias and not _is_bias(network.weights.get(names[bias]), array.shape[axis]):
            continue
        if has_bias and attributes.get("beta", 1.0) != 1.0:
            continue
        yield Layer(node, names[data], weight, bias if has_bias else None, axis)


def _is_bias(array: np.ndarray | None, outputs: int) -> bool:
    """A number for each output, or one for all; what Gemm adds may also differ by row."""
    return array is not None and array.size in (1, outputs) and array.size == math.prod(array.shape[-1:])


def matches(node: onnx.NodeProto, keep: Sequence[str]) -> bool:
    """Whether one of the expressions ``keep`` is found in the node's name."""
    return any(re.search(pattern, node.name or node.output[0]) for pattern in keep)


def exactly(names: Iterable[str]) -> tuple[str, ...]:
    """Expressions for ``keep`` that are found in the layers ``names`` and no others."""
    return tuple(f"^{re.escape(name)}$" for name in names)


def check_names(given: Mapping[str, object] | None, known: Collection[str], where: str) -> None:
    """Raise ``UsageError`` where ``given`` names something that is not ``known``."""
    for name in given or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or sorted(known)[:5]
            raise UsageError(
                f"there is no layer {name!r} that it could change",
                hint=f"there are {', '.join(near)}",
                where=where,
            )


def weight_of(network: Network, layer: Layer) -> np.ndarray:
    """The elements of the layer's weight."""
    return network.weights[layer.node.input[layer.weight]]


def check_expressions(keep: Sequence[str]) -> None:
    """Raise ``UsageError`` where one of ``keep`` is no regular expression."""
    for pattern in keep:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"cannot read the expression {pattern!r}: {error}") from error
