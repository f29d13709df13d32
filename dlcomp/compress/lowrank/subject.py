"""A layer that may be factored: its weight, what its inputs are like, and what computing it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.layers import Layer
from dlcomp.compress.lowrank.moments import RECURRENT, Moments, as_matrix, has_bias
from dlcomp.compress.network import Network, attributes_of

# Of the mean of the diagonal; inputs that never change still have a place in the metric.
_DAMPING = 1e-5


@dataclass(frozen=True)
class Stage:
    """One of the layers that take the place of another.

    Attributes
    ----------
    kernel : numpy.ndarray
        (outputs, inputs, K...) float64.
    axes : frozenset of int
        Along which axes of the image it moves as the layer did: with its strides, pads and dilations.
    groups : int
        Of a convolution: so many parts of its inputs, each with outputs of its own.
    """

    kernel: np.ndarray
    axes: frozenset[int]
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Subject:
    """A layer and its numbers.

    Attributes
    ----------
    weight : (O, I, K...) float64
    metric : (I * K..., I * K...) float64 or None
        What errors of the weight are measured by; None: all alike.
    mean : (I * K...,) float64 or None
        Of the inputs, where the mean error can go into a bias; then ``metric`` is their covariance.
    before, after : tuple of int
        Sizes of the image that it reads and makes; ``()`` of a dense layer.
    rows : int
        How often the layer is computed: the batch, and for a dense layer all axes but the last.
    parts : tuple of Subject
        Of a layer with a matrix for each direction: those, which get the same rank; then ``weight`` is the
        first one's, and ``rows`` counts them all.
    """

    layer: Layer
    weight: np.ndarray
    metric: np.ndarray | None
    mean: np.ndarray | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    rows: int
    parts: tuple[Subject, ...] = ()

    @property
    def title(self) -> str:
        return self.layer.name

    @property
    def copies(self) -> int:
        """How many matrices of these shapes there are."""
        return max(1, len(self.parts))

    @property
    def size(self) -> int:
        """Weights of all of them."""
        return self.weight.size * self.copies

    @property
    def matrix(self) -> np.ndarray:
        """The weight as (O, I * K...)."""
        return self.weight.reshape(len(self.weight), -1)

    @property
    def taps(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    @property
    def axes(self) -> frozenset[int]:
        return frozenset(range(len(self.taps)))

    def macs(self, shapes: Sequence[tuple[Sequence[int], frozenset[int]]]) -> int:
        """Multiply-accumulates of stages of kernels of ``shapes``, each with its axes, in order."""
        done: set[int] = set()
        total = 0
        for kernel, axes in shapes:
            done |= axes
            image = (
                new if n in done else old
                for n, (old, new) in enumerate(zip(self.before, self.after, strict=True))
            )
            total += math.prod(kernel) * math.prod(image) * self.rows
        return total

    @property
    def own_macs(self) -> int:
        return self.macs([(self.weight.shape, self.axes)])

    def loss(self, change: np.ndarray) -> float:
        """The error of a ``change`` (O, I * K...) of the weight, over what the weight itself makes."""
        return self.energy(change) / (self.energy(self.matrix) or 1.0)

    def energy(self, matrix: np.ndarray) -> float:
        """The mean square of what a ``matrix`` (O, I * K...) makes of the inputs, over all outputs."""
        return _square(matrix, self.metric)

    def plain(self) -> Subject:
        """The same with all errors alike."""
        return Subject(self.layer, self.weight, None, None, self.before, self.after, self.rows)


def subject_of(
    network: Network, layer: Layer, moments: Moments | None, shapes: Mapping[str, tuple[int, ...]]
) -> Subject | None:
    """``layer`` as a subject; None if it cannot be factored: grouped, or its weight is read elsewhere too."""
    name = layer.node.input[layer.weight]
    weight = network.weights[name].astype(np.float64)
    matrix = as_matrix(layer, weight)
    readers = sum(list(node.input).count(name) for node in network.nodes)
    if matrix is None or readers > 1 or min(matrix.shape) < 2 or not matrix.any():
        return None
    convolution = layer.node.op_type == "Conv"
    read, made = (shapes.get(value, ()) for value in (layer.data, layer.node.output[0]))
    axes = weight.ndim - 2 if convolution else 0
    if len(read) != axes + 2 or len(made) != axes + 2:
        before = after = (1,) * axes
    else:
        before, after = read[2:], made[2:]
    # Of images of unknown size each position counts once.
    rows = math.prod(read[:1] if convolution else read[:-1]) if read else 1
    metric, mean = metric_of(moments, has_bias(layer))
    shaped = weight if convolution else np.ascontiguousarray(matrix)
    return Subject(layer, shaped, metric, mean, tuple(before), tuple(after), max(1, rows))


def metric_of(moments: Moments | None, centred: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What errors are measured by; and, ``centred``, the mean of the inputs, which a bias takes care of."""
    if moments is None:
        return None, None
    metric = moments.covariance if centred else moments.second
    metric = metric + _DAMPING * (np.trace(metric) / len(metric) or 1.0) * np.eye(len(metric))
    return metric, moments.mean if centred else None


def recurrent_layers(network: Network) -> list[Layer]:
    """The products of recurrent layers with their inputs, all gates and directions as one matrix."""
    return [
        Layer(node, node.input[0], 1, None, 0)
        for node in network.nodes
        if node.op_type in RECURRENT
        and node.input[1] in network.weights
        and node.input[0] not in network.weights
        and network.weights[node.input[1]].dtype == "float32"
    ]


def name_states(network: Network) -> None:
    """Give what recurrent layers make a name where nothing reads it: layers are told apart by it."""
    for node in network.nodes:
        if node.op_type in RECURRENT and not node.output[0]:
            node.output[0] = network.name("states")


def strides_of(subject: Subject) -> dict[str, list[int]]:
    """Strides, pads and dilations of the layer, written out."""
    axes = len(subject.taps)
    found = attributes_of(subject.layer.node)
    return {
        "strides": list(found.get("strides") or [1] * axes),
        "pads": list(found.get("pads") or [0] * 2 * axes),
        "dilations": list(found.get("dilations") or [1] * axes),
    }


def _square(matrix: np.ndarray, metric: np.ndarray | None) -> float:
    return float(((matrix if metric is None else matrix @ metric) * matrix).sum())
