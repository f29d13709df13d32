"""Quantize and dequantize nodes around the operators of a plan: the standard QDQ form of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from dlcomp.compress.layers import Layer
from dlcomp.compress.network import Network
from dlcomp.compress.quantize.grid import Grid, span_of
from dlcomp.compress.quantize.plan import Plan


def write_activations(network: Network, plan: Plan, grids: Mapping[str, Grid]) -> dict[str, str]:
    """Every value of ``grids`` rounded to its integers where integer operators read it, by its new name."""
    read: dict[str, str] = {}
    made: dict[str, list[onnx.NodeProto]] = {}
    for name, grid in grids.items():
        scale, zero = _parameters(network, name, grid)
        integers, reals = network.name(f"{name}_quantized"), network.name(f"{name}_dequantized")
        read[name] = reals
        made[name] = [
            helper.make_node("QuantizeLinear", [name, scale, zero], [integers], name=integers),
            helper.make_node("DequantizeLinear", [integers, scale, zero], [reals], name=reals),
        ]
    entering = [node for name in network.inputs for node in made.get(name, ())]

    def function(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        for place, name in enumerate(node.input):
            if (node.output[0], place) in plan.reads and name in read:
                node.input[place] = read[name]
        return [node, *(new for name in node.output for new in made.get(name, ()))]

    network.rewrite(function)
    for index, node in enumerate(entering):
        network.proto.graph.node.insert(index, node)
    return read


def write_weight(network: Network, layer: Layer, grid: Grid, integers: np.ndarray, packed: bool) -> None:
    """The weight of ``layer`` as integers that are read back where it is used; 4 bits each if ``packed``."""
    write_stored(network, layer.node, layer.weight, grid, integers, packed)


def write_stored(
    network: Network, node: onnx.NodeProto, place: int, grid: Grid, integers: np.ndarray, packed: bool
) -> None:
    """What ``node`` reads at ``place`` as integers that are read back there; 4 bits each if ``packed``."""
    stored = network.name(f"{node.input[place]}_quantized")
    kind = np.dtype(ml_dtypes.int4) if packed else integers.dtype
    network.set_weight(stored, integers.astype(kind))
    _dequantized(network, node, place, stored, replace(grid, zero=grid.zero.astype(kind)))


def write_bias(
    network: Network, layer: Layer, bias: np.ndarray, data: Grid, weight: Grid, integers: np.ndarray
) -> None:
    """The bias as 32-bit integers at the scale of the sums: that of the data by that of the weight.

    So far from the ends of 32 bits that no sum of the layer's ``integers`` by what it reads gets there.
    """
    assert layer.bias is not None
    scale = np.broadcast_to(data.scale * weight.scale, bias.shape).astype(np.float32)
    held = np.abs(np.moveaxis(integers, layer.axis, 0).reshape(len(bias), -1).astype(np.int64))
    most = np.maximum(np.iinfo(np.int32).max - span_of(data) * held.sum(axis=1), 0)
    stored = network.name(f"{layer.node.input[layer.bias]}_quantized")
    sums = np.clip(np.rint(bias.astype(np.float64) / scale), -most, most).astype(np.int32)
    network.set_weight(stored, sums)
    _dequantized(network, layer.node, layer.bias, stored, Grid(scale, np.zeros(bias.shape, np.int32), 0))


def replaced(network: Network, result: str, made: list[onnx.NodeProto]) -> None:
    """The nodes ``made`` in the place of the one that makes ``result``."""
    network.rewrite(lambda node: made if list(node.output) == [result] else [node])


def _dequantized(network: Network, reader: onnx.NodeProto, place: int, stored: str, grid: Grid) -> None:
    reals = network.name(f"{stored}_dequantized")
    attributes = {} if grid.axis is None else {"axis": grid.axis}
    attributes |= {"block_size": grid.group} if grid.group else {}
    scale, zero = _parameters(network, stored, grid)
    node = helper.make_node("DequantizeLinear", [stored, scale, zero], [reals], name=reals, **attributes)
    reader.input[place] = reals
    network.proto.graph.node.insert(0, node)


def _parameters(network: Network, name: str, grid: Grid) -> tuple[str, str]:
    scale, zero = network.name(f"{name}_scale"), network.name(f"{name}_zero")
    network.set_weight(scale, grid.scale)
    network.set_weight(zero, grid.zero)
    return scale, zero
