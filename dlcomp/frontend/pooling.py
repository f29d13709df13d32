"""Pooling that rounds the number of windows up, with the padding written out instead.

A window that would begin behind the image and the padding before it does not count (ONNX's MaxPool and
AveragePool since version 22, onnxruntime and PyTorch), but ONNX's shape inference counts it.
"""

from __future__ import annotations

import onnx

from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import static_shapes
from dlcomp.frontend.writer import attributes_of

_POOLS = frozenset({"MaxPool", "AveragePool"})


def without_ceil_mode(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with every such pooling of a known image replaced; others stay as they are."""
    places = [place for place, node in enumerate(network.graph.node) if _rounds_up(node)]
    if not places:
        return network
    result = onnx.ModelProto()
    result.CopyFrom(network)
    for place in places:
        # One by one: the shape of each follows from those before it.
        del result.graph.value_info[:]
        try:
            shapes = static_shapes(inferred(result))
        except Exception:  # inconsistent graphs are left to the importer's messages
            return result
        node = result.graph.node[place]
        image = shapes.get(node.input[0])
        if image is not None:
            _write_out(node, image[2:])
    for value in result.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value"):
                dim.Clear()
    return result


def _rounds_up(node: onnx.NodeProto) -> bool:
    attributes = attributes_of(node)
    if node.op_type not in _POOLS or node.domain not in ("", "ai.onnx") or not attributes.get("ceil_mode", 0):
        return False
    # What lies behind the padding would be counted as padding.
    return not attributes.get("count_include_pad", 0)


def _write_out(node: onnx.NodeProto, image: tuple[int, ...]) -> None:
    attributes = attributes_of(node)
    rank = len(image)
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        return
    kernel = attributes["kernel_shape"]
    strides, dilations = (list(attributes.get(name, [1] * rank)) for name in ("strides", "dilations"))
    pads = list(attributes.get("pads", [0] * (2 * rank)))
    for axis, size in enumerate(image):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        before, after = pads[axis], pads[axis + rank]
        count = -(-(size + before + after - reach) // strides[axis]) + 1
        if (count - 1) * strides[axis] >= size + before:
            count -= 1
        # Strides beyond the kernel leave a rest of the image that no window reaches.
        pads[axis + rank] = max(0, (count - 1) * strides[axis] + reach - size - before)
    kept = [a for a in node.attribute if a.name not in ("ceil_mode", "pads")]
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, onnx.helper.make_attribute("pads", pads)])
