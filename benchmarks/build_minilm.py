"""all-MiniLM-L6-v2 as ONNX, from its safetensors weights.

Architecture: Devlin et al., BERT (2018): 6 layers, hidden size 384, 12 heads, exact GELU; then the mean over
the tokens that the mask keeps, normalised to length 1 (Reimers and Gurevych, Sentence-BERT, 2019).
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_graph import GraphBuilder

_LAYERS, _HEADS, _HIDDEN = 6, 12, 384
_EPSILON = 1e-12
_DTYPES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


def build(weights: Path) -> onnx.ModelProto:
    """``input_ids``, ``attention_mask`` (N, S) int64 -> ``last_hidden_state``, ``sentence_embedding``."""
    state = read_safetensors(weights)
    graph = GraphBuilder()
    x = _embed(graph, state)
    bias = _mask_bias(graph)
    for layer in range(_LAYERS):
        x = _layer(graph, state, x, bias, f"encoder.layer.{layer}")
    graph.op("Identity", x, name="last_hidden_state")
    _pool(graph, x)
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "S"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", "S", _HIDDEN]),
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["N", _HIDDEN]),
    ]
    return graph.finish("minilm", ids, outputs)


def _embed(graph: GraphBuilder, state: dict[str, np.ndarray]) -> str:
    """Words, positions 0 to S - 1, and segment 0 (added to the positions here)."""
    words = graph.weight("embeddings.words", state["embeddings.word_embeddings.weight"])
    segment = state["embeddings.token_type_embeddings.weight"][:1]
    table = graph.weight("embeddings.positions", state["embeddings.position_embeddings.weight"] + segment)
    x = graph.op("Gather", words, "input_ids", name="embeddings.gather", axis=0)
    shape = graph.op("Shape", "input_ids", name="embeddings.shape")
    length = graph.op("Slice", shape, _ints(graph, 1), _ints(graph, 2), name="embeddings.length")
    positions = graph.op("Slice", table, _ints(graph, 0), length, _ints(graph, 0), name="embeddings.slice")
    x = graph.op("Add", x, positions, name="embeddings.add")
    return _norm(graph, state, x, "embeddings.LayerNorm")


def _mask_bias(graph: GraphBuilder) -> str:
    """0 for kept tokens and -10000 for padding, (N, 1, 1, S)."""
    mask = graph.op("Cast", "attention_mask", name="mask.float", to=TensorProto.FLOAT)
    mask = graph.op("Unsqueeze", mask, _ints(graph, 1, 2), name="mask.unsqueeze")
    padding = graph.op("Sub", _float(graph, 1.0), mask, name="mask.padding")
    return graph.op("Mul", padding, _float(graph, -10000.0), name="mask.bias")


def _layer(graph: GraphBuilder, state: dict[str, np.ndarray], x: str, bias: str, name: str) -> str:
    """Self-attention and feed-forward, each with a residual and a normalisation after it."""
    attention = f"{name}.attention"
    query, key, value = (
        _heads(graph, _dense(graph, state, x, f"{attention}.self.{part}"), f"{attention}.self.{part}", order)
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
    )
    scores = graph.op("MatMul", query, key, name=f"{attention}.scores")
    scale = _float(graph, 1 / math.sqrt(_HIDDEN // _HEADS))
    scores = graph.op("Mul", scores, scale, name=f"{attention}.scaled")
    scores = graph.op("Add", scores, bias, name=f"{attention}.masked")
    weights = graph.op("Softmax", scores, name=f"{attention}.softmax", axis=-1)
    mixed = graph.op("MatMul", weights, value, name=f"{attention}.mixed")
    mixed = graph.op("Transpose", mixed, name=f"{attention}.merge", perm=[0, 2, 1, 3])
    mixed = graph.op("Reshape", mixed, _ints(graph, 0, 0, _HIDDEN), name=f"{attention}.merged")
    mixed = _dense(graph, state, mixed, f"{attention}.output.dense")
    x = graph.op("Add", mixed, x, name=f"{attention}.residual")
    x = _norm(graph, state, x, f"{attention}.output.LayerNorm")

    y = _dense(graph, state, x, f"{name}.intermediate.dense")
    y = _gelu(graph, y, f"{name}.gelu")
    y = _dense(graph, state, y, f"{name}.output.dense")
    y = graph.op("Add", y, x, name=f"{name}.residual")
    return _norm(graph, state, y, f"{name}.output.LayerNorm")


def _heads(graph: GraphBuilder, x: str, name: str, order: list[int]) -> str:
    """(N, S, hidden) to (N, S, heads, width), then transposed by ``order``."""
    shape = _ints(graph, 0, 0, _HEADS, _HIDDEN // _HEADS)
    return graph.op(
        "Transpose", graph.op("Reshape", x, shape, name=f"{name}.split"), name=f"{name}.heads", perm=order
    )


def _gelu(graph: GraphBuilder, x: str, name: str) -> str:
    """x / 2 (1 + erf(x / sqrt 2))."""
    y = graph.op("Div", x, _float(graph, math.sqrt(2)), name=f"{name}.scaled")
    y = graph.op("Erf", y, name=f"{name}.erf")
    y = graph.op("Add", y, _float(graph, 1.0), name=f"{name}.shifted")
    y = graph.op("Mul", x, y, name=f"{name}.product")
    return graph.op("Mul", y, _float(graph, 0.5), name=f"{name}.half")


def _pool(graph: GraphBuilder, x: str) -> None:
    """The mean of the kept tokens, at length 1."""
    mask = graph.op("Unsqueeze", "mask.float", _ints(graph, 2), name="pool.mask")
    total = graph.op(
        "ReduceSum", graph.op("Mul", x, mask, name="pool.kept"), _ints(graph, 1), name="pool.sum", keepdims=0
    )
    count = graph.op("ReduceSum", mask, _ints(graph, 1), name="pool.count", keepdims=0)
    mean = graph.op(
        "Div", total, graph.op("Max", count, _float(graph, 1e-9), name="pool.some"), name="pool.mean"
    )
    square = graph.op("Mul", mean, mean, name="pool.square")
    length = graph.op(
        "Sqrt", graph.op("ReduceSum", square, _ints(graph, 1), name="pool.squares"), name="pool.length"
    )
    length = graph.op("Max", length, _float(graph, 1e-12), name="pool.positive")
    graph.op("Div", mean, length, name="sentence_embedding")


def _dense(graph: GraphBuilder, state: dict[str, np.ndarray], x: str, name: str) -> str:
    weight = graph.weight(f"{name}.weight", state[f"{name}.weight"].T)
    bias = graph.weight(f"{name}.bias", state[f"{name}.bias"])
    return graph.op("Add", graph.op("MatMul", x, weight, name=f"{name}.matmul"), bias, name=name)


def _norm(graph: GraphBuilder, state: dict[str, np.ndarray], x: str, name: str) -> str:
    parameters = [graph.weight(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias")]
    return graph.op("LayerNormalization", x, *parameters, name=name, axis=-1, epsilon=_EPSILON)


def _ints(graph: GraphBuilder, *values: int) -> str:
    return graph.weight(f"ints {' '.join(map(str, values))}", np.array(values, "int64"))


def _float(graph: GraphBuilder, value: float) -> str:
    return graph.weight(f"float {value}", np.array(value, "float32"))


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file: the header's length (uint64), a JSON header, then the tensors' bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        raw = data[8 + length + first : 8 + length + last]
        arrays[name] = np.frombuffer(raw, _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
