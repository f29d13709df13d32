"""Relay text of an ONNX network of static shapes, as TVM's ONNX importer wrote it, for comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from relay_text import metadata, shown

# Same operands, no attributes.
_PLAIN = {
    "Add": "add", "Div": "divide", "Erf": "erf", "Max": "maximum", "Mul": "multiply", "Relu": "nn.relu",
    "Sqrt": "sqrt", "Sub": "subtract", "GlobalAveragePool": "nn.global_avg_pool2d", "Identity": "copy",
}  # fmt: skip


class Export:
    """Lines of text and the constants they name."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self.graph = network.graph
        self.arrays = {t.name: numpy_helper.to_array(t) for t in network.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(network).graph
        known = [*inferred.value_info, *inferred.input, *inferred.output]
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}
        self.names: dict[str, str] = {}
        self.places: dict[str, int] = {}
        self.stored: list[np.ndarray] = []
        self.lines: list[str] = []

    def text(self) -> str:
        """The module."""
        inputs = []
        for place, value in enumerate(i for i in self.graph.input if i.name not in self.arrays):
            tensor = value.type.tensor_type
            shape = tuple(d.dim_value for d in tensor.shape.dim)
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            self.names[value.name] = f"%input{place}"
            inputs.append(f"%input{place}: Tensor[{shape}, {dtype}] /* ty=Tensor[{shape}, {dtype}] */")
        for node in self.graph.node:
            self.names[node.output[0]] = self._node(node)
        results = [self.names[value.name] for value in self.graph.output]
        result = results[0] if len(results) == 1 else f"({', '.join(results)})"
        code = [f"def @main({', '.join(inputs)}) {{", *self.lines, f"  {result}", "}", ""]
        return "\n".join(['#[version = "0.0.5"]', *code]) + "\n" + metadata(self.stored)

    def _line(self, operator: str, operands: list[str], **attributes: Any) -> str:
        given = [*operands, *(f"{k}={shown(v)}" for k, v in attributes.items())]
        name = f"%{len(self.lines)}"
        self.lines.append(f"  {name} = {operator}({', '.join(given)}) /* span={operator}:0:0 */;")
        return name

    def _constant(self, array: np.ndarray) -> str:
        self.stored.append(array)
        shape = tuple(array.shape)
        return f"meta[relay.Constant][{len(self.stored) - 1}] /* ty=Tensor[{shape}, {array.dtype}] */"

    def _operand(self, name: str) -> str:
        if name not in self.arrays:
            return self.names[name]
        if name not in self.places:
            self.places[name] = len(self.stored)
            return self._constant(self.arrays[name])
        return f"meta[relay.Constant][{self.places[name]}]"

    def _node(self, node: onnx.NodeProto) -> str:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in _PLAIN:
            return self._line(_PLAIN[node.op_type], [self._operand(name) for name in node.input])
        result: str = getattr(self, f"_{node.op_type.lower()}")(node, attrs)
        return result

    def _ints(self, node: onnx.NodeProto, place: int) -> list[int]:
        return [int(v) for v in self.arrays[node.input[place]].reshape(-1)]

    def _conv(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        w = self.arrays[node.input[1]]
        groups = attrs.get("group", 1)
        more = {"groups": groups} if groups != 1 else {}
        more |= {k: list(attrs[k]) for k in ("strides",) if set(attrs.get(k, [1])) != {1}}
        operands = [self._operand(name) for name in node.input[:2]]
        size = {"channels": w.shape[0], "kernel_size": list(w.shape[2:])}
        padding = list(attrs.get("pads", [0] * 4))
        y = self._line("nn.conv2d", operands, **more, padding=padding, **size)
        return self._line("nn.bias_add", [y, self._operand(node.input[2])]) if len(node.input) > 2 else y

    def _clip(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        low, high = (self.arrays[name].item() for name in node.input[1:3])
        return self._line("clip", [self._operand(node.input[0])], a_min=low, a_max=high)

    def _flatten(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        return self._line("nn.batch_flatten", [self._operand(node.input[0])])

    def _gemm(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        assert attrs.get("transB") == 1
        operands = [self._operand(name) for name in node.input[:2]]
        y = self._line("nn.dense", operands, units=self.arrays[node.input[1]].shape[0])
        return self._line("nn.bias_add", [y, self._operand(node.input[2])], axis=-1)

    def _matmul(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        left, right = node.input
        if right in self.arrays:
            w = np.ascontiguousarray(self.arrays[right].T)
            return self._line("nn.dense", [self._operand(left), self._constant(w)], units=w.shape[0])
        # In front of the last two dimensions there are a batch and heads: one row of matrices.
        flat = [self._line("reshape", [self.names[name]], newshape=[-3, -2]) for name in node.input]
        y = self._line("nn.batch_matmul", flat, out_dtype="float32")
        return self._line("reshape", [y], newshape=[-4, *self.shapes[left][:2], -2])

    def _maxpool(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        return self._pool("nn.max_pool2d", node, attrs)

    def _averagepool(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        return self._pool("nn.avg_pool2d", node, attrs)

    def _pool(self, name: str, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        more = {"pool_size": list(attrs["kernel_shape"]), "strides": list(attrs["strides"])}
        return self._line(
            name, [self._operand(node.input[0])], **more, padding=list(attrs.get("pads", [0] * 4))
        )

    def _reshape(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        return self._line("reshape", [self._operand(node.input[0])], newshape=self._ints(node, 1))

    def _transpose(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        return self._line("transpose", [self._operand(node.input[0])], axes=list(attrs["perm"]))

    def _softmax(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        # Before opset 13 the default was 1; these networks have two dimensions then.
        return self._line("nn.softmax", [self._operand(node.input[0])], axis=attrs.get("axis", -1))

    def _layernormalization(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        operands = [self._operand(name) for name in node.input]
        return self._line("nn.layer_norm", operands, epsilon=attrs["epsilon"])

    def _gather(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        operands = [self._operand(name) for name in node.input]
        return self._line("take", operands, axis=attrs.get("axis", 0))

    def _cast(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        dtype = str(helper.tensor_dtype_to_np_dtype(attrs["to"]))
        return self._line("cast", [self._operand(node.input[0])], dtype=dtype)

    def _unsqueeze(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        y = self._operand(node.input[0])
        for axis in self._ints(node, 1):
            y = self._line("expand_dims", [y], axis=axis)
        return y

    def _reducesum(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> str:
        keep = bool(attrs.get("keepdims", 1))
        return self._line("sum", [self._operand(node.input[0])], axis=self._ints(node, 1), keepdims=keep)
