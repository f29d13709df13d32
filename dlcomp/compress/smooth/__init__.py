"""Outliers of what layers read moved into their weights, before ``quantize``: SmoothQuant.

Xiao et al., "SmoothQuant", ICML 2023, section 4. The network computes what it did: the normalisation or the
layer before divides each input, and the weights behind multiply it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, check_expressions, layers_of, matches, weight_of
from dlcomp.compress.matrices import to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.observe import runs
from dlcomp.compress.second_order import second_order
from dlcomp.compress.smooth.choose import Inputs, choose
from dlcomp.compress.smooth.fold import divide, edits_for
from dlcomp.errors import ModelError, UsageError

__all__ = ["Smooth"]


@dataclass(frozen=True)
class Smooth:
    """Inputs of matrix products scaled so that one grid of integers suits them.

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
        """Scale what the products of ``network`` read; the account of the exponents, by value."""
        assert data is not None
        groups = _groups(network, self.keep)
        if not groups:
            raise ModelError(
                "it has no product with a stored matrix",
                where="smooth",
                hint="equalize is the pass for convolutions",
            )
        inputs = _observed(network, groups, data)
        account: dict[str, Any] = {"folded": 0, "inserted": 0, "as_they_were": 0, "alpha": {}}
        for name, layers in groups.items():
            weights = [to_matrices(layer, weight_of(network, layer))[0] for layer in layers]
            alpha, factor = choose(weights, inputs[name], self.alpha, self.bits)
            how = "as_they_were" if alpha is None else self._scale(network, name, layers, factor)
            account[how] += 1
            if how != "as_they_were":
                account["alpha"][name] = alpha
        return account

    def _scale(self, network: Network, name: str, layers: list[Layer], factor: np.ndarray) -> str:
        """Divide the value ``name`` for ``layers`` and multiply their weights; what was done."""
        readers = sum(list(node.input).count(name) for node in network.nodes) + network.outputs.count(name)
        edits = edits_for(network, name, len(factor)) if readers == len(layers) else None
        if edits is None and not self.insert:
            return "as_they_were"
        for layer in layers:
            stored = network.own_weight(layer.node, layer.weight)
            along = factor[None] if layer.axis == 0 else factor[:, None]
            network.set_weight(stored, (network.weights[stored] * along).astype(np.float32))
        if edits is not None:
            divide(network, edits, factor)
            return "folded"
        _insert(network, name, layers, factor)
        return "inserted"


def _groups(network: Network, keep: tuple[str, ...]) -> dict[str, list[Layer]]:
    """The layers that read the same value, by its name."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers_of(network):
        product = layer.node.op_type in ("MatMul", "Gemm") and weight_of(network, layer).ndim == 2
        if product and not matches(layer.node, keep):
            groups.setdefault(layer.data, []).append(layer)
    return groups


def _observed(network: Network, groups: Mapping[str, list[Layer]], data: Calibration) -> dict[str, Inputs]:
    extremes = dict(_extremes(network, groups, data))
    firsts = [layers[0] for layers in groups.values()]
    return {
        layer.data: Inputs(*extremes[layer.data], moments.hessian(False)[0])
        for layer, moments in second_order(network, firsts, data)
    }


def _extremes(
    network: Network, groups: Mapping[str, list[Layer]], data: Calibration
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Of each input of each value, over what is finite."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for values in runs(network, list(groups), data):
        for name in groups:
            rows = values[name].reshape(-1, values[name].shape[-1]).astype(np.float64)
            rows = rows[np.isfinite(rows).all(axis=1)]
            low, high = rows.min(axis=0, initial=np.inf), rows.max(axis=0, initial=-np.inf)
            before = found.get(name, (low, high))
            found[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    for name, (low, high) in found.items():
        # Where nothing was finite there is no range, and second_order says so.
        yield name, (np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0))


def _insert(network: Network, name: str, layers: list[Layer], factor: np.ndarray) -> None:
    """A Mul between the value and ``layers``, in front of the first of them."""
    divided, stored = network.name(f"{name}_smooth"), network.name(f"{name}_factors")
    network.set_weight(stored, (1 / factor).astype(np.float32))
    for layer in layers:
        layer.node.input[0] = divided
    made = helper.make_node("Mul", [name, stored], [divided], name=divided)
    outputs = {layer.output for layer in layers}
    place = next(i for i, node in enumerate(network.nodes) if node.output and node.output[0] in outputs)
    network.proto.graph.node.insert(place, made)
