"""How channels pass through operators without a weight; a rule says False where it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from dlcomp.compress.network import attributes_of

if TYPE_CHECKING:
    from dlcomp.compress.channels.trace import Trace

# The axis that counts channels, and their numbers.
Axis = tuple[int, np.ndarray]
# Changes ``known``, ``slices`` and ``entries`` of the trace; False leaves the node's operands to be fixed.
Rule = Callable[["Trace", onnx.NodeProto], bool]


@dataclass(frozen=True)
class Stored:
    """Operand ``place`` of ``node``, whose ``axis`` counts the channels ``numbers``."""

    node: onnx.NodeProto
    place: int
    axis: int
    numbers: np.ndarray


def _alike(trace: Trace, node: onnx.NodeProto) -> bool:
    """The first operand's channels, by themselves; places or masks that are wanted besides have others."""
    if any(node.output[1:]):
        return False
    return _pass(trace, node, trace.known.get(node.input[0]))


def _pass(trace: Trace, node: onnx.NodeProto, channels: Axis | None) -> bool:
    if channels is not None:
        trace.known[node.output[0]] = channels
    return True


def _elementwise(trace: Trace, node: onnx.NodeProto) -> bool:
    """Operands broadcast against each other: channels at the same place are tied."""
    shape = trace.shapes.get(node.output[0])
    operands = [name for name in node.input if name]
    if shape is None or any(name not in trace.shapes for name in operands):
        return False
    ahead = {name: len(shape) - len(trace.shapes[name]) for name in operands}
    labelled = [name for name in operands if name in trace.known]
    axes = {trace.known[name][0] + ahead[name] for name in labelled}
    if len(axes) != 1:
        return not labelled
    (axis,) = axes
    full = [trace.known[name][1] for name in labelled if len(trace.known[name][1]) == shape[axis]]
    if not full:
        return False
    for name in labelled:
        numbers = trace.known[name][1]
        if len(numbers) == shape[axis]:
            trace.tie(numbers, full[0])
        else:
            trace.fix(name)
    for place, name in enumerate(node.input):
        own = axis - ahead.get(name, 0)
        if name in trace.known or not name or own < 0 or trace.shapes[name][own] == 1:
            continue
        if name in trace.network.weights:
            trace.slices.append(Stored(node, place, own, full[0]))
        else:
            trace.fix(*labelled)
    return _pass(trace, node, (axis, full[0]))


def _normalisation(trace: Trace, node: onnx.NodeProto) -> bool:
    """Numbers for each channel behind the first operand."""
    channels = trace.known.get(node.input[0])
    if channels is None:
        return True
    if any(name not in trace.network.weights for name in node.input[1:]):
        return False
    trace.slices += [Stored(node, place, 0, channels[1]) for place in range(1, len(node.input))]
    return _pass(trace, node, channels)


def _concat(trace: Trace, node: onnx.NodeProto) -> bool:
    shape = trace.shapes.get(node.output[0])
    labelled = [trace.known[name] for name in node.input if name in trace.known]
    if shape is None or any(name not in trace.shapes for name in node.input):
        return False
    if len({axis for axis, _ in labelled}) != 1:
        return not labelled
    axis = labelled[0][0]
    if int(attributes_of(node)["axis"]) % len(shape) != axis:
        if len(labelled) < len(node.input):
            return False
        for _, numbers in labelled[1:]:
            trace.tie(numbers, labelled[0][1])
        return _pass(trace, node, labelled[0])
    parts = []
    for name in node.input:
        if name not in trace.known:
            trace.known[name] = (axis, trace.new(trace.shapes[name][axis]))
            trace.fix(name)
        parts.append(trace.known[name][1])
    return _pass(trace, node, (axis, np.concatenate(parts)))


def _flatten(trace: Trace, node: onnx.NodeProto) -> bool:
    channels, shape = trace.known.get(node.input[0]), trace.shapes.get(node.input[0])
    if channels is None:
        return True
    axis, numbers = channels
    if shape is None or int(attributes_of(node).get("axis", 1)) % len(shape) != axis or axis != 1:
        return False
    return _pass(trace, node, (1, np.repeat(numbers, math.prod(shape[axis + 1 :]))))


def _reshape(trace: Trace, node: onnx.NodeProto) -> bool:
    """What is before the channels stays, and they stay first among what they are flattened with."""
    channels = trace.known.get(node.input[0])
    if channels is None:
        return True
    axis, numbers = channels
    before, after = trace.shapes.get(node.input[0]), trace.shapes.get(node.output[0])
    if before is None or after is None or node.input[1] not in trace.network.weights:
        return False
    if before[:axis] != after[:axis] or len(after) <= axis or after[axis] % len(numbers) or not after[axis]:
        return False
    spread = np.repeat(numbers, after[axis] // len(numbers))
    trace.entries.append(Stored(node, 1, axis, spread))
    return _pass(trace, node, (axis, spread))


def _transpose(trace: Trace, node: onnx.NodeProto) -> bool:
    channels, shape = trace.known.get(node.input[0]), trace.shapes.get(node.input[0])
    if channels is None:
        return True
    if shape is None:
        return False
    order = list(attributes_of(node).get("perm", range(len(shape))[::-1]))
    return _pass(trace, node, (order.index(channels[0]), channels[1]))


def _reduce(trace: Trace, node: onnx.NodeProto) -> bool:
    """Means and the like over other axes; Squeeze is one that keeps nothing."""
    channels, shape = trace.known.get(node.input[0]), trace.shapes.get(node.input[0])
    if channels is None:
        return True
    axes = None if shape is None else _axes(trace, node, len(shape))
    if not axes or channels[0] in axes:
        return False
    keeps = node.op_type != "Squeeze" and attributes_of(node).get("keepdims", 1)
    axis = channels[0] - (0 if keeps else sum(other < channels[0] for other in axes))
    return _pass(trace, node, (axis, channels[1]))


def _unsqueeze(trace: Trace, node: onnx.NodeProto) -> bool:
    channels, shape = trace.known.get(node.input[0]), trace.shapes.get(node.output[0])
    if channels is None:
        return True
    axes = None if shape is None else _axes(trace, node, len(shape))
    if not axes or shape is None:
        return False
    own = [axis for axis in range(len(shape)) if axis not in axes]
    return _pass(trace, node, (own[channels[0]], channels[1]))


def _resize(trace: Trace, node: onnx.NodeProto) -> bool:
    """Images by stored factors or sizes; those of an axis that is left out count from elsewhere."""
    channels = trace.known.get(node.input[0])
    if channels is None:
        return True
    stored, given = trace.network.weights, list(node.input) + [""] * 3
    if "axes" in attributes_of(node) or any(name and name not in stored for name in given[1:4]):
        return False
    if given[3]:
        trace.entries.append(Stored(node, 3, *channels))
    elif given[2] and stored[given[2]].reshape(-1)[channels[0]] != 1:
        return False
    return _pass(trace, node, channels)


def _pad(trace: Trace, node: onnx.NodeProto) -> bool:
    channels = trace.known.get(node.input[0])
    if channels is None:
        return True
    if len(node.input) < 2 or len(node.input) > 3 or node.input[1] not in trace.network.weights:
        return False
    pads = trace.network.weights[node.input[1]].reshape(2, -1)
    return not pads[:, channels[0]].any() and _pass(trace, node, channels)


def _axes(trace: Trace, node: onnx.NodeProto, rank: int) -> list[int] | None:
    """Those of the attribute or of the stored operand, from 0; None if they are not known or all."""
    axes: Sequence[int] | None = attributes_of(node).get("axes")
    if axes is None and len(node.input) > 1 and node.input[1] in trace.network.weights:
        axes = trace.network.weights[node.input[1]].reshape(-1).tolist()
    return None if axes is None else [int(axis) % rank for axis in axes]


_UNARY = (
    "Relu LeakyRelu Elu Selu Celu Clip Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Mish Gelu Erf "
    "Exp Log Sqrt Abs Neg Reciprocal Sign Floor Ceil Round Identity Dropout Cast ThresholdedRelu "
    "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool"
).split()
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _alike),
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Where"), _elementwise
    ),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _normalisation),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "Squeeze"), _reduce),
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Resize": _resize,
    "Pad": _pad,
}
