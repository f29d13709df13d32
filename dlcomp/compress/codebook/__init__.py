"""Weight sharing: every weight of a layer is one of a few values, so that a file needs only their numbers.

Han et al., "Deep Compression", ICLR 2016, section 3, with the best centroids instead of trained ones. A
network with shared weights is an ordinary one; ``.dlc`` files write it in few bytes
(:mod:`dlcomp.runtime.coding`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcomp.compress.codebook.assign import assign, damped, refitted
from dlcomp.compress.codebook.kmeans import centroids_of, nearest
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, check_expressions, layers_of, matches
from dlcomp.compress.lowrank.moments import RECURRENT, Moments, as_matrix, from_matrix, has_bias, moments_of
from dlcomp.compress.lowrank.write import add_to_bias
from dlcomp.compress.network import Network
from dlcomp.errors import ModelError, UsageError

__all__ = ["ShareWeights"]


@dataclass(frozen=True)
class ShareWeights:
    """A codebook for each layer's weight; weights that are zero stay zero.

    Attributes
    ----------
    bits : int
        2 to 8: a weight has at most ``2**bits`` values, zero among them if it has zeros.
    weighted : bool
        Errors count by the mean square of the input that a weight is multiplied with; needs data.
    repair : bool
        Rounding one input's weights is put right in those of the inputs still to come; needs data.
    keep : tuple of str
        Regular expressions: layers whose name one is found in keep their weights.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    bits: int = 5
    weighted: bool = False
    repair: bool = False
    keep: tuple[str, ...] = ()
    name: str = "share"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"codebooks can have 2 to 8 bits, not {self.bits}")
        check_expressions(self.keep)

    @property
    def needs_data(self) -> bool:
        return self.weighted or self.repair

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Replace weights by their centroids; values and error by layer.

        The error is the square of the change over that of the weights; with data, of the layer's outputs.
        """
        layers = [layer for layer in layers_of(network) if not matches(layer.node, self.keep)]
        seen = moments_of(network, layers, data) if data is not None and self.needs_data else {}
        account: dict[str, Any] = {}
        for layer in layers:
            name = network.own_weight(layer.node, layer.weight)
            title = layer.node.name or layer.node.output[0]
            account[title] = self._layer(network, layer, name, seen.get(layer.node.output[0]))
        for title, name in self._recurrent(network):
            weight = network.weights[name]
            shared = self._plain(weight.reshape(-1), None).reshape(weight.shape)
            account[title] = _effect(weight, shared, float(((weight - shared) ** 2).sum() / _square(weight)))
            network.set_weight(name, shared)
        if not account:
            raise ModelError("it has no layer with a stored weight to share", where="share")
        return {"layers": len(account), "by_layer": account}

    def _layer(self, network: Network, layer: Layer, name: str, moments: Moments | None) -> dict[str, Any]:
        weight = network.weights[name]
        matrix = as_matrix(layer, weight)
        if moments is None or matrix is None:
            shared = self._plain(weight.reshape(-1), None).reshape(weight.shape)
            error = float(((weight - shared) ** 2).sum() / _square(weight))
        else:
            # What is the same for every input can go into a bias; elsewhere it is an error like others.
            metric = moments.covariance if has_bias(layer) else moments.second
            made = self._by_outputs(matrix.astype(np.float64), damped(metric))
            shared = from_matrix(layer, made, weight.shape)
            error = _loss(matrix - made, metric) / (_loss(matrix, metric) or 1.0)
            if has_bias(layer):
                add_to_bias(network, layer, (matrix - made) @ moments.mean)
        network.set_weight(name, shared)
        return _effect(weight, shared, error)

    def _plain(self, flat: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        some = flat != 0
        if not some.any():
            return flat
        centroids = centroids_of(
            flat[some], self._count(flat), None if importance is None else importance[some]
        )
        shared = np.zeros(len(flat), np.float32)
        shared[some] = centroids[nearest(flat[some], centroids)]
        return shared

    def _by_outputs(self, matrix: np.ndarray, second: np.ndarray) -> np.ndarray:
        importance = np.broadcast_to(np.diag(second), matrix.shape).reshape(-1)
        flat = matrix.reshape(-1)
        if not self.repair or not flat.any():
            return self._plain(flat, importance).reshape(matrix.shape)
        some = flat != 0
        centroids = centroids_of(flat[some], self._count(flat), importance[some])
        best, least = matrix, np.inf
        # The assignment follows the centroids and the centroids the assignment; two turns bring almost all.
        for _ in range(3):
            assigned = assign(matrix, second, centroids)
            centroids = refitted(matrix, second, assigned, centroids)
            made = np.where(assigned < 0, 0.0, centroids[assigned])
            loss = _loss(matrix - made, second)
            if loss < least:
                best, least = made, loss
            centroids = np.sort(centroids)
        return best

    def _count(self, flat: np.ndarray) -> int:
        return int(2**self.bits - (flat == 0).any())

    def _recurrent(self, network: Network) -> Iterator[tuple[str, str]]:
        """A title and the weight of the input and of the state of each recurrent layer."""
        for node in network.nodes:
            if node.op_type not in RECURRENT or matches(node, self.keep):
                continue
            for place, letter in ((1, "W"), (2, "R")):
                if (
                    node.input[place] in network.weights
                    and network.weights[node.input[place]].dtype == "float32"
                ):
                    yield f"{node.name or node.output[0]} {letter}", network.own_weight(node, place)


def _effect(before: np.ndarray, after: np.ndarray, error: float) -> dict[str, Any]:
    return {
        "weights": int(before.size),
        "not_zero": int(np.count_nonzero(after)),
        "values": len(np.unique(after)),
        "error": round(error, 9),
    }


def _square(array: np.ndarray) -> float:
    return float((array.astype(np.float64) ** 2).sum()) or 1.0


def _loss(change: np.ndarray, second: np.ndarray) -> float:
    return float(((change @ second) * change).sum())
