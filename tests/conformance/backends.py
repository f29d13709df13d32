"""Who runs a case, dlcomp and its peers: each takes a network and returns a function that runs it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

Run = Callable[[Sequence[Any]], list[Any]]


def dlcomp(model: onnx.ModelProto, inputs: Sequence[Any]) -> Run:
    """Load with the shapes of ``inputs``, compile for this machine."""
    import dlcomp

    values = _inputs(model)
    shapes = {
        value.name: np.shape(given)
        for value, given in zip(values, inputs, strict=False)
        if isinstance(given, np.ndarray) and _is_symbolic(value)
    }
    artifact = dlcomp.load(model, shapes=shapes).compile("host")
    wanted = [spec.name for spec in artifact.signature.inputs]

    def run(arrays: Sequence[Any]) -> list[Any]:
        given = {value.name: array for value, array in zip(values, arrays, strict=False)}
        return list(artifact.run({name: given[name] for name in wanted}).values())

    return run


def onnxruntime(model: onnx.ModelProto, inputs: Sequence[Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=False)))


def tvm(model: onnx.ModelProto, inputs: Sequence[Any]) -> Run:
    """TVM's own importer and its default pipeline."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    values = _inputs(model)
    shapes = {
        value.name: list(np.shape(given))
        for value, given in zip(values, inputs, strict=False)
        if isinstance(given, np.ndarray)
    }
    with contextlib.redirect_stdout(io.StringIO()):
        module = from_onnx(model, shape_dict=shapes, keep_params_in_input=False)
        module = relax.transform.DecomposeOpsForInference()(module)
        executable = tvm.compile(module, target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())

    def run(arrays: Sequence[Any]) -> list[Any]:
        found = machine["main"](*(tvm.runtime.tensor(np.asarray(array)) for array in arrays))
        results = [found] if hasattr(found, "numpy") else list(found)
        return [result.numpy() for result in results]

    return run


BACKENDS: dict[str, Callable[[onnx.ModelProto, Sequence[Any]], Run]] = {
    "dlcomp": dlcomp,
    "onnxruntime": onnxruntime,
    "tvm": tvm,
}


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _is_symbolic(value: onnx.ValueInfoProto) -> bool:
    """Whether a dimension is open; exporters write zero, too, where they do not know."""
    kind = value.type.tensor_type
    return not kind.HasField("shape") or any(dim.dim_value <= 0 for dim in kind.shape.dim)
