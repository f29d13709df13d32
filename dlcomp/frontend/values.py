"""Inputs that are fixed when the model is loaded: axes, target shapes, counts, all that never changes."""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend.check import dtype_name, real_inputs
from dlcomp.frontend.shapes import declared


class Stored(dict[str, np.ndarray]):
    """Arrays of a file, which may hold more than a network takes."""


def from_file(path: str | os.PathLike[str]) -> Stored:
    """The arrays of an ``.npz``, or of a file of parameters that TVM wrote.

    Raises
    ------
    UsageError
        No such file.
    ModelError
        It is neither.
    """
    from dlcomp.frontend.relay.metadata import parameters_of

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not data.startswith(b"PK"):
        return Stored(parameters_of(data, str(path)))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Stored({name: arrays[name] for name in arrays.files})
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"not an .npz of plain arrays: {error}", where=str(path)) from error


def values_of(given: Mapping[str, Any] | str | os.PathLike[str] | None) -> Mapping[str, Any]:
    """What ``values`` names: arrays by name, a file of them (:func:`from_file`), or nothing."""
    return from_file(given) if isinstance(given, str | os.PathLike) else given or {}


def fix(network: onnx.ModelProto, values: Mapping[str, Any]) -> onnx.ModelProto:
    """A copy of ``network`` in which the inputs named in ``values`` are constants.

    Raises
    ------
    UsageError
        No such input, another dtype, or a shape that the input cannot have.
    """
    if not values:
        return network
    inputs = {value.name: value for value in real_inputs(network.graph)}
    constants = {name: _checked(name, value, inputs) for name, value in values.items()}
    result = onnx.ModelProto()
    result.CopyFrom(network)
    kept = [value for value in network.graph.input if value.name not in constants]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    # Before IR version 4 every initializer had to be an input.
    result.ir_version = max(result.ir_version, 4)
    return result


def _checked(name: str, value: Any, inputs: Mapping[str, onnx.ValueInfoProto]) -> np.ndarray:
    if name not in inputs:
        near = difflib.get_close_matches(name, inputs, n=3, cutoff=0.4) or list(inputs)[:5]
        raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(map(repr, near))}")
    where, array = f"value of input {name!r}", np.asarray(value)
    wanted = dtype_name(inputs[name].type.tensor_type.elem_type)
    if str(array.dtype) != wanted:
        raise UsageError(f"it is {array.dtype}, the model has {wanted}", where=where)
    shape = declared(inputs[name])
    if shape is None:
        return array
    fits = len(shape) == array.ndim and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"it has the shape {list(array.shape)}, the model has {list(shape)}", where=where)
    return array
