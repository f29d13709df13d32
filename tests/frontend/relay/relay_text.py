"""Relay text as TVM printed it, written beside an ONNX network of the same operators and weights."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def blob(array: np.ndarray) -> bytes:
    """An array in TVM's binary form."""
    code = {"i": 0, "u": 1, "f": 2, "b": 1}[array.dtype.kind]
    bits = 1 if array.dtype.kind == "b" else 8 * array.itemsize
    head = struct.pack("<QQiiiBBH", 0xDD5E40F096B4A13F, 0, 1, 0, array.ndim, code, bits, 1)
    shape = struct.pack(f"<{array.ndim}q", *array.shape)
    return head + shape + struct.pack("<q", array.nbytes) + np.ascontiguousarray(array).tobytes()


def metadata(arrays: list[np.ndarray]) -> str:
    """The section behind the code: a graph of objects as JSON, the arrays in base 64."""
    constants = [
        {"type_key": "relay.Constant", "attrs": {"_checked_type_": "0", "data": str(i), "span": "0"}}
        for i in range(len(arrays))
    ]
    nodes: list[dict[str, Any]] = [
        {"type_key": ""},
        {"type_key": "Map", "keys": ["relay.Constant"], "data": [2]},
        {"type_key": "Array", "data": [i + 3 for i in range(len(arrays))]},
        *constants,
    ]
    encoded = [base64.b64encode(blob(array)).decode() for array in arrays]
    graph = {"root": 1, "nodes": nodes, "b64ndarrays": encoded, "attrs": {"tvm_version": "0.8.0"}}
    return "#[metadata]\n" + json.dumps(graph, indent=2) + "\n"


def parameters(values: dict[str, np.ndarray]) -> bytes:
    """A file of parameters."""
    head = struct.pack("<QQQ", 0xF7E58D4F05049CB7, 0, len(values))
    names = b"".join(struct.pack("<Q", len(name)) + name.encode() for name in values)
    return head + names + struct.pack("<Q", len(values)) + b"".join(blob(v) for v in values.values())


def shown(value: Any) -> str:
    """An attribute as it was printed."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}f"
    return str(value)


class Twin:
    """One network in both forms; every method writes an operator into each and returns its name."""

    def __init__(self, shape: tuple[int, ...], new: bool, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape, self.new = shape, new
        self.lines: list[str] = []
        self.arrays: list[np.ndarray] = []
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.count = 0

    def weight(self, *shape: int, scale: float = 0.3, low: float | None = None) -> np.ndarray:
        array = self.rng.standard_normal(shape) * scale
        return (array if low is None else np.abs(array) + low).astype("float32")

    def meta(self, array: np.ndarray) -> str:
        self.arrays.append(array)
        text = f"meta[relay.Constant][{len(self.arrays) - 1}]"
        return f"{text} /* ty=Tensor[{tuple(array.shape)}, {array.dtype}] */" if self.new else text

    def relay(self, operator: str, operands: list[str], **attributes: Any) -> str:
        """A line of text; its name."""
        given = ", ".join([*operands, *(f"{key}={shown(v)}" for key, v in attributes.items())])
        self.count += 1
        comment = " /* ty=Tensor[(1), float32] span=conv.1:0:0 */" if self.new else ""
        self.lines.append(f"  %{self.count - 1} = {operator}({given}){comment};")
        return f"%{self.count - 1}"

    def project(self, value: str, index: int) -> str:
        self.count += 1
        self.lines.append(f"  %{self.count - 1} = {value}.{index};")
        return f"%{self.count - 1}"

    def onnx(self, operator: str, operands: list[Any], **attributes: Any) -> str:
        """A node; arrays among its operands become constants."""
        names = []
        for operand in operands:
            if isinstance(operand, np.ndarray):
                self.stored.append(numpy_helper.from_array(operand, f"w{len(self.stored)}"))
                names.append(self.stored[-1].name)
            else:
                names.append(operand)
        self.nodes.append(helper.make_node(operator, names, [f"n{len(self.nodes)}"], **attributes))
        return f"n{len(self.nodes) - 1}"

    def text(self, result: str, name: str = "data", dtype: str = "float32") -> str:
        """The module, with the last value as the result."""
        body = list(self.lines)
        final = next(line for line in body if line.startswith(f"  {result} = "))
        body.remove(final)
        expression = final.split(" = ", 1)[1].rstrip(";")
        head = f"def @main(%{name}: Tensor[{self.shape}, {dtype}])"
        code = "\n".join(['#[version = "0.0.5"]', f"{head} {{", *body, f"  {expression}", "}", ""])
        return code + "\n" + metadata(self.arrays)

    def network(self, result: str, name: str = "data") -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "twin",
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)],
            self.stored,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
