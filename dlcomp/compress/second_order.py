"""Second moments of what layers read: the Hessians X^T X of the squared error of their outputs.

The error that other weights W' make in a layer's outputs is tr((W - W') H (W - W')^T), so H is all that OBS,
SparseGPT and GPTQ need to know of the data, and its diagonal all that Wanda needs. Where the layer has a
bias, the mean error can go into it, and what remains is measured by the covariance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, weight_of
from dlcomp.compress.matrices import rows, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.observe import runs
from dlcomp.errors import UsageError

# Windows of a convolution that are taken of each sample; neighbours say nearly the same.
POSITIONS = 256
# Bytes of Hessians that are held at a time; layers beyond have another pass over the data.
_BUDGET = 1 << 30
# Of sums in float32, relative to the squares of what is added.
_ROUNDING = 1e-6
# Inputs of a layer: a Hessian of 2 GiB, and its inverse besides.
_LARGEST = 1 << 14
# However few samples there are, so much of their covariances is noise at most.
_TRUST = 0.9


@dataclass
class Moments:
    """First and second moments of rows of K numbers, over a stream of them.

    Attributes
    ----------
    products : (G, K, K) float64
        Sums of x x^T; a chunk is multiplied in float32 and added in float64.
    total : (G, K) float64
    count : int
        Rows seen.
    independent : float
        As how many rows they count that have nothing to do with each other.
    """

    products: np.ndarray = field(default_factory=lambda: np.zeros(()))
    total: np.ndarray = field(default_factory=lambda: np.zeros(()))
    count: int = 0
    independent: float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Count ``(G, B, N, K)``, N rows of each of B samples; those that are not finite are left out.

        Windows of one picture are alike: N of them count as the square root of N.
        """
        self.independent += rows.shape[1] * math.sqrt(rows.shape[2])
        chunk = rows.reshape(len(rows), -1, rows.shape[-1])
        finite = np.isfinite(chunk).all(axis=(0, 2))
        if not finite.all():
            chunk = chunk[:, finite]
        self.products = self.products + np.matmul(chunk.transpose(0, 2, 1), chunk)
        self.total = self.total + chunk.sum(axis=1, dtype=np.float64)
        self.count += chunk.shape[1]

    @property
    def mean(self) -> np.ndarray:
        """(G, K)"""
        return np.asarray(self.total / max(1, self.count))

    def hessian(self, centred: bool) -> np.ndarray:
        """(G, K, K): the mean of x x^T, or the covariance if a bias takes the mean error.

        Raises
        ------
        UsageError
            Nothing that was read is finite.
        """
        if not self.count:
            raise UsageError(
                "no sample of the calibration data is finite all through the network",
                hint="prepare the samples as the network is used",
            )
        second = self.products / self.count
        return second - self.mean[:, :, None] * self.mean[:, None, :] if centred else second

    def damped(self, centred: bool, damping: float) -> np.ndarray:
        """The Hessians with ``damping`` times the mean of their diagonal added to it: positive definite.

        A fit by them stays near the weights that it starts from where the data say little. Of few samples for
        the number of inputs, the data are trusted as far as by oracle approximating shrinkage (Chen et al.,
        2010, equation 23).
        """
        made = self.hessian(centred)
        diagonal = np.einsum("gkk->gk", made)
        share = np.maximum(damping, self._shrinkage(made))
        ridge = share[:, None] * diagonal.mean(axis=1, keepdims=True)
        # What rounding leaves of a covariance far below the squared means is no variance.
        ridge += _ROUNDING * np.einsum("gkk->gk", self.products).mean(axis=1, keepdims=True) / self.count
        diagonal += np.where(ridge > 0, ridge, 1.0)
        return made

    def _shrinkage(self, made: np.ndarray) -> np.ndarray:
        """(G,): what to add to the diagonal, of its mean, for as many independent rows."""
        inputs = made.shape[1]
        squares = np.square(made).sum(axis=(1, 2))
        trace = np.square(np.einsum("gkk->g", made))
        spread = (self.independent + 1 - 2 / inputs) * (squares - trace / inputs)
        share = ((1 - 2 / inputs) * squares + trace) / np.where(spread > 0, spread, np.inf)
        bounded = np.clip(share, 0.0, _TRUST)
        return np.asarray(bounded / (1 - bounded))


def second_order(
    network: Network, layers: Sequence[Layer], data: Calibration, positions: int = POSITIONS
) -> Iterator[tuple[Layer, Moments]]:
    """The moments of what each layer reads, over all of ``data``.

    As many layers share a pass over the data as have Hessians of 1 GiB together; layers that read the same
    value in the same way (queries, keys and values of an attention) share their moments.

    Raises
    ------
    UsageError
        A layer has more inputs than 16384.
    """
    for layer in layers:
        shape = weight_of(network, layer).shape
        inputs = math.prod(shape) // shape[layer.axis]
        if inputs > _LARGEST:
            raise UsageError(
                f"a Hessian is of at most {_LARGEST} inputs, {layer.name} {list(shape)} has {inputs}",
                hint="leave the layer out with keep, or use method=magnitude",
            )
    memory = data.memory
    known = {} if memory is None else memory.of(network, f"moments {positions}")
    for layer in layers:
        if _reads(network, layer) in known:
            yield layer, known[_reads(network, layer)]
    for wave in _waves(network, [layer for layer in layers if _reads(network, layer) not in known]):
        found = {key: Moments() for key in wave}
        names = {members[0].data for members in wave.values()}
        for number, values in enumerate(runs(network, names, data)):
            for key, members in wave.items():
                kernel = kernel_of(network, members[0])
                for chunk in rows(members[0], kernel, values[members[0].data], positions, number):
                    found[key].add(chunk)
        for key, members in wave.items():
            moments = found.pop(key)
            if memory is not None and memory.takes(moments.products.nbytes):
                known[key] = moments
            for layer in members:
                yield layer, moments


def kernel_of(network: Network, layer: Layer) -> tuple[int, ...]:
    """The spatial extent of a convolution's weight, () of a matrix product."""
    shape = weight_of(network, layer).shape
    return tuple(shape[2:]) if layer.node.op_type == "Conv" else ()


def _waves(network: Network, layers: Sequence[Layer]) -> Iterator[dict[str, list[Layer]]]:
    """Layers by what they read, in order, as many at a time as the budget holds (at least one)."""
    wave: dict[str, list[Layer]] = {}
    held = 0
    for layer in layers:
        key = _reads(network, layer)
        if key not in wave:
            groups, _, inputs = to_matrices(layer, weight_of(network, layer)).shape
            size = 8 * groups * inputs**2
            if wave and held + size > _BUDGET:
                yield wave
                wave, held = {}, 0
            held += size
        wave.setdefault(key, []).append(layer)
    if wave:
        yield wave


def _reads(network: Network, layer: Layer) -> str:
    """What decides the rows of a layer, as text: the value and, of a convolution, its windows."""
    if layer.node.op_type != "Conv":
        return layer.data
    windows = sorted(a.SerializeToString() for a in layer.node.attribute)
    return f"{layer.data} {kernel_of(network, layer)} {windows!r}"
