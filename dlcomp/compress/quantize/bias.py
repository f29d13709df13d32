"""Biases: the mean error of outputs in them (Nagel et al., "Data-free quantization", 2019); their size."""

from __future__ import annotations

import numpy as np

from dlcomp.compress.layers import Layer, weight_of
from dlcomp.compress.network import Network, attributes_of
from dlcomp.compress.quantize.grid import Grid, span_of


def mean_error(layer: Layer, change: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """What the ``change`` of a weight adds to each output channel on average; None if it cannot be told.

    ``mean`` is that of the layer's data by channel.
    """
    kind = layer.node.op_type
    if kind == "MatMul":
        return np.asarray(mean @ change) if change.ndim == 2 else None
    if kind == "Gemm":
        matrix = change.T if layer.axis == 0 else change
        return np.asarray(mean @ matrix)
    if kind == "Conv":
        groups = int(attributes_of(layer.node).get("group", 1))
        outputs, per_group = change.shape[:2]
        taps = change.reshape(groups, outputs // groups, per_group, -1).sum(axis=-1)
        error: np.ndarray = np.einsum("goi,gi->go", taps, mean.reshape(groups, per_group)).reshape(-1)
        return error
    return None


def without_overflow(network: Network, layer: Layer, data: Grid | None, grid: Grid) -> Grid:
    """A coarser scale where a sum with its bias might not fit 32 bits: tiny weights with a large bias.

    The integers of an output's K weights are at most sum |w| / scale + K / 2 together, and what its bias
    takes of their rounding is not more than the K / 2 make; each meets an integer of at most ``span``.
    """
    if layer.bias is None or data is None:
        return grid
    weight = weight_of(network, layer).astype(np.float64)
    bias = np.abs(network.weights[layer.node.input[layer.bias]].astype(np.float64)).reshape(-1)
    sums = np.abs(np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], -1))
    span, count = span_of(data), sums.shape[1]
    most = max(2.0**31 - 2**10 - span * count, 2.0**30)
    least = (bias / float(data.scale) + span * sums.sum(axis=1)) / most
    if grid.axis is None:
        return Grid(np.maximum(grid.scale, np.float32(least.max(initial=0))), grid.zero)
    return Grid(np.maximum(grid.scale, least.astype(np.float32)), grid.zero, grid.axis)
