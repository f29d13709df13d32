"""High biases moved to the next layer (Nagel et al., "Data-free quantization", 2019, section 4.1.3).

What a ReLU nearly always passes by at least c, it passes without it too: c leaves the bias in front of it,
and the next layer adds what c would have made. The range of the values between the two becomes smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.equalize.pairs import Pair, by_inputs, pairs_of
from dlcomp.compress.layers import weight_of
from dlcomp.compress.network import Network, attributes_of
from dlcomp.compress.observe import runs
from dlcomp.compress.reconstruct import bias_of, set_bias

# Standard deviations below the mean that still count.
_DEVIATIONS = 3


def absorb(network: Network, pairs: Sequence[Pair], data: Calibration) -> int:
    """Move biases of ``pairs``, and return of how many channels.

    Only where the second layer pads nothing, as zeros at its edges would lack c, and where there is one ReLU
    between the two.
    """
    chosen = {pair.first.output for pair in pairs if _one_relu(pair) and not _pads(pair)}
    if not chosen:
        return 0
    for pair in pairs:
        for layer in (pair.first, pair.second):
            if layer.output in chosen or pair.first.output in chosen:
                set_bias(network, layer, bias_of(network, layer))
    fit = [pair for pair in pairs_of(network) if pair.first.output in chosen]
    mean, deviation = _moments(network, fit, data)
    moved = 0
    for pair in fit:
        name = pair.first.output
        high = np.maximum(0.0, mean[name] - _DEVIATIONS * deviation[name])
        if not high.any():
            continue
        moved += int((high > 0).sum())
        first, second = bias_of(network, pair.first), bias_of(network, pair.second)
        split = by_inputs(network, pair.second).astype(np.float64).sum(axis=3)
        added = np.einsum("goi,gi->go", split, high.reshape(len(split), -1)).reshape(-1)
        network.set_weight(pair.first.node.input[2], (first - high).astype(np.float32))
        network.set_weight(pair.second.node.input[2], (second + added).astype(np.float32))
    return moved


def _one_relu(pair: Pair) -> bool:
    return pair.bounds is None and [node.op_type for node in pair.between] == ["Relu"]


def _pads(pair: Pair) -> bool:
    attributes = attributes_of(pair.second.node)
    named = attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return named or any(attributes.get("pads", ()))


def _moments(
    network: Network, pairs: Sequence[Pair], data: Calibration
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The mean and the standard deviation of each channel that the first layers make."""
    sums = {
        pair.first.output: np.zeros((2, weight_of(network, pair.first).shape[pair.first.axis]))
        for pair in pairs
    }
    count = dict.fromkeys(sums, 0)
    for values in runs(network, list(sums), data):
        for name, total in sums.items():
            rows = np.moveaxis(values[name], 1, 0).reshape(total.shape[1], -1).astype(np.float64)
            total += np.stack([rows.sum(axis=1), np.square(rows).sum(axis=1)])
            count[name] += rows.shape[1]
    mean = {name: total[0] / count[name] for name, total in sums.items()}
    deviation = {
        name: np.sqrt(np.maximum(0.0, total[1] / count[name] - mean[name] ** 2))
        for name, total in sums.items()
    }
    return mean, deviation
