"""ONNX networks that equal the small programs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcomp.codegen.program import Program


def dense_network(program: Program) -> onnx.ModelProto:
    """``y = relu(x @ w + b)`` with the weights of ``small_programs.dense``."""
    weight, bias = program.weights
    (x,), (y,) = program.signature.inputs, program.signature.outputs
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="multiply"),
            helper.make_node("Add", ["product", "b"], ["sum"], name="shift"),
            helper.make_node("Relu", ["sum"], ["y"], name="clip"),
        ],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y.shape)],
        [numpy_helper.from_array(np.asarray(weight), "w"), numpy_helper.from_array(np.asarray(bias), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
