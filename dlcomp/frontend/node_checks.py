"""What ONNX's checker and shape inference let pass, and the libraries behind them take on trust."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from dlcomp.errors import ModelError
from dlcomp.frontend.macs import Shapes, static_shapes
from dlcomp.frontend.operators import describe_node, nodes

_INT32_MAX = 2**31 - 1
# Their attributes may hold "to the end" and other 64-bit numbers.
_WIDE = frozenset({"Slice", "Constant"})
_FLAGS = frozenset({"keepdims", "transA", "transB", "ceil_mode", "count_include_pad", "exclusive", "reverse"})


def check_nodes(network: onnx.ModelProto, name: str) -> None:
    """Refuse attributes out of range and operands that contradict them; ``network`` has inferred shapes.

    Raises
    ------
    ModelError
        Naming the node.
    """
    shapes = static_shapes(network.graph)
    for node in nodes(network.graph):
        reason = _number_out_of_range(node) or _kernel_mismatch(node, shapes) or _scale_mismatch(node, shapes)
        if reason:
            raise ModelError(f"{describe_node(node, network.graph)}: {reason}", where=name)


def _number_out_of_range(node: onnx.NodeProto) -> str | None:
    for attribute in node.attribute:
        numbers: Iterable[int] = ()
        if attribute.type == onnx.AttributeProto.INT:
            numbers = [attribute.i]
        elif attribute.type == onnx.AttributeProto.INTS:
            numbers = attribute.ints
        if node.op_type not in _WIDE and any(abs(number) > _INT32_MAX for number in numbers):
            return f"its attribute {attribute.name!r} is out of range: {list(numbers)}"
        if attribute.name in _FLAGS and attribute.i not in (0, 1):
            return f"its attribute {attribute.name!r} must be 0 or 1, not {attribute.i}"
        if attribute.name in ("strides", "dilations", "kernel_shape") and any(
            number < 1 for number in numbers
        ):
            return f"its attribute {attribute.name!r} must be positive: {list(numbers)}"
    return None


def _kernel_mismatch(node: onnx.NodeProto, shapes: Shapes) -> str | None:
    """A convolution's ``kernel_shape`` must be that of its weight."""
    if node.op_type not in ("Conv", "ConvTranspose") or len(node.input) < 2:
        return None
    stated = next((tuple(a.ints) for a in node.attribute if a.name == "kernel_shape"), None)
    weight = shapes.get(node.input[1])
    if stated is None or weight is None or stated == weight[2:]:
        return None
    return f"its kernel_shape {stated} is not that of its weight {weight}"


def _scale_mismatch(node: onnx.NodeProto, shapes: Shapes) -> str | None:
    """The zero point of a quantizer has the shape of its scale, which fits the axis."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.domain not in ("", "ai.onnx"):
        return None
    operands = [shapes.get(operand) for operand in node.input]
    data, scale = operands[0], operands[1]
    zero = operands[2] if len(operands) > 2 and node.input[2] else None
    # onnxruntime's quantizer writes a row of one scale beside a single zero point.
    if scale is not None and zero is not None and scale != zero and not {scale, zero} <= {(), (1,)}:
        return f"its scale {scale} and zero point {operands[2]} differ in shape"
    if (
        any(a.name == "block_size" and a.i for a in node.attribute)
        or data is None
        or not scale
        or scale == (1,)
    ):
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    axis += len(data) if axis < 0 else 0
    if len(scale) != 1 or not 0 <= axis < len(data) or scale[0] != data[axis]:
        return f"its scale {scale} does not fit axis {axis} of {data}"
    return None
