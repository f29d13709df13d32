"""Small random networks of the operators that dlcomp takes, for comparison with onnxruntime.

A graph grows node by node: an operator is drawn, and with it operands among the values so far that it can
take, or new constants. Left out is what ONNX leaves open: division of integers by zero, casts of what does
not fit the type, indices out of bounds, powers of negative numbers.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from random_operators import DRAWS, Draw
from random_values import FLOAT, Graph, Value


def random_graph(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A network of 2 to 14 nodes and inputs for it."""
    rng = np.random.default_rng(seed)
    g = Graph(rng, int(rng.choice([11, 13, 18, 18, 18, 21])), int(rng.choice([0] * 11 + [6])))
    g.input(g.shape(), FLOAT)
    wanted = int(g.rng.integers(2, 15))
    while len(g.nodes) < wanted:
        before = len(g.nodes)
        draw: Draw = g.pick(*DRAWS)
        draw(g)
        if len(g.nodes) > before:
            _learn(g, before)
    # What nobody reads, and now and then what somebody does.
    read = {name for node in g.nodes for name in node.input}
    made = [name for node in g.nodes for name in node.output]
    outputs = [name for name in made if name not in read or g.rng.random() < 0.1]
    return _model(g, outputs), {v.name: g.array(v.shape, v.kind) for v in g.inputs}


def _model(g: Graph, outputs: list[str]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(v.name, v.kind, v.shape) for v in g.inputs]
    made = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(g.nodes, "random", inputs, made, g.stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _learn(g: Graph, before: int) -> None:
    """The shapes and types of the values that the last nodes made; nodes that make too much go again."""
    names = [name for node in g.nodes[before:] for name in node.output]
    inferred = {v.name: v.type.tensor_type for v in _model(g, names).graph.output}
    new = []
    for name in names:
        tensor = inferred[name]
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        if not tensor.HasField("shape") or min(dims, default=1) < 0 or np.prod(dims, dtype=int) > 50_000:
            del g.nodes[before:]
            return
        new.append(Value(name, dims, tensor.elem_type))
    g.values.extend(new)
