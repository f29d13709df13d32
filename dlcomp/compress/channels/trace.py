"""Which channels of a network can only go together.

Every channel of every value has a number. Where two are added, or one becomes the other (activations,
pooling, depthwise convolutions, joins, flattening), their numbers are one in a union-find. A channel that
meets an input, an output or an operator without a rule is fixed. After Fang et al., "DepGraph", 2023, section
3, with channels instead of layers as the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dlcomp.compress.channels.rules import RULES, Axis, Stored
from dlcomp.compress.layers import Layer, layers_of, weight_of
from dlcomp.compress.matrices import has_matrices
from dlcomp.compress.network import Network
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import static_shapes
from dlcomp.frontend.operators import taken


@dataclass(frozen=True)
class Linked:
    """A layer, and the numbers of the channels that it reads ``(I,)`` and makes ``(O,)``.

    ``inputs`` is None where what it reads has no channels that could go.
    """

    layer: Layer
    inputs: np.ndarray | None
    outputs: np.ndarray

    @property
    def depthwise(self) -> bool:
        """Whether an output channel has one input channel, which goes with it."""
        return self.inputs is not None and self.layer.groups == len(self.inputs) > 1


@dataclass
class Trace:
    """A network's channels.

    Attributes
    ----------
    layers : list of Linked
    slices : list of Stored
        Stored operands that have an element for each channel.
    entries : list of Stored
        Stored shapes, whose element ``axis`` is the number of channels.
    known : dict of str to (axis, numbers)
        The channels of values.
    """

    network: Network
    layers: list[Linked] = field(default_factory=list)
    slices: list[Stored] = field(default_factory=list)
    entries: list[Stored] = field(default_factory=list)
    known: dict[str, Axis] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=set)
    _parent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = static_shapes(inferred(self.network.proto))

    def new(self, count: int) -> np.ndarray:
        """Numbers of channels that nothing ties to others yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, number: int) -> int:
        """The number that stands for all channels tied to ``number``."""
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def roots(self, numbers: np.ndarray) -> np.ndarray:
        return np.array([self.root(int(n)) for n in numbers], np.int64)

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        """The channels of ``left`` go with those of ``right``, one by one."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            self._parent[self.root(a)] = self.root(b)

    def fix(self, *names: str) -> None:
        """The channels of these values stay."""
        for name in names:
            if name in self.known:
                self.fixed.update(self.known[name][1].tolist())

    def stays(self) -> set[int]:
        """The roots of channels that are fixed."""
        return {self.root(number) for number in self.fixed}


def trace(network: Network) -> Trace:
    """The channels of every value of ``network``, from its inputs to its outputs."""
    made = Trace(network)
    layers = {layer.output: layer for layer in layers_of(network)}
    for node in network.nodes:
        layer = layers.get(node.output[0])
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if layer is not None and has_matrices(layer, weight_of(network, layer)):
            _through_layer(made, layer)
        elif rule is None or not rule(made, node):
            made.fix(*taken(node))
    made.fix(*network.outputs)
    return made


def _through_layer(made: Trace, layer: Layer) -> None:
    weight, output = weight_of(made.network, layer), layer.node.output[0]
    is_conv = layer.node.op_type == "Conv"
    axis, numbers = made.known.get(layer.data, (-1, None))
    wanted = 1 if is_conv else len(made.shapes.get(layer.data, ())) - 1
    if numbers is not None and axis != wanted:
        made.fix(layer.data)
        numbers = None
    count, groups = weight.shape[layer.axis], layer.groups
    if groups == 1:
        outputs = made.new(count)
    elif numbers is not None and len(numbers) == groups:
        outputs = np.repeat(numbers, count // groups)
    else:
        # The groups stay alike: what goes from one goes from all.
        outputs = np.tile(made.new(count // groups), groups)
        if numbers is not None:
            parts = numbers.reshape(groups, -1)
            for part in parts[1:]:
                made.tie(part, parts[0])
    made.layers.append(Linked(layer, numbers, outputs))
    rank = len(made.shapes.get(output, ()))
    if rank:
        made.known[output] = (1 if is_conv else rank - 1, outputs)
    else:
        made.fixed.update(outputs.tolist())
