"""Deterministic damage to ONNX files: bytes flipped, cut, inserted, and fields of the message changed."""

from __future__ import annotations

from collections.abc import Callable

import networks
import numpy as np
import onnx
from onnx import TensorProto

Rng = np.random.Generator

BASES: tuple[Callable[[], onnx.ModelProto], ...] = (networks.cnn, networks.mlp, networks.quantized)
_ODD_NUMBERS = (-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 5, 255, 2**20, 2**31 - 1, 2**40, 2**63 - 1)
_OPS = (
    "Relu",
    "Conv",
    "Gemm",
    "Reshape",
    "Concat",
    "Split",
    "Pad",
    "Resize",
    "Loop",
    "Nonsense",
    "TopK",
    "Identity",
)
_OPS += (
    "Softmax",
    "MaxPool",
    "Slice",
    "Expand",
    "ConstantOfShape",
    "Range",
    "Tile",
    "Squeeze",
    "Transpose",
    "Einsum",
)


def mutant(case: int) -> bytes:
    """The damaged file number ``case``."""
    rng = np.random.default_rng(case)
    network = BASES[case % len(BASES)]()
    if rng.random() < 0.35:
        return _damage(network.SerializeToString(), rng)
    for _ in range(int(rng.integers(1, 4))):
        edit = _EDITS[int(rng.integers(len(_EDITS)))]
        edit(network, rng)
    return network.SerializeToString()


def _damage(data: bytes, rng: Rng) -> bytes:
    kind = int(rng.integers(5))
    array = bytearray(data)
    if kind == 0:
        return data[: int(rng.integers(len(data)))]
    if kind == 1:
        start = int(rng.integers(len(data)))
        del array[start : start + int(rng.integers(1, 64))]
    elif kind == 2:
        start = int(rng.integers(len(data)))
        array[start:start] = rng.bytes(int(rng.integers(1, 32)))
    elif kind == 3:
        for position in rng.integers(0, len(data), int(rng.integers(1, 9))):
            array[position] = int(rng.integers(256))
    else:
        # The message's structure is in its short fields; damage outside long runs of weights.
        for position in rng.integers(0, len(data), 200)[: int(rng.integers(1, 4))]:
            array[position] ^= 1 << int(rng.integers(8))
    return bytes(array)


def _pick(items, rng: Rng):  # type: ignore[no-untyped-def]
    return items[int(rng.integers(len(items)))] if len(items) else None


def _remove_node(network: onnx.ModelProto, rng: Rng) -> None:
    if network.graph.node:
        del network.graph.node[int(rng.integers(len(network.graph.node)))]


def _duplicate_node(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(network.graph.node, rng)
    if node is not None:
        network.graph.node.append(node)


def _swap_nodes(network: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(network.graph.node)
    rng.shuffle(nodes)  # type: ignore[arg-type]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del network.graph.node[:]
    network.graph.node.extend(copies)


def _values(network: onnx.ModelProto) -> list[str]:
    graph = network.graph
    names = [v.name for v in graph.input] + [t.name for t in graph.initializer]
    return names + [output for node in graph.node for output in node.output]


def _rename_operand(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(network.graph.node, rng)
    if node is not None and node.input:
        names = [*_values(network), "", "nowhere"]
        node.input[int(rng.integers(len(node.input)))] = _pick(names, rng)


def _drop_or_add_operand(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(network.graph.node, rng)
    if node is None:
        return
    if rng.random() < 0.5 and node.input:
        del node.input[-1]
    else:
        node.input.append(_pick(_values(network), rng))


def _rename_output(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(network.graph.node, rng)
    if node is not None and node.output:
        node.output[0] = _pick([*_values(network), ""], rng)


def _change_op(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(network.graph.node, rng)
    if node is not None:
        node.op_type = _pick(_OPS, rng)
        if rng.random() < 0.2:
            node.domain = _pick(("com.microsoft", "ai.onnx", "my.domain"), rng)


def _change_attribute(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick([n for n in network.graph.node if n.attribute], rng)
    if node is None:
        return
    attribute = _pick(node.attribute, rng)
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _pick(_ODD_NUMBERS, rng)
        if rng.random() < 0.2:
            attribute.ints.append(1)
    elif rng.random() < 0.8:
        attribute.i = _pick(_ODD_NUMBERS, rng)
    elif rng.random() < 0.5:
        attribute.type = int(rng.integers(0, 12))
    else:
        attribute.name = "odd"


def _drop_attribute(network: onnx.ModelProto, rng: Rng) -> None:
    node = _pick([n for n in network.graph.node if n.attribute], rng)
    if node is not None:
        del node.attribute[int(rng.integers(len(node.attribute)))]


def _change_dim(network: onnx.ModelProto, rng: Rng) -> None:
    dims = _pick([v.type.tensor_type.shape.dim for v in (*network.graph.input, *network.graph.output)], rng)
    if dims:
        _pick(dims, rng).dim_value = _pick(_ODD_NUMBERS, rng)


def _change_weight_dims(network: onnx.ModelProto, rng: Rng) -> None:
    tensor = _pick(network.graph.initializer, rng)
    if tensor is None:
        return
    if tensor.dims and rng.random() < 0.4:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(_ODD_NUMBERS, rng)
    elif tensor.dims and rng.random() < 0.7:
        # Still as many elements, but another shape.
        total = int(np.prod(list(tensor.dims)))
        del tensor.dims[:]
        tensor.dims.extend(_pick(([total], [1, total], [total, 1], [1, 1, total], [total, 1, 1, 1]), rng))
    else:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def _change_dtype(network: onnx.ModelProto, rng: Rng) -> None:
    types = [*range(24), 99]
    if rng.random() < 0.5:
        value = _pick([*network.graph.input, *network.graph.output], rng)
        value.type.tensor_type.elem_type = _pick(types, rng)
    else:
        tensor = _pick(network.graph.initializer, rng)
        if tensor is not None:
            tensor.data_type = _pick(types, rng)


def _change_weight_values(network: onnx.ModelProto, rng: Rng) -> None:
    tensor = _pick([t for t in network.graph.initializer if t.data_type == TensorProto.INT64], rng)
    if tensor is not None:
        array = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 8 * 8], "int64").copy()
        if array.size:
            array[int(rng.integers(array.size))] = _pick(_ODD_NUMBERS, rng)
        tensor.raw_data = array.tobytes()


def _change_versions(network: onnx.ModelProto, rng: Rng) -> None:
    network.opset_import[0].version = _pick((-1, 0, 1, 5, 6, 9, 11, 13, 18, 21, 23, 26, 1000), rng)
    if rng.random() < 0.3:
        network.ir_version = _pick((0, 1, 3, 4, 10, 99), rng)


def _change_border(network: onnx.ModelProto, rng: Rng) -> None:
    kind = int(rng.integers(4))
    if kind == 0:
        del network.graph.output[:]
    elif kind == 1:
        del network.graph.input[:1]
    elif kind == 2 and network.graph.output:
        network.graph.output[0].name = _pick([*_values(network), "nowhere", ""], rng)
    else:
        network.graph.output.append(networks.value(_pick(_values(network), rng), None))


_EDITS = (
    _remove_node,
    _duplicate_node,
    _swap_nodes,
    _rename_operand,
    _rename_operand,
    _drop_or_add_operand,
    _rename_output,
    _change_op,
    _change_attribute,
    _change_attribute,
    _drop_attribute,
    _change_dim,
    _change_weight_dims,
    _change_weight_dims,
    _change_dtype,
    _change_weight_values,
    _change_versions,
    _change_border,
)
