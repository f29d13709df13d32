"""Operators that run on the host, outside the compiled code: those whose result has a size that the data decide.

Such a node stays one call in the graph, ``call_pure_packed("dlcomp.host", node, operands)``, whose first argument
is the node as a one-node ONNX model; ``dlcomp.runtime.host`` evaluates it. What it gives gets open dimensions
of its own, so that the rest of the network is compiled as for any size.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper
from tvm import relax, tirx
from tvm.ir import StringImm
from tvm.ir.expr import GenericConst

from dlcomp.frontend.check import dtype_name

CALL = "dlcomp.host"


def call(
    builder: Any,
    node: onnx.NodeProto,
    operands: Sequence[Any],
    results: Mapping[str, onnx.ValueInfoProto],
    opset: int,
) -> list[Any]:
    """The Relax expressions of the results of ``node``.

    ``results`` are the types that ONNX's inference gives; what it leaves open gets a new open dimension.
    """
    given = [
        (name, operand if isinstance(operand, relax.Var | GenericConst) else builder.emit(operand))
        for name, operand in zip(node.input, operands, strict=True)
        if name
    ]
    names = [name for name in node.output if name]
    model = helper.make_model(
        helper.make_graph(
            [node],
            node.op_type,
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_numpy(operand)), None)
                for name, operand in dict(given).items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in names],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    text = StringImm(base64.b64encode(model.SerializeToString()).decode())
    types, shapes = [], []
    for name in names:
        if name not in results or not results[name].type.tensor_type.HasField("shape"):
            raise ValueError("the rank of its result depends on the data; fix what decides it: values={...}")
        tensor = results[name].type.tensor_type
        dims = [
            int(dim.dim_value)
            if dim.HasField("dim_value")
            else tirx.Var(f"{node.op_type.lower()}_{_plain(name)}_{axis}", "int64")
            for axis, dim in enumerate(tensor.shape.dim)
        ]
        kind = dtype_name(tensor.elem_type)
        types.append(relax.TensorType(ndim=len(dims), dtype=kind))
        shapes.append(relax.TensorType(dims, kind))
    returned = types[0] if len(types) == 1 else relax.TupleType(types)
    arguments = [operand for _, operand in dict(given).items()]
    result = builder.emit(relax.call_pure_packed(CALL, text, *arguments, ty_args=[returned]))
    parts = [result] if len(types) == 1 else [builder.emit(result[i]) for i in range(len(types))]
    cast = iter(builder.match_cast(part, shape) for part, shape in zip(parts, shapes, strict=True))
    return [next(cast) if name else None for name in node.output]


def _numpy(operand: Any) -> Any:
    import numpy as np
    import ml_dtypes

    name = str(operand.ty.dtype.dtype)
    return np.dtype(getattr(ml_dtypes, name, name))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
