"""Which layers a network loses most by when they are quantized, for the multiply-accumulates that they have.

Each is quantized alone, its weight and what it reads, and the network's answers are compared with those that
it gave (Wu et al., "Integer quantization for deep learning inference", 2020, section 6.2). One network is
compiled for all of them: it takes the weights as inputs, and a gate for each layer lets what rounding changes
of its data through, or nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from dlcomp.compress.data import Calibration, Feed
from dlcomp.compress.judge import Judge
from dlcomp.compress.layers import Layer
from dlcomp.compress.network import Network
from dlcomp.compress.observe import Watched
from dlcomp.compress.progress import shown
from dlcomp.compress.quantize.grid import Grid
from dlcomp.errors import ModelError
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import macs_of_nodes

# Batches of the data that losses are found on: they only order the layers.
_BATCHES = 32


def spared(
    network: Network,
    layers: Sequence[Layer],
    grids: Mapping[str, Grid],
    weights: Mapping[str, np.ndarray],
    data: Calibration,
    share: float,
) -> tuple[str, ...]:
    """The layers that stay as they are, by name, so that at least ``share`` of the MACs of all are quantized.

    Greedily, what loses most for its MACs first.

    Parameters
    ----------
    grids : mapping of str to Grid
        Of what layers read.
    weights : mapping of str to numpy.ndarray
        Rounded weights as floats, by what the layer makes.

    Raises
    ------
    ModelError
        The MACs of a layer are not known.
    """
    macs = _macs(network, layers)
    found = losses(network, layers, grids, weights, data)
    left = (1 - share) * sum(macs.values())
    chosen = []
    for name in sorted(found, key=lambda name: found[name] / max(1, macs[name]), reverse=True):
        if found[name] > 0 and macs[name] <= left:
            left -= macs[name]
            chosen.append(name)
    return tuple(chosen)


def losses(
    network: Network,
    layers: Sequence[Layer],
    grids: Mapping[str, Grid],
    weights: Mapping[str, np.ndarray],
    data: Calibration,
) -> dict[str, float]:
    """What the network loses by each layer alone: relative entropy of classes, the error of other outputs."""
    trial = network.copy()
    owned = {layer.output: str(layer.node.input[layer.weight]) for layer in layers}
    gates = _gated(trial, layers, grids)
    watched = Watched(trial, trial.outputs, [*gates.values(), *owned.values()])

    def run(feed: Feed) -> list[np.ndarray]:
        values = next(watched.over([feed]))
        return [values[name] for name in trial.outputs]

    feeds = list(itertools.islice(data, _BATCHES))
    judge = Judge(run, feeds, None)
    by_name: dict[str, list[Layer]] = {}
    for layer in layers:
        by_name.setdefault(layer.name, []).append(layer)
    found: dict[str, float] = {}
    for name, some in shown(by_name.items(), "comparing layers", len(by_name)):
        for layer in some:
            trial.set_weight(gates[layer.output], np.array(1, np.float32))
            trial.set_weight(owned[layer.output], weights[layer.output])
        score = judge.score(run)
        found[name] = score.kl if judge.gives_classes else score.error
        for layer in some:
            trial.set_weight(gates[layer.output], np.array(0, np.float32))
            trial.set_weight(owned[layer.output], network.weights[owned[layer.output]])
    return found


def _gated(network: Network, layers: Sequence[Layer], grids: Mapping[str, Grid]) -> dict[str, str]:
    """A number for each layer, by what it makes: how much of what rounding changes of its data it reads."""
    gates: dict[str, str] = {}
    before: dict[str, list[onnx.NodeProto]] = {}
    read: dict[str, str] = {}
    for layer in layers:
        parts = ("scale", "zero", "whole", "real", "change", "gate", "part", "read")
        names = {part: network.name(f"{layer.output}_{part}") for part in parts}
        grid = grids[layer.data]
        network.set_weight(names["scale"], grid.scale)
        network.set_weight(names["zero"], grid.zero)
        network.set_weight(names["gate"], np.array(0, np.float32))
        scaled = [names["scale"], names["zero"]]
        before[layer.output] = [
            helper.make_node("QuantizeLinear", [layer.data, *scaled], [names["whole"]]),
            helper.make_node("DequantizeLinear", [names["whole"], *scaled], [names["real"]]),
            helper.make_node("Sub", [names["real"], layer.data], [names["change"]]),
            helper.make_node("Mul", [names["change"], names["gate"]], [names["part"]]),
            helper.make_node("Add", [layer.data, names["part"]], [names["read"]]),
        ]
        gates[layer.output], read[layer.output] = names["gate"], names["read"]

    def function(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        result = node.output[0] if node.output else ""
        if result in read:
            node.input[0] = read[result]
        return [*before.get(result, ()), node]

    network.rewrite(function)
    return gates


def _macs(network: Network, layers: Sequence[Layer]) -> dict[str, int]:
    known = {node.output[0]: macs for node, macs in macs_of_nodes(inferred(network.proto))}
    found: dict[str, int] = {}
    for layer in layers:
        macs = known.get(layer.output)
        if macs is None:
            raise ModelError(
                f"how much {layer.name} multiplies is not known",
                where="quantize",
                hint="bind the sizes of the inputs (--shape), or name the layers with keep",
            )
        found[layer.name] = found.get(layer.name, 0) + macs
    return found
