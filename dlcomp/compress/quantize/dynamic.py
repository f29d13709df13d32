"""Products whose activations are rounded when the network runs, and recurrent layers with stored integers.

The scale of what a product reads is that of the values of this very run, so that no calibration is needed:
ONNX's DynamicQuantizeLinear, then MatMulInteger. Convolutions stay what they are, as their integers are
slower than floats where ranges must be found first (onnxruntime's issue 12854). A recurrent layer reads its
state at every step; there the weights alone become integers, in a standard node that every runtime has.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from dlcomp.compress.layers import Layer, matches, weight_of
from dlcomp.compress.network import Network
from dlcomp.compress.quantize.grid import Grid, grid_of_weight
from dlcomp.compress.quantize.write import replaced, write_stored
from dlcomp.frontend.recurrent import GATES

# Their weights: of inputs and of states, (directions, gates * hidden, ...).
_PLACES, _AXIS = (1, 2), 1


def is_product(network: Network, layer: Layer) -> bool:
    """Whether the layer multiplies by a stored matrix."""
    return layer.node.op_type in ("MatMul", "Gemm") and weight_of(network, layer).ndim == 2


def write_dynamic(network: Network, layer: Layer, grid: Grid, integers: np.ndarray) -> None:
    """The product of ``layer`` on integers, in its place; products of one value share its rounding."""
    node = layer.node
    whole, scale, zero = (f"{layer.data}_dynamic_{part}" for part in ("whole", "scale", "zero"))
    rounding = helper.make_node("DynamicQuantizeLinear", [layer.data], [whole, scale, zero], name=whole)
    is_new = all(whole not in other.output for other in network.nodes)
    stored = network.name(f"{node.input[layer.weight]}_quantized")
    network.set_weight(stored, np.ascontiguousarray(integers.T if layer.axis == 0 else integers))
    factor = network.name(f"{stored}_scale")
    network.set_weight(factor, grid.scale)
    (result,) = node.output
    names = {part: network.name(f"{result}_{part}") for part in ("sum", "real", "scale", "product")}
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] else ""
    made = [
        *([rounding] if is_new else []),
        helper.make_node("MatMulInteger", [whole, stored, zero], [names["sum"]], name=names["sum"]),
        helper.make_node("Cast", [names["sum"]], [names["real"]], name=names["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, factor], [names["scale"]], name=names["scale"]),
        helper.make_node(
            "Mul", [names["real"], names["scale"]], [names["product"] if bias else result], name=node.name
        ),
    ]
    if bias:
        made.append(helper.make_node("Add", [names["product"], bias], [result], name=names["product"]))
    replaced(network, result, made)


def write_recurrent(network: Network, keep: tuple[str, ...], bits: int, search: bool, packed: bool) -> int:
    """Weights of recurrent layers as integers with a scale for each gate's outputs; how many layers."""
    found = 0
    for node in list(network.nodes):
        if node.op_type not in GATES or node.domain not in ("", "ai.onnx") or matches(node, keep):
            continue
        floats = [
            place
            for place in _PLACES
            if node.input[place] in network.weights and network.weights[node.input[place]].dtype == np.float32
        ]
        for place in floats:
            network.own_weight(node, place)
            weight = network.weights[node.input[place]]
            grid = grid_of_weight(weight, bits, _AXIS, search)
            most = 2 ** (bits - 1) - 1
            write_stored(network, node, place, grid, grid.integers(weight, -most, most), packed)
        found += bool(floats)
    return found
