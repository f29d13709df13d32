"""Tables of embeddings as 8-bit integers with a scale for each row, made floats where a row is looked up.

Two lookups, of the integers and of their scales, and a product: what every runtime has, and only what is read
becomes floats.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from dlcomp.compress.layers import matches
from dlcomp.compress.network import Network, attributes_of
from dlcomp.compress.quantize.grid import grid_of_weight
from dlcomp.compress.quantize.write import replaced

# Smaller ones are numbers of something, and no embeddings.
_LEAST_SIZE = 1024


def write_tables(network: Network, keep: tuple[str, ...], search: bool) -> int:
    """Every stored table (rows, columns) that rows are looked up in; how many lookups there are."""
    tables: dict[str, tuple[str, str]] = {}
    found = 0
    for node in list(network.nodes):
        if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or matches(node, keep):
            continue
        name, places = node.input
        table = network.weights.get(name)
        if table is None or table.dtype != np.float32 or table.ndim != 2 or table.size < _LEAST_SIZE:
            continue
        if attributes_of(node).get("axis", 0) != 0:
            continue
        if name not in tables:
            grid = grid_of_weight(table, 8, 0, search)
            tables[name] = network.name(f"{name}_quantized"), network.name(f"{name}_scale")
            network.set_weight(tables[name][0], grid.integers(table, -127, 127))
            network.set_weight(tables[name][1], grid.scale[:, None])
        stored, scale = tables[name]
        result = node.output[0]
        parts = [network.name(f"{result}_{part}") for part in ("whole", "real", "scale")]
        made = [
            helper.make_node("Gather", [stored, places], [parts[0]], name=parts[0]),
            helper.make_node("Cast", [parts[0]], [parts[1]], name=parts[1], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scale, places], [parts[2]], name=parts[2]),
            helper.make_node("Mul", [parts[1], parts[2]], [result], name=node.name),
        ]
        replaced(network, result, made)
        found += 1
    return found
