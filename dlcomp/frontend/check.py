"""Is this network sound? ONNX's own checker and strict shape inference, with short messages.

What passes here may go into the C++ of TVM, so the checks are stricter than ONNX's: tensor
sizes, names and types that those libraries take on trust.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.read import tensors
from dlcomp.frontend.stored import array_of, without_mapped

_NO_NUMBERS = frozenset(
    onnx.TensorProto.DataType.Value(name) for name in ("UNDEFINED", "STRING", "COMPLEX64", "COMPLEX128")
)


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives; older files list the initializers among the inputs too."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def dtype_name(elem_type: int) -> str:
    """NumPy's name of an ONNX element type, or ONNX's own where NumPy has none."""
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        return f"type {elem_type}"


def check_network(network: onnx.ModelProto, name: str) -> None:
    """Refuse a broken network.

    Raises
    ------
    ModelError
        Naming the node, tensor or value concerned.
    """
    graph = network.graph
    if network.ByteSize() >= 2**31:
        raise ModelError(
            "its message has more than 2 GiB", where=name, hint="save the model with external data"
        )
    if not graph.output:
        raise ModelError("the graph has no outputs", where=name, hint="the file may be truncated")
    if graph.sparse_initializer:
        raise ModelError("sparse initializers are not supported", where=name)
    _check_opset(network, name)
    for tensor in tensors(graph):
        _check_tensor(tensor, name)
    try:
        with _ranks_for_the_checker(graph):
            onnx.checker.check_model(without_mapped(network))
    except onnx.checker.ValidationError as error:
        raise ModelError(_concise(error), where=name, hint=_hint(error)) from error
    except Exception as error:
        raise ModelError(f"the ONNX checker failed: {_concise(error)}", where=name) from error
    _check_values(graph, name)


@contextmanager
def _ranks_for_the_checker(graph: onnx.GraphProto) -> Iterator[None]:
    """Values of unknown rank are legal and common, but the checker wants a shape on every one."""
    bare = [
        value.type.tensor_type
        for value in (*graph.input, *graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    for tensor_type in bare:
        tensor_type.shape.SetInParent()
    try:
        yield
    finally:
        for tensor_type in bare:
            tensor_type.ClearField("shape")


def infer(network: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The network with every value's shape and type worked out again from its inputs.

    Recorded shapes are dropped first: exporters leave stale ones, and they contradict bound inputs. Only
    where nothing is known of an output it keeps the rank that was recorded.

    Raises
    ------
    ModelError
        A node whose operands do not fit together.
    """
    fresh = onnx.ModelProto()
    fresh.CopyFrom(network)
    del fresh.graph.value_info[:]
    recorded = {}
    for value in fresh.graph.output:
        if value.type.tensor_type.HasField("shape"):
            recorded[value.name] = len(value.type.tensor_type.shape.dim)
            value.type.tensor_type.ClearField("shape")
    try:
        graph = inferred(fresh, strict=True)
    except Exception as error:
        raise ModelError(
            f"the operands of a node do not fit together: {_concise(error)}",
            where=name,
            hint="check the input shapes that were given, or the export",
        ) from error
    fresh.graph.value_info.extend(graph.value_info)
    del fresh.graph.output[:]
    fresh.graph.output.extend(graph.output)
    for value in fresh.graph.output:
        tensor = value.type.tensor_type
        if value.name in recorded and not tensor.HasField("shape"):
            tensor.shape.SetInParent()
            for _ in range(recorded[value.name]):
                tensor.shape.dim.add()
    return fresh


def _check_tensor(tensor: onnx.TensorProto, name: str) -> None:
    where = f"{name}, tensor {tensor.name!r}"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"it has a negative dimension: {list(tensor.dims)}", where=where)
    if tensor.data_type == onnx.TensorProto.STRING:
        return
    try:
        array = array_of(tensor)
    except Exception as error:
        kind = dtype_name(tensor.data_type)
        raise ModelError(f"its data does not fit {kind}{list(tensor.dims)}: {error}", where=where) from error
    if array.size != math.prod(tensor.dims):
        raise ModelError(f"it holds {array.size} elements for the shape {list(tensor.dims)}", where=where)


def _check_values(graph: onnx.GraphProto, name: str) -> None:
    """Names are unique and produced, and the values at the border are tensors of numbers."""
    made = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    made.update(output for node in graph.node for output in node.output)
    for kind, values in (("input", real_inputs(graph)), ("output", list(graph.output))):
        names = [value.name for value in values]
        for value in values:
            if names.count(value.name) > 1:
                raise ModelError(f"two {kind}s have the name {value.name!r}", where=name)
            if value.type.WhichOneof("value") != "tensor_type":
                raise ModelError(f"{kind} {value.name!r} is not a tensor", where=name)
            if value.type.tensor_type.elem_type in _NO_NUMBERS:
                found = dtype_name(value.type.tensor_type.elem_type)
                raise ModelError(f"{kind} {value.name!r} holds {found}, not numbers", where=name)
            if value.name not in made:
                raise ModelError(f"no node makes the {kind} {value.name!r}", where=name)


def _concise(error: Exception) -> str:
    """The checker's first line, then the node it was looking at."""
    text = str(error)
    text = re.sub(r"\[(ShapeInferenceError|TypeInferenceError)\]\s*", "", text)
    text = re.sub(r"Inference error\(s\):\s*", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    context = next((line for line in lines[1:] if "Name:" in line and "OpType:" in line), "")
    match = re.search(r"Name: ?(.*?) ?OpType: ?(\S+)", context)
    node = f" (node {match.group(1)!r}, {match.group(2)})" if match else ""
    return f"{lines[0][:400]}{node}"


def _check_opset(network: onnx.ModelProto, name: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in network.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(
                f"the network has opset {opset.version}; the installed onnx knows 1 to {newest}",
                where=name,
                hint="update onnx, or export with an older opset",
            )


def _hint(error: Exception) -> str | None:
    if "No Op registered" in str(error):
        return "a misspelt or custom operator; custom ones need their own domain"
    return None


def require_sizes(dims: tuple[int, ...], where: str) -> None:
    """Refuse negative dimensions.

    Raises
    ------
    UsageError
    """
    if any(dim < 0 for dim in dims):
        raise UsageError(f"no dimension can be negative, got {dims}", where=where)
