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
    """Load with the shapes of ``inputs``, compile for this machine.

    Inputs that decide about shapes are fixed when the network is loaded, as dimensions are.
    """
    import dlcomp

    values = _inputs(model)
    fixed = {
        value.name: given
        for value, given in zip(values, inputs, strict=False)
        if isinstance(given, np.ndarray) and value.name in _deciding(model) and not __import__('os').environ.get('NOFIX')
    }
    shapes = {
        value.name: np.shape(given)
        for value, given in zip(values, inputs, strict=False)
        if isinstance(given, np.ndarray) and _is_symbolic(value) and value.name not in fixed
    }
    artifact = dlcomp.load(model, shapes=shapes, values=fixed).compile("host")
    wanted = [spec.name for spec in artifact.signature.inputs]

    def run(arrays: Sequence[Any]) -> list[Any]:
        given = {value.name: array for value, array in zip(values, arrays, strict=False)}
        return list(artifact.run({name: given[name] for name in wanted}).values())

    return run


# Operands, by operator, whose values decide about the shape of a result or about which axes are meant.
_DECIDING = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}


def _deciding(model: onnx.ModelProto) -> set[str]:
    found = set()
    for node in model.graph.node:
        places = _DECIDING.get(node.op_type, ())
        if node.op_type.startswith("Reduce"):
            places = (1,)
        found |= {node.input[i] for i in places if i < len(node.input)}
    return found


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
