"""Give every input a shape: by what the file says, what the user says, and shared symbols.

A dimension that nobody gives a size stays open, under its name in the file, the name that the user gives it
or, for an anonymous one, the input's name and its place.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from dlcomp.errors import UsageError
from dlcomp.frontend.check import real_inputs, require_sizes

# Exporters write these for "unknown"; two of them need not be equal.
_ANONYMOUS = frozenset({"", "?", "-1", "None"})

Dim = int | str
Dims = tuple[Dim, ...]


def declared(value: onnx.ValueInfoProto, *, least: int = 1) -> Dims | None:
    """The shape in the file: an int, a symbol, or ``?`` for each dimension; None for unknown rank.

    Exporters write -1 or 0 where they do not know a size; what is below ``least`` is taken so.
    """
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(_dim(dim, least) for dim in tensor.shape.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension, least: int) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value >= least:
        return int(dim.dim_value)
    return "?" if dim.dim_param in _ANONYMOUS else str(dim.dim_param)


def bind(network: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> onnx.ModelProto:
    """A copy of ``network`` with these input shapes; a dimension given as a name stays open.

    Raises
    ------
    UsageError
        Unknown names, wrong ranks, contradictions, dimensions below 1, or an input of unknown rank.
    """
    inputs = {value.name: declared(value) for value in real_inputs(network.graph)}
    given = {name: _checked(name, shape, inputs) for name, shape in shapes.items()}
    symbols = _solve(inputs, given)
    bound: dict[str, Dims | None] = {}
    for name, dims in inputs.items():
        known = None if dims is None else tuple(symbols.get(d, d) if isinstance(d, str) else d for d in dims)
        bound[name] = _named(name, given.get(name, known))
    _require_ranks(bound)

    result = onnx.ModelProto()
    result.CopyFrom(network)
    for value in real_inputs(result.graph):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for dim in bound[value.name] or ():
            if isinstance(dim, int):
                shape.dim.add().dim_value = dim
            else:
                shape.dim.add().dim_param = dim
        value.type.tensor_type.shape.SetInParent()
    return result


def _named(name: str, dims: Dims | None) -> Dims | None:
    """``dims`` with a name for every anonymous one."""
    if dims is None:
        return None
    return tuple(f"{name}_{axis}" if dim == "?" else dim for axis, dim in enumerate(dims))


def _checked(name: str, shape: Sequence[Dim], inputs: Mapping[str, Dims | None]) -> Dims:
    """The shape the user gave for ``name``, if it can be that input's."""
    if name not in inputs:
        near = difflib.get_close_matches(name, inputs, n=3, cutoff=0.4) or list(inputs)[:5]
        raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(map(repr, near))}")
    where = f"shape of input {name!r}"
    try:
        if isinstance(shape, str):
            raise TypeError
        dims = tuple(_size_or_name(dim) for dim in shape)
    except TypeError as error:
        raise UsageError(f"expected a sequence of integers and names, got {shape!r}", where=where) from error
    require_sizes(tuple(dim for dim in dims if isinstance(dim, int)), where)
    expected = inputs[name]
    if expected is None:
        return dims
    if len(dims) != len(expected):
        raise UsageError(
            f"got {len(dims)} dimensions {dims}, the model has {len(expected)}: {_text(expected)}",
            where=where,
        )
    for axis, (dim, want) in enumerate(zip(dims, expected, strict=True)):
        if isinstance(want, int) and dim != want:
            raise UsageError(
                f"dimension {axis} is {want} in the model, got {dim}",
                where=where,
                hint=f"the model's shape is {_text(expected)}; only the names and ? can be chosen",
            )
    return dims


def _size_or_name(dim: Any) -> Dim:
    if isinstance(dim, str):
        if not dim.replace("_", "a").replace(".", "a").isalnum() or dim[0].isdigit():
            raise TypeError
        return dim
    return operator.index(dim)


def _solve(inputs: Mapping[str, Dims | None], given: Mapping[str, Dims]) -> dict[Dim, Dim]:
    """The number of each named symbol, from the shapes that were given."""
    symbols: dict[Dim, Dim] = {}
    origin: dict[Dim, str] = {}
    for name, dims in given.items():
        for dim, want in zip(dims, inputs[name] or (), strict=False):
            if not isinstance(want, str) or want == "?":
                continue
            if symbols.setdefault(want, dim) != dim:
                raise UsageError(
                    f"dimension {want!r} is {symbols[want]} in input {origin[want]!r} and {dim} in {name!r}",
                    hint="a dimension with one name has one size",
                )
            origin.setdefault(want, name)
    return symbols


def _require_ranks(bound: Mapping[str, Dims | None]) -> None:
    loose = [name for name, dims in bound.items() if dims is None]
    if not loose:
        return
    flags = " ".join(f"--shape {name}:..." for name in loose)
    raise UsageError(
        f"inputs of unknown rank: {', '.join(map(repr, loose))}",
        hint=f"give each a shape, numbers or names: {flags}",
    )


def _text(dims: Dims | None) -> str:
    return "of unknown rank" if dims is None else f"[{', '.join(map(str, dims))}]"
