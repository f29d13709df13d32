"""Operators that run on the host, beside the compiled code: the data decide the size of what they give.

Such a node stays one call in the graph, ``call_pure_packed("dlcomp.host", node, operands)``. Its first
argument is the node as an ONNX model, which ``dlcomp.runtime.host`` evaluates. What it gives gets open
dimensions of its own, so that the rest of the network is compiled as for any size.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from tvm import relax, tirx
from tvm.ir import StringImm
from tvm.ir.expr import GenericConst

from dlcomp.frontend.check import dtype_name
from dlcomp.frontend.operators import LEARNING
from dlcomp.frontend.symbolic import dim_of
from dlcomp.frontend.writer import attributes_of

CALL = "dlcomp.host"


def call(
    builder: Any,
    node: onnx.NodeProto,
    operands: Mapping[str, Any],
    results: Mapping[str, onnx.ValueInfoProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> list[Any]:
    """The Relax expressions of the results of ``node``.

    ``operands`` are those named by :func:`dlcomp.frontend.operators.taken`.
    ``results`` are the types that ONNX's inference gives; what it leaves open gets a new open dimension.
    """
    given = [
        (name, operand if isinstance(operand, relax.Var | GenericConst) else builder.emit(operand))
        for name, operand in operands.items()
    ]
    names = [name for name in node.output if name]
    model = helper.make_model(
        helper.make_graph(
            [node],
            node.op_type,
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_numpy(operand)), None)
                for name, operand in given
            ],
            [helper.make_empty_tensor_value_info(name) for name in names],
        ),
        opset_imports=opsets,
        ir_version=10,
    )
    text = StringImm(base64.b64encode(model.SerializeToString()).decode())
    types, shapes = [], []
    for place, name in enumerate(node.output):
        if not name:
            continue
        given_dims = [_dims(operands[operand]) if operand else [] for operand in node.input]
        sizes, elements = _type_of(node, place, results.get(name), given_dims)
        if not elements:  # a reduction keeps the type of its operand
            elements = helper.np_dtype_to_tensor_dtype(_numpy(operands[node.input[0]]))
        dims = [
            size or tirx.Var(f"{node.op_type.lower()}_{_plain(name)}_{axis}", "int64")
            for axis, size in enumerate(sizes)
        ]
        kind = dtype_name(elements)
        types.append(relax.TensorType(ndim=len(dims), dtype=kind))
        shapes.append(relax.TensorType(dims, kind))
    returned = types[0] if len(types) == 1 else relax.TupleType(types)
    arguments = [operand for _, operand in given]
    result = builder.emit(relax.call_pure_packed(CALL, text, *arguments, ty_args=[returned]))
    parts = [result] if len(types) == 1 else [builder.emit(result[i]) for i in range(len(types))]
    cast = iter(builder.match_cast(part, shape) for part, shape in zip(parts, shapes, strict=True))
    return [next(cast) if name else None for name in node.output]


def _type_of(
    node: onnx.NodeProto, place: int, inferred: onnx.ValueInfoProto | None, shapes: Sequence[Sequence[Any]]
) -> tuple[list[int | None], int]:
    """The shape (None for a size that the data decide) and ONNX's element type of a result.

    ``shapes`` are those of the operands. An element type of 0 is that of the first.
    """
    if inferred is not None and inferred.type.tensor_type.HasField("shape"):
        tensor = inferred.type.tensor_type
        dims = [int(d.dim_value) if d.HasField("dim_value") else None for d in tensor.shape.dim]
        return dims, int(tensor.elem_type)
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    if bodies:
        # Loop's body begins with the condition; what it collects gets one dimension more.
        states = len(node.input) - 2 if node.op_type == "Loop" else len(node.output)
        value = bodies[0].output[place + 1 if node.op_type == "Loop" else place]
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            return [None] * (len(tensor.shape.dim) + (place >= states)), int(tensor.elem_type)
    if node.op_type.startswith("Reduce"):
        if attributes_of(node).get("keepdims", 1):
            return [None] * len(shapes[0]), 0
        if len(shapes) > 1 and shapes[1] and isinstance(shapes[1][0], int):
            return [None] * (len(shapes[0]) - shapes[1][0]), 0
    if node.domain == LEARNING:
        return _learned(node, place, len(shapes[0]))
    raise ValueError("the rank of its result depends on the data; fix what decides it: values={...}")


def _learned(node: onnx.NodeProto, place: int, rank: int) -> tuple[list[int | None], int]:
    """Ranks and types of ai.onnx.ml, which ONNX's inference does not know."""
    attributes = attributes_of(node)
    if node.op_type.endswith("Classifier"):
        if place == 0:
            texts = any("strings" in name and value for name, value in attributes.items())
            if texts:
                raise ValueError("labels that are strings must be outputs of the network")
            return [None], TensorProto.INT64
        return [None, None], TensorProto.FLOAT
    if node.op_type == "LabelEncoder":
        wide = any(name.startswith("values_int64s") for name in attributes)
        return [None] * rank, TensorProto.INT64 if wide else TensorProto.FLOAT
    if node.op_type == "OneHotEncoder":
        return [None] * (rank + 1), TensorProto.FLOAT
    if node.op_type in ("Scaler", "Normalizer", "Imputer", "Binarizer", "ArrayFeatureExtractor"):
        return [None] * rank, TensorProto.FLOAT
    return [None, None], TensorProto.FLOAT


def _dims(operand: Any) -> list[Any]:
    shape = operand.ty.shape
    return [] if shape is None else [dim_of(extent) for extent in shape]


def _numpy(operand: Any) -> Any:
    name = str(operand.ty.dtype.dtype)
    return np.dtype(getattr(ml_dtypes, name, name))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
