"""Channels of layers behind each other brought to equal ranges, so that one scale suits them all.

Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, sections
4.1 and 4.2. The network computes what it did: a channel that one layer makes smaller, the next makes larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dlcomp.compress.data import Calibration
from dlcomp.compress.equalize.absorb import absorb
from dlcomp.compress.equalize.pairs import Pair, by_inputs, by_outputs, pairs_of, scale_channels, upper_bound
from dlcomp.compress.layers import check_expressions, matches, weight_of
from dlcomp.compress.network import Network
from dlcomp.errors import ModelError, UsageError

__all__ = ["Equalize"]

_CLIPS = ("bound", "relu", "keep")
# Turns over all pairs, and the change of a factor that ends them.
_TURNS, _STILL = 50, 1e-3
# Of a channel in all: beyond, float32 would lose what it holds.
_LARGEST = 1e4


@dataclass(frozen=True)
class Equalize:
    """Ranges of weights made equal across layers; before ``quantize`` with one scale for a weight.

    Attributes
    ----------
    clip : str
        What becomes of a ReLU6 between two layers: ``bound``: an upper bound for each channel, exact;
        ``relu``: none, which differs where it was reached; ``keep``: the two layers stay as they are.
    absorb : bool
        Biases so high that a ReLU passes them in nearly all cases move to the next layer; needs data. Exact
        but for what lies three standard deviations below the mean.
    keep : tuple of str
        Regular expressions: layers whose name one is found in stay as they are.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    clip: str = "bound"
    absorb: bool = False
    keep: tuple[str, ...] = ()
    name: str = "equalize"

    def __post_init__(self) -> None:
        if self.clip not in _CLIPS:
            raise UsageError(f"clip cannot be {self.clip!r}", hint=", ".join(_CLIPS))
        check_expressions(self.keep)

    @property
    def needs_data(self) -> bool:
        return self.absorb

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Scale channels of ``network``; the account of the pairs and of the largest factor of each."""
        pairs = [pair for pair in pairs_of(network) if self._takes(pair)]
        if not pairs:
            raise ModelError(
                "it has no two convolutions or Gemm behind each other, nothing but ReLU and pooling between",
                where="equalize",
                hint="smooth is the pass for what normalisations feed",
            )
        for layer in (layer for pair in pairs for layer in (pair.first, pair.second)):
            network.own_weight(layer.node, layer.weight)
            if layer.bias is not None:
                network.own_weight(layer.node, layer.bias)
        factors = _factors(network, pairs)
        for pair, factor in zip(pairs, factors, strict=True):
            if pair.bounds is not None:
                self._bound(network, pair, factor)
        absorbed = absorb(network, pairs, data) if self.absorb and data is not None else 0
        spread = {
            p.title: round(float(np.maximum(f, 1 / f).max()), 3) for p, f in zip(pairs, factors, strict=True)
        }
        return {"pairs": len(pairs), "absorbed": absorbed, "largest_factor": spread}

    def _takes(self, pair: Pair) -> bool:
        kept = any(matches(layer.node, self.keep) for layer in (pair.first, pair.second))
        return not kept and (pair.bounds is None or self.clip != "keep")

    def _bound(self, network: Network, pair: Pair, factor: np.ndarray) -> None:
        """The Clip of ``pair`` as a Relu, and behind it the bounds of its channels."""
        clip = pair.bounds
        assert clip is not None
        bound = upper_bound(network, clip) / factor
        shape = (
            (1, -1)
            if pair.first.node.op_type == "Gemm"
            else (1, -1, *[1] * (weight_of(network, pair.first).ndim - 2))
        )
        made, relu = str(clip.output[0]), network.name(f"{clip.output[0]}_positive")
        bounds = network.name(f"{made}_bounds")
        new = [helper.make_node("Relu", [clip.input[0]], [made], name=clip.name)]
        if self.clip == "bound":
            network.set_weight(bounds, bound.reshape(shape).astype(np.float32))
            new[0].output[0] = relu
            new.append(helper.make_node("Min", [relu, bounds], [made], name=network.name(f"{made}_bounded")))

        def replaced(node: onnx.NodeProto) -> list[onnx.NodeProto]:
            return new if node.output[0] == made else [node]

        network.rewrite(replaced)


def _factors(network: Network, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """Scale the weights until all pairs are equal; by what each channel was divided.

    Of a depthwise convolution between two others, the pairs in turn end where all three ranges are the same:
    the cube root of their product (equation 11 for three layers).
    """
    factors = [np.ones(weight_of(network, pair.first).shape[pair.first.axis]) for pair in pairs]
    for _ in range(_TURNS):
        most = 1.0
        for number, pair in enumerate(pairs):
            factor = _factor(network, pair)
            bounded = np.clip(factors[number] * factor, 1 / _LARGEST, _LARGEST)
            factor, factors[number] = bounded / factors[number], bounded
            scale_channels(network, pair, factor)
            most = max(most, float(np.maximum(factor, 1 / factor).max()))
        if most < 1 + _STILL:
            break
    return factors


def _factor(network: Network, pair: Pair) -> np.ndarray:
    """sqrt(r1 / r2) for each channel; 1 where one of the ranges is nothing."""
    first = np.abs(by_outputs(network, pair.first)).max(axis=1, initial=0).astype(np.float64)
    second = np.abs(by_inputs(network, pair.second)).max(axis=(1, 3), initial=0).astype(np.float64)
    second = second.reshape(len(first), -1).max(axis=1)
    some = (first > 0) & (second > 0)
    return np.where(some, np.sqrt(np.where(some, first, 1.0) / np.where(some, second, 1.0)), 1.0)
