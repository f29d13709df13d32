"""Give every input a static shape: by what the file says, what the user says, and shared symbols."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Mapping, Sequence

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


def bind(network: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy of ``network`` with static input shapes.

    Raises
    ------
    UsageError
        Unknown names, wrong ranks, contradictions, dimensions below 1, or symbols left unbound.
    """
    inputs = {value.name: declared(value) for value in real_inputs(network.graph)}
    given = {name: _checked(name, shape, inputs) for name, shape in shapes.items()}
    symbols = _solve(inputs, given)
    bound: dict[str, Dims | None] = {}
    for name, dims in inputs.items():
        known = None if dims is None else tuple(symbols.get(d, d) if isinstance(d, str) else d for d in dims)
        bound[name] = given.get(name, known)
    _require_bound(bound)

    result = onnx.ModelProto()
    result.CopyFrom(network)
    for value in real_inputs(result.graph):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for dim in bound[value.name] or ():
            shape.dim.add().dim_value = int(dim)
        value.type.tensor_type.shape.SetInParent()
    return result


def _checked(name: str, shape: Sequence[int], inputs: Mapping[str, Dims | None]) -> tuple[int, ...]:
    """The shape the user gave for ``name``, if it can be that input's."""
    if name not in inputs:
        near = difflib.get_close_matches(name, inputs, n=3, cutoff=0.4) or list(inputs)[:5]
        raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(map(repr, near))}")
    where = f"shape of input {name!r}"
    try:
        if isinstance(shape, str):
            raise TypeError
        dims = tuple(operator.index(dim) for dim in shape)
    except TypeError as error:
        raise UsageError(f"expected a sequence of integers, got {shape!r}", where=where) from error
    require_sizes(dims, where)
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


def _solve(inputs: Mapping[str, Dims | None], given: Mapping[str, tuple[int, ...]]) -> dict[Dim, Dim]:
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


def _require_bound(bound: Mapping[str, Dims | None]) -> None:
    loose = {
        name: dims
        for name, dims in bound.items()
        if dims is None or any(isinstance(dim, str) for dim in dims)
    }
    if not loose:
        return
    lines = "; ".join(f"{name!r} is {_text(dims)}" for name, dims in loose.items())
    flags = " ".join(f"--shape {name}:{_example(dims)}" for name, dims in loose.items())
    keys = ", ".join(f"{name!r}: ({_example(dims)})" for name, dims in loose.items())
    raise UsageError(
        f"dimensions without a size: {lines}",
        hint=f"give each input a full shape, numbers for the names: {flags} or shapes={{{keys}}}",
    )


def _text(dims: Dims | None) -> str:
    return "of unknown rank" if dims is None else f"[{', '.join(map(str, dims))}]"


def _example(dims: Dims | None) -> str:
    """What to type: the known numbers, and a short letter for each open dimension."""
    if dims is None:
        return "..."
    letters = "NCHWDE" if len(dims) > 2 else "NK"
    known = (letters[min(axis, len(letters) - 1)] for axis in range(len(dims)))
    return ",".join(str(d) if isinstance(d, int) else letter for d, letter in zip(dims, known, strict=True))
