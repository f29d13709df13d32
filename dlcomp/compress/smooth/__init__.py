"""Outliers of what layers read moved into their weights, before ``quantize``: SmoothQuant.

Xiao et al., "SmoothQuant", ICML 2023, section 4, of which this is the form for products; convolutions have
their input channels treated in the same way. The network computes what it did: the normalisation, the sum or
the layer before divides each channel, and the weights behind multiply it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, check_expressions, layers_of, matches, weight_of
from dlcomp.compress.matrices import from_matrices, has_matrices, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.observe import runs
from dlcomp.compress.second_order import second_order
from dlcomp.compress.smooth.choose import Inputs, Reader, choose
from dlcomp.compress.smooth.fold import divide, edits_for
from dlcomp.errors import ModelError, UsageError

__all__ = ["Smooth"]

# A multiplication of its own for each element is worth so much of the error at least.
_WORTH = 0.8
_HINT = "quantize takes the layers that it has as they are"


@dataclass(frozen=True)
class Smooth:
    """What products and convolutions read, scaled by channel so that one grid of integers suits all of it.

    Attributes
    ----------
    alpha : float or None
        How much goes into the weights, 0 to 1; None searches it for each layer, and leaves a layer as it is
        where that is best.
    insert : bool
        Where nothing before a layer can take the factors (others read the value too, or it comes from a
        function), a Mul in front of it does; otherwise such layers stay as they are.
    bits : int
        Of the weights, as ``quantize`` is to store them.
    keep : tuple of str
        Regular expressions: layers whose name one is found in stay as they are.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    alpha: float | None = None
    insert: bool = True
    bits: int = 8
    keep: tuple[str, ...] = ()
    name: str = "smooth"

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is from 0 to 1, not {self.alpha}")
        if not 2 <= self.bits <= 8:
            raise UsageError(f"weights can have 2 to 8 bits, not {self.bits}")
        check_expressions(self.keep)

    @property
    def needs_data(self) -> bool:
        return True

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Scale what the layers of ``network`` read; the account of the exponents, by value."""
        assert data is not None
        groups = _groups(network, self.keep)
        if not groups:
            raise ModelError(
                "it has no product with a stored matrix and no convolution", where="smooth", hint=_HINT
            )
        account: dict[str, Any] = {"folded": 0, "inserted": 0, "as_they_were": 0, "alpha": {}}
        # All are chosen before the first changes what others read.
        for name, (alpha, factor, gain) in list(self._chosen(network, groups, data)):
            how = "as_they_were"
            if alpha is not None:
                how = self._scale(network, name, groups[name], factor, gain)
            account[how] += 1
            if how != "as_they_were":
                account["alpha"][name] = alpha
        return account

    def _chosen(
        self, network: Network, groups: Mapping[str, list[Layer]], data: Calibration
    ) -> Iterator[tuple[str, tuple[float | None, np.ndarray, float]]]:
        """Of each value the exponent, the factors and what is left of the error."""
        extremes = _extremes(network, groups, data)
        missing = {name: len(layers) for name, layers in groups.items()}
        readers: dict[str, list[Reader]] = {name: [] for name in groups}
        layers = [layer for some in groups.values() for layer in some]
        for layer, moments in second_order(network, layers, data):
            weight = to_matrices(layer, weight_of(network, layer))
            readers[layer.data].append(Reader(weight, moments.hessian(False)))
            missing[layer.data] -= 1
            if not missing[layer.data]:
                inputs = Inputs(*extremes[layer.data])
                yield layer.data, choose(readers.pop(layer.data), inputs, self.alpha, self.bits)

    def _scale(
        self, network: Network, name: str, layers: list[Layer], factor: np.ndarray, gain: float
    ) -> str:
        """Divide the value ``name`` for ``layers`` and multiply their weights; what was done."""
        place = _place(network, layers[0])
        count = sum(list(node.input).count(name) for node in network.nodes) + network.outputs.count(name)
        edits = edits_for(network, name, len(factor), place) if count == len(layers) else None
        if edits is None and (not self.insert or (self.alpha is None and gain > _WORTH)):
            return "as_they_were"
        for layer in layers:
            stored = network.own_weight(layer.node, layer.weight)
            weight = network.weights[stored]
            matrices = to_matrices(layer, weight)
            scaled = matrices * Reader(matrices, np.zeros(())).by_input(factor)
            network.set_weight(stored, from_matrices(layer, scaled, weight.shape).astype(np.float32))
        if edits is not None:
            divide(network, edits, factor, place)
            return "folded"
        _insert(network, name, layers, factor, place)
        return "inserted"


def _groups(network: Network, keep: tuple[str, ...]) -> dict[str, list[Layer]]:
    """The layers that read the same value in the same dimension, by its name."""
    groups: dict[str, list[Layer]] = {}
    places: dict[str, set[int]] = {}
    for layer in layers_of(network):
        if has_matrices(layer, weight_of(network, layer)) and not matches(layer.node, keep):
            groups.setdefault(layer.data, []).append(layer)
            places.setdefault(layer.data, set()).add(_place(network, layer))
    return {name: layers for name, layers in groups.items() if len(places[name]) == 1}


def _place(network: Network, layer: Layer) -> int:
    """Where the channels of what the layer reads are, counted from the end."""
    return weight_of(network, layer).ndim - 1 if layer.node.op_type == "Conv" else 1


def _extremes(
    network: Network, groups: Mapping[str, list[Layer]], data: Calibration
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(C,) the least and the largest of each channel of each value, over what is finite, and 0."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for values in runs(network, list(groups), data):
        for name, layers in groups.items():
            moved = np.moveaxis(values[name], -_place(network, layers[0]), -1)
            rows = moved.reshape(-1, moved.shape[-1]).astype(np.float64)
            rows = rows[np.isfinite(rows).all(axis=1)]
            low, high = rows.min(axis=0, initial=0.0), rows.max(axis=0, initial=0.0)
            before = found.get(name, (low, high))
            found[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    # Where nothing was finite there is no range, and second_order says so.
    return found


def _insert(network: Network, name: str, layers: list[Layer], factor: np.ndarray, place: int) -> None:
    """A Mul between the value and ``layers``, in front of the first of them."""
    divided, stored = network.name(f"{name}_smooth"), network.name(f"{name}_factors")
    network.set_weight(stored, (1 / factor).astype(np.float32).reshape([-1] + [1] * (place - 1)))
    for layer in layers:
        layer.node.input[0] = divided
    made = helper.make_node("Mul", [name, stored], [divided], name=divided)
    outputs = {layer.output for layer in layers}
    first = next(i for i, node in enumerate(network.nodes) if node.output and node.output[0] in outputs)
    network.proto.graph.node.insert(first, made)
