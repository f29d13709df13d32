"""Which integer layers a kernel of 16-bit sums can get wrong, by their weights alone and on real inputs.

``vpmaddubsw`` (AVX2, and AVX-512 without VNNI) multiplies two unsigned by two signed bytes and adds the
products to 16 bits with saturation. Of a pair of neighbours along the sum, with weights a and b and inputs
up to 255, opposite signs can never saturate (255 * 128 = 32640), and equal signs cannot if |a| + |b| <= 128.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer
from dlcomp.compress.matrices import rows, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.observe import runs
from dlcomp.errors import UsageError
from dlcomp.frontend.qdq import on_integers
from dlcomp.frontend.stored import array_of
from dlcomp.model import Model

# Where operators on integers read data, its zero point, and weight.
_PLACES = {
    "ConvInteger": (0, 2, 1),
    "MatMulInteger": (0, 2, 1),
    "QLinearConv": (0, 2, 3),
    "QLinearMatMul": (0, 2, 3),
}
# Magnitudes of two weights of one sign whose sum with any inputs fits 16 bits.
_SAFE = 128
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1


@dataclass(frozen=True)
class LayerSaturation:
    """What is known of one layer.

    Attributes
    ----------
    pairs, risky : int
        Pairs of weights, and those that saturate for some inputs.
    any_order : bool
        Nothing saturates however a kernel orders the sum: taps and channels.
    sums, saturated : int or None
        Sums of a pair of products on the data, and those beyond 16 bits; None without data.
    outputs, wrong : int or None
        Numbers that the layer made on the data, and those with such a sum in them.
    """

    layer: str
    operator: str
    pairs: int
    risky: int
    any_order: bool
    sums: int | None = None
    saturated: int | None = None
    outputs: int | None = None
    wrong: int | None = None

    @property
    def proven(self) -> bool:
        """Whether no inputs at all make a sum saturate."""
        return self.risky == 0


@dataclass(frozen=True)
class Saturation:
    """What :func:`check_saturation` found.

    Attributes
    ----------
    samples : int
        Batches of the data.
    unchecked : tuple of str
        Products on integers whose weights are not stored.
    """

    network: str
    layers: tuple[LayerSaturation, ...]
    samples: int
    unchecked: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether no layer can saturate for any inputs."""
        return not self.unchecked and all(layer.proven for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """In the types of JSON."""
        layers = [{**asdict(layer), "proven": layer.proven} for layer in self.layers]
        return {**asdict(self), "layers": layers, "proven": self.proven}


def check_saturation(model: Model, calibration: Any = None) -> Saturation:
    """Where runtimes whose kernels add pairs of 8-bit products in 16 bits can go wrong on ``model``.

    dlcomp's own kernels add in 32 bits on every processor; this is about the same file elsewhere. Pairs are
    as kernels on channels-last data pack them: along taps, then channels. Signed inputs and unsigned weights
    are moved by 128 first, as such kernels do.

    Parameters
    ----------
    model : Model
        A quantized network: QDQ nodes, or operators on integers.
    calibration : optional
        Samples, as for :meth:`dlcomp.Model.compress`: what really saturates on them is counted.

    Raises
    ------
    UsageError
        No layer of the network works on 8-bit integers.
    """
    network = Network(model)
    names = {output: str(node.name) for node in network.nodes for output in node.output}
    # As it is compiled.
    network.proto = on_integers(network.proto)
    network.weights = {tensor.name: array_of(tensor) for tensor in network.proto.graph.initializer}
    subjects, unchecked = _subjects(network, names)
    if not subjects and not unchecked:
        raise UsageError(
            f"no layer of {model.name} works on 8-bit integers, so nothing can saturate",
            hint="dlcomp compress --pass quantize makes such a network",
        )
    if calibration is None or not subjects:
        return Saturation(model.name, tuple(s.by_weights() for s in subjects), 0, unchecked)
    read = {name for subject in subjects for name in subject.reads if name not in network.weights}
    samples = 0
    for values in runs(network, read, Calibration(calibration, model.signature)):
        samples += 1
        for subject in subjects:
            subject.add({**network.weights, **values})
    return Saturation(model.name, tuple(s.on_data() for s in subjects), samples, unchecked)


def risky_pairs(matrices: np.ndarray) -> np.ndarray:
    """Which pairs ``(..., K / 2)`` of int8 weights ``(..., K)``, K even, saturate for some inputs."""
    first, second = matrices[..., 0::2].astype(np.int16), matrices[..., 1::2].astype(np.int16)
    return np.asarray((first * second > 0) & (np.abs(first) + np.abs(second) > _SAFE))


class _Subject:
    """A layer while it is looked at."""

    def __init__(self, name: str, node: onnx.NodeProto, weight: np.ndarray) -> None:
        self._name, self._operator = name, str(node.op_type)
        data, zero, place = _PLACES[node.op_type]
        self.reads = [str(node.input[data])]
        if len(node.input) > zero and node.input[zero]:
            self.reads.append(str(node.input[zero]))
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.op_type = "Conv" if "Conv" in node.op_type else "MatMul"
        self._layer = Layer(twin, self.reads[0], place, None, 0 if twin.op_type == "Conv" else 1)
        self._kernel = weight.shape[2:] if twin.op_type == "Conv" else ()
        signed = (weight.astype(np.int16) - 128 if weight.dtype == np.uint8 else weight).astype(np.int8)
        # (G, O / G, K), a zero behind an odd K
        matrices = to_matrices(self._layer, signed)
        self._matrices = np.pad(matrices, [(0, 0), (0, 0), (0, matrices.shape[2] % 2)])
        self._risky = risky_pairs(self._matrices)
        self._sums = self._saturated = self._outputs = self._wrong = 0

    def by_weights(self) -> LayerSaturation:
        """What the weights prove."""
        count, risky = self._risky.size, int(self._risky.sum())
        return LayerSaturation(self._name, self._operator, count, risky, _any_order(self._matrices))

    def on_data(self) -> LayerSaturation:
        """That, and what was counted."""
        known = asdict(self.by_weights())
        counts = ("sums", "saturated", "outputs", "wrong")
        return LayerSaturation(**{**known, **{name: getattr(self, f"_{name}") for name in counts}})

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Count a batch."""
        data = np.atleast_2d(values[self.reads[0]])
        shift = 128 if data.dtype == np.int8 else 0
        # Of a product by rows nothing is padded; a convolution has one zero point.
        zeros = values[self.reads[1]].reshape(-1) if len(self.reads) > 1 and self._kernel else np.zeros(1)
        zero = int(zeros[0])
        # What is padded is the zero point, and ``rows`` pads zeros.
        for chunk in rows(self._layer, self._kernel, data.astype(np.int16) - zero, sys.maxsize):
            inputs = (chunk + (zero + shift)).astype(np.float32)
            self._count(inputs.reshape(len(inputs), -1, inputs.shape[-1]))

    def _count(self, inputs: np.ndarray) -> None:
        """Count rows ``(G, N, K)``; float32 holds the sums of two products exactly."""
        groups, outputs = self._risky.shape[:2]
        count = inputs.shape[1]
        inputs = np.pad(inputs, [(0, 0), (0, 0), (0, inputs.shape[2] % 2)])
        self._sums += count * self._risky.size
        self._outputs += count * groups * outputs
        weights = self._matrices.astype(np.float32)
        for group in np.flatnonzero(self._risky.any(axis=(1, 2))):
            wrong = np.zeros((count, outputs), bool)
            for pair in np.flatnonzero(self._risky[group].any(axis=0)):
                own = np.flatnonzero(self._risky[group, :, pair])
                both = slice(2 * pair, 2 * pair + 2)
                sums = inputs[group, :, both] @ weights[group, own, both].T
                beyond = (sums > _HIGHEST) | (sums < _LOWEST)
                self._saturated += int(beyond.sum())
                wrong[:, own] |= beyond
            self._wrong += int(wrong.sum())


def _any_order(matrices: np.ndarray) -> bool:
    """Whether the two largest weights of one sign of every output may be neighbours."""
    wide = np.sort(matrices.astype(np.int16), axis=2)
    if wide.shape[2] < 2:
        return True
    positive, negative = np.maximum(wide[..., -2:], 0), np.minimum(wide[..., :2], 0)
    # One weight alone never saturates.
    above = (positive.min(axis=2) > 0) & (positive.sum(axis=2) > _SAFE)
    below = (negative.max(axis=2) < 0) & (negative.sum(axis=2) < -_SAFE)
    return not (above | below).any()


def _subjects(network: Network, names: Mapping[str, str]) -> tuple[list[_Subject], tuple[str, ...]]:
    """The products on integers with a stored weight, and the names of the others."""
    found, others = [], []
    for node in network.nodes:
        if node.op_type not in _PLACES or node.domain not in ("", "ai.onnx"):
            continue
        # What is written for a QDQ layer is named after what the layer made.
        name = names.get(node.output[0].split("/integer/")[0]) or node.name or node.output[0]
        data, _, place = _PLACES[node.op_type]
        weight = network.weights.get(node.input[place])
        known = weight is not None and node.input[data] not in network.weights
        if (
            weight is not None
            and known
            and (weight.ndim == 2 or (weight.ndim > 2 and "Conv" in node.op_type))
        ):
            found.append(_Subject(name, node, weight))
        else:
            others.append(name)
    return found, tuple(others)
