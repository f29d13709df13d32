"""Means and second moments of what a layer multiplies its weight with: the metric of its output's error.

For a weight W (O, K) and inputs x the mean square of an output's error is trace(E C E^T), E the change of W
and C = mean(x x^T). A convolution's inputs are its patches, K = I * KH * KW in the order of its weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer
from dlcomp.compress.network import Network, attributes_of
from dlcomp.compress.observe import runs
from dlcomp.frontend.recurrent import GATES

# Patches that are added at once, and those taken of one batch at most.
_ROWS = 4096
_PER_BATCH = 1024
# Larger matrices take more memory and time than their layer is worth: 4608 = 512 * 3 * 3 takes 170 MB.
MOST_INPUTS = 5000
RECURRENT = frozenset(GATES)


@dataclass
class Moments:
    """Sums over inputs x (K,).

    Attributes
    ----------
    count : int
    total : (K,) float64
    products : (K, K) float64
        The sum of x x^T.
    """

    count: int
    total: np.ndarray
    products: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(1, self.count)

    @property
    def second(self) -> np.ndarray:
        """The mean of x x^T."""
        return self.products / max(1, self.count)

    @property
    def covariance(self) -> np.ndarray:
        """That of x less its mean."""
        return self.second - np.outer(self.mean, self.mean)

    def add(self, rows: np.ndarray) -> None:
        """``rows`` (N, K)."""
        self.count += len(rows)
        self.total += rows.sum(axis=0, dtype=np.float64)
        # Sums of float32 are off by more than the least eigenvalues of inputs that depend on each other.
        exact = rows.astype(np.float64)
        self.products += exact.T @ exact


def as_matrix(layer: Layer, array: np.ndarray) -> np.ndarray | None:
    """The weight of ``layer`` as (O, K), a view; None if it is not one matrix for all of the data."""
    kind, attributes = layer.node.op_type, attributes_of(layer.node)
    padded = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET")
    if kind == "Conv" and attributes.get("group", 1) == 1 and padded:
        return array.reshape(len(array), -1)
    if array.ndim == 2 and kind in ("MatMul", "Gemm"):
        return array if layer.axis == 0 else array.T
    # Gates of all directions below each other: they read the same inputs.
    return array.reshape(-1, array.shape[-1]) if kind in RECURRENT else None


def has_bias(layer: Layer) -> bool:
    """Whether the layer has a bias or can be given one."""
    return layer.bias is not None or layer.node.op_type in ("Conv", "Gemm")


def from_matrix(layer: Layer, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The inverse of :func:`as_matrix`, as float32."""
    plain = matrix.T if layer.node.op_type in ("MatMul", "Gemm") and layer.axis else matrix
    return np.ascontiguousarray(plain.reshape(tuple(shape)), np.float32)


def moments_of(network: Network, layers: Iterable[Layer], data: Calibration) -> dict[str, Moments]:
    """The moments of the inputs of each layer, by the name of its output, over all of ``data``.

    Left out are layers that are not one matrix, or one of more than ``MOST_INPUTS`` inputs.
    """
    found: dict[str, Moments] = {}
    chosen = []
    memory = data.memory
    known = {} if memory is None else memory.of(network, "covariances")
    for layer in layers:
        if layer.output in known:
            found[layer.output] = known[layer.output]
            continue
        matrix = as_matrix(layer, network.weights[layer.node.input[layer.weight]])
        if matrix is not None and matrix.shape[1] <= MOST_INPUTS:
            size = matrix.shape[1]
            found[layer.node.output[0]] = Moments(0, np.zeros(size), np.zeros((size, size)))
            chosen.append(layer)
    if not chosen:
        return found
    waiting: dict[str, list[np.ndarray]] = {layer.output: [] for layer in chosen}
    for values in runs(network, {layer.data for layer in chosen}, data):
        for layer in chosen:
            held = waiting[layer.node.output[0]]
            held.append(_thinned(rows_of(network, layer, values)))
            if sum(map(len, held)) >= _ROWS:
                found[layer.node.output[0]].add(np.concatenate(held))
                held.clear()
    for name, held in waiting.items():
        if held:
            found[name].add(np.concatenate(held))
        if memory is not None and memory.takes(found[name].products.nbytes):
            known[name] = found[name]
    return found


def rows_of(network: Network, layer: Layer, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The inputs (N, K) of ``layer`` in one run."""
    array = np.asarray(values[layer.data], np.float32)
    if layer.node.op_type != "Conv":
        return array.reshape(-1, array.shape[-1])
    kernel = network.weights[layer.node.input[layer.weight]].shape[2:]
    return patches(array, kernel, layer)


def patches(array: np.ndarray, kernel: Sequence[int], layer: Layer) -> np.ndarray:
    """The patches (N * positions, I * KH * KW) of ``array`` (N, I, H, W) that a convolution sees."""
    attributes = attributes_of(layer.node)
    axes = len(kernel)
    pads = attributes.get("pads") or [0] * (2 * axes)
    strides = attributes.get("strides") or [1] * axes
    dilations = attributes.get("dilations") or [1] * axes
    padded = np.pad(array, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + axes)))
    steps = (slice(None, None, step) for step in strides)
    taps = (slice(None, None, step) for step in dilations)
    places = (slice(None), slice(None), *steps, *taps)
    positions = np.moveaxis(seen[places], 1, 1 + axes)
    return positions.reshape(-1, array.shape[1] * int(np.prod(kernel)))


def _thinned(rows: np.ndarray) -> np.ndarray:
    """At most ``_PER_BATCH`` rows: neighbouring patches say almost the same."""
    if len(rows) <= _PER_BATCH:
        return rows
    picked = np.random.default_rng(0).choice(len(rows), _PER_BATCH, replace=False)
    return np.asarray(rows[picked])
