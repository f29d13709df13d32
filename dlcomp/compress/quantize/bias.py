"""Corrects the mean error of a layer's outputs in its bias (Nagel et al., "Data-free quantization", 2019)."""

from __future__ import annotations

import numpy as np

from dlcomp.compress.layers import Layer
from dlcomp.compress.network import attributes_of


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
