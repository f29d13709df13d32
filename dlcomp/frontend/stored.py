"""The elements of a stored tensor, wherever they are: in the network's message, or in a file beside it.

Weights of more than a message can hold stay in their files and are mapped into memory, so that a network of
many gigabytes is never held twice. In its tensors stand then the files' absolute paths.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcomp.errors import ModelError

# What one protobuf message can hold, less what the structure may take.
MESSAGE_BYTES = 2**31 - 2**27


def is_mapped(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def map_to(tensor: onnx.TensorProto, path: os.PathLike[str], offset: int, length: int) -> None:
    """Leave the elements of ``tensor`` in a file."""
    del tensor.external_data[:]
    for key, value in (("location", os.fspath(path)), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def array_of(tensor: onnx.TensorProto) -> np.ndarray:
    """The elements of ``tensor``; of one in a file, read-only and read only where they are used.

    Raises
    ------
    ModelError
        The file has gone or become shorter since the network was read.
    """
    if not is_mapped(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    path, offset, length = _place(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if length != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{length} bytes are not {dtype}{list(shape)}")
    try:
        data = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(length,))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the file of its external data cannot be read any more: {error}",
            where=f"tensor {tensor.name!r}",
            hint="keep the data beside the model until it is compiled",
        ) from error
    array: np.ndarray = data.view(dtype).reshape(shape)
    return array


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries["offset"]), int(entries["length"])


def mapped(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The weights of ``graph`` that are in files."""
    return (tensor for tensor in graph.initializer if is_mapped(tensor))


def without_weights(network: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``network`` without its initializers."""
    result = onnx.ModelProto(ir_version=network.ir_version)
    result.opset_import.extend(network.opset_import)
    result.functions.extend(network.functions)
    result.graph.name = network.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(result.graph, field).extend(getattr(network.graph, field))
    return result


def without_mapped(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with the weights in files as inputs, for libraries that would look for the files."""
    if not any(mapped(network.graph)):
        return network
    result = without_weights(network)
    # Before IR version 4 every initializer had to be an input.
    result.ir_version = max(result.ir_version, 4)
    source, graph = network.graph, result.graph
    listed = {value.name for value in source.input}
    for tensor in source.initializer:
        if not is_mapped(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return result


def message_of(network: onnx.ModelProto, where: str) -> bytes:
    """``network`` as one message with all its weights.

    Raises
    ------
    ModelError
        They are more than a message can hold.
    """
    held = sum(_place(tensor)[2] for tensor in mapped(network.graph))
    if not held:
        return bytes(network.SerializeToString())
    if held + network.ByteSize() > MESSAGE_BYTES:
        raise ModelError(
            f"it has {held} bytes of weights, and another runtime can be given at most {MESSAGE_BYTES} here",
            where=where,
            hint="compare on a smaller model of the same kind",
        )
    result = onnx.ModelProto()
    result.CopyFrom(network)
    for tensor in mapped(result.graph):
        tensor.raw_data = array_of(tensor).tobytes()
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return bytes(result.SerializeToString())
