"""The stages of a factored layer as ONNX nodes in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from dlcomp.compress.layers import Layer
from dlcomp.compress.lowrank.moments import RECURRENT
from dlcomp.compress.lowrank.subject import Stage, Subject, strides_of
from dlcomp.compress.network import Network


def write(network: Network, subject: Subject, stages: Sequence[Stage], weight: np.ndarray) -> None:
    """Replace the layer of ``subject`` by ``stages``, which are together ``weight`` (O, I * K...)."""
    bias = _bias(network, subject, weight)
    if subject.layer.node.op_type in RECURRENT:
        made = _recurrent(network, subject, stages)
    else:
        titles = [_title(subject, number) for number in range(len(stages))]
        made = _chain(network, subject, stages, bias, subject.layer.output, titles)
    _replace(network, subject, made)


def write_sum(
    network: Network, subject: Subject, stages: Sequence[Stage], low: np.ndarray, sparse: np.ndarray
) -> None:
    """Replace the layer of ``subject`` by ``stages``, together ``low``, and a layer of ``sparse``, added."""
    bias = _bias(network, subject, low + sparse)
    parts = [network.name(f"{subject.title}_{part}") for part in ("low", "sparse")]
    titles = [_title(subject, number) for number in range(len(stages))]
    beside = Stage(sparse.reshape(subject.weight.shape), subject.axes)
    made = _chain(network, subject, stages, bias, parts[0], titles)
    made += _chain(network, subject, [beside], None, parts[1], [f"{subject.title}_sparse"])
    made.append(helper.make_node("Add", parts, [subject.layer.output], name=f"{subject.title}_sum"))
    _replace(network, subject, made)


def _replace(network: Network, subject: Subject, made: Sequence[onnx.NodeProto]) -> None:
    output = subject.layer.output
    network.rewrite(lambda node: made if node.output and node.output[0] == output else [node])


def _chain(
    network: Network,
    subject: Subject,
    stages: Sequence[Stage],
    bias: str | None,
    output: str,
    titles: Sequence[str],
) -> list[onnx.NodeProto]:
    """``stages`` one behind the other, named ``titles``, from the layer's data to ``output``."""
    one = _convolution if subject.layer.node.op_type == "Conv" else _product
    value, nodes = subject.layer.data, []
    for number, (stage, title) in enumerate(zip(stages, titles, strict=True)):
        last = number + 1 == len(stages)
        made = output if last else network.name(f"{subject.title}_factor")
        nodes.append(one(network, subject, stage, value, bias if last else None, made, title))
        value = made
    return nodes


def _bias(network: Network, subject: Subject, weight: np.ndarray) -> str | None:
    """The name of the bias, which takes the mean error where the mean of the inputs is known."""
    layer = subject.layer
    old = None if layer.bias is None else str(layer.node.input[layer.bias])
    if subject.mean is None:
        return old
    return _weight(network, subject, "bias", _moved(network, old, (subject.matrix - weight) @ subject.mean))


def add_to_bias(network: Network, layer: Layer, change: np.ndarray) -> None:
    """Add ``change`` (O,) to the bias of ``layer``, which gets one if it has none."""
    name = network.name(f"{layer.node.output[0]}_bias")
    old = None if layer.bias is None else str(layer.node.input[layer.bias])
    network.set_weight(name, _moved(network, old, change).astype(np.float32))
    del layer.node.input[2:]
    layer.node.input.append(name)


def _moved(network: Network, bias: str | None, change: np.ndarray) -> np.ndarray:
    stored = 0.0 if bias is None else network.weights[bias].astype(np.float64).reshape(-1)
    return np.asarray(change + stored)


def _convolution(
    network: Network, subject: Subject, stage: Stage, value: str, bias: str | None, output: str, title: str
) -> onnx.NodeProto:
    moves, axes = strides_of(subject), len(subject.taps)
    pads = [pad if n % axes in stage.axes else 0 for n, pad in enumerate(moves["pads"])]
    steps = {
        key: [size if n in stage.axes else 1 for n, size in enumerate(moves[key])]
        for key in ("strides", "dilations")
    }
    inputs = [value, _weight(network, subject, "factor", stage.kernel), *([bias] if bias else [])]
    more = {**steps, **({"group": stage.groups} if stage.groups > 1 else {})}
    shape = list(stage.kernel.shape[2:])
    return helper.make_node("Conv", inputs, [output], name=title, kernel_shape=shape, pads=pads, **more)


def _product(
    network: Network, subject: Subject, stage: Stage, value: str, bias: str | None, output: str, title: str
) -> onnx.NodeProto:
    kind = subject.layer.node.op_type
    kernel = stage.kernel if kind == "Gemm" else stage.kernel.T
    inputs = [value, _weight(network, subject, "factor", kernel), *([bias] if bias else [])]
    options = {"transB": 1} if kind == "Gemm" else {}
    return helper.make_node(kind, inputs, [output], name=title, **options)


def _recurrent(network: Network, subject: Subject, stages: Sequence[Stage]) -> list[onnx.NodeProto]:
    """A product before the layer, whose own weight becomes the other factor."""
    first, second = stages
    node = onnx.NodeProto()
    node.CopyFrom(subject.layer.node)
    directions = len(network.weights[node.input[1]])
    value = network.name(f"{subject.title}_factor")
    inputs = [subject.layer.data, _weight(network, subject, "factor", first.kernel.T)]
    node.input[0] = value
    shape = (directions, -1, second.kernel.shape[1])
    node.input[1] = _weight(network, subject, "factor", second.kernel.reshape(shape))
    return [helper.make_node("MatMul", inputs, [value], name=_title(subject, 0)), node]


def _weight(network: Network, subject: Subject, kind: str, array: np.ndarray) -> str:
    name = network.name(f"{subject.title}_{kind}")
    network.set_weight(name, np.ascontiguousarray(array, np.float32))
    return name


def _title(subject: Subject, number: int) -> str:
    return f"{subject.title}_{number + 1}"
