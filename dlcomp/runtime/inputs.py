"""Inputs of a run: checked against the signature all at once, and made up where nobody gives any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlcomp.errors import UsageError
from dlcomp.model import Signature, TensorSpec
from dlcomp.target_data import near


def ordered(inputs: Mapping[str, Any], signature: Signature) -> list[np.ndarray]:
    """The arrays in the signature's order.

    Raises
    ------
    UsageError
        If a name, shape or dtype is not exactly what the signature says; all faults are in one message.
    """
    if not isinstance(inputs, Mapping):
        raise UsageError(f"inputs are a mapping of name to array, not {type(inputs).__name__}")
    arrays = []
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if type(array) is not np.ndarray or array.shape != spec.shape or array.dtype != spec.dtype:
            return _slowly(inputs, signature)
        arrays.append(array)
    return arrays if len(inputs) == len(arrays) else _slowly(inputs, signature)


def complete(signature: Signature, given: Mapping[str, Any] | None, seed: int = 0) -> dict[str, Any]:
    """``given`` and random arrays for every other input.

    Raises
    ------
    UsageError
        If an input of open size is not given.
    """
    rest = tuple(spec for spec in signature.inputs if spec.name not in (given or {}))
    return {**random_inputs(Signature(rest, ()), seed), **(given or {})}


def _slowly(inputs: Mapping[str, Any], signature: Signature) -> list[np.ndarray]:
    """:func:`ordered` for whatever is not an exact ndarray: converts, or says everything that is wrong."""
    names = [spec.name for spec in signature.inputs]
    faults, hints, arrays = [], [], []
    sizes: dict[str, int] = {}
    for name in inputs:
        if name not in names:
            faults.append(f"no input is named {name!r}")
            hints.append(f"nearest: {', '.join(near(str(name), names))}")
    for spec in signature.inputs:
        if spec.name not in inputs:
            faults.append(f"input {spec.name!r} is missing ({spec})")
            continue
        array = _as_array(inputs[spec.name])
        fault, hint = _mismatch(array, spec, sizes)
        if fault:
            faults.append(fault)
            hints.append(hint)
        arrays.append(array)
    if faults:
        expected = "expected " + ", ".join(map(str, signature.inputs))
        raise UsageError("; ".join(faults), hint="; ".join([*dict.fromkeys(hints), expected]))
    return arrays


def _as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as err:
        raise UsageError(f"an input is no array: {err}") from err


def _mismatch(array: np.ndarray, spec: TensorSpec, sizes: dict[str, int]) -> tuple[str, str]:
    """What is wrong with ``array``, and a hint; ``sizes`` are those of the open dimensions so far."""
    if array.dtype != spec.dtype:
        # Another byte order has the same name but is another dtype.
        given = array.dtype.name if array.dtype.isnative else array.dtype.str
        return f"input {spec.name!r} is {given}, not {spec.dtype}", f"array.astype({spec.dtype!r})"
    want = f"({', '.join(map(str, spec.shape))})"
    wrong = f"input {spec.name!r} has shape {array.shape}, not {want}"
    hint = "" if spec.is_open else "shapes are fixed when compiling"
    if array.ndim != len(spec.shape):
        return wrong, hint
    for dim, size in zip(spec.shape, array.shape, strict=True):
        if isinstance(dim, str):
            if sizes.setdefault(dim, size) != size:
                return f"{wrong} with {dim} = {sizes[dim]}", "a dimension with one name has one size"
        elif dim != size:
            return wrong, hint
    return "", ""


def random_inputs(
    signature: Signature, seed: int = 0, shapes: Mapping[str, Sequence[int | str]] | None = None
) -> dict[str, np.ndarray]:
    """One array an input: standard normal for floats, the whole range for 8-bit integers, else 0 or 1.

    Wider integers are mostly indices, masks and lengths, for which 0 and 1 are in range everywhere.
    ``shapes`` are those of inputs with open dimensions.

    Raises
    ------
    UsageError
        If an open dimension gets no size.
    """
    generator = np.random.default_rng(seed)
    return {
        spec.name: _random(spec, generator, (shapes or {}).get(spec.name, spec.shape))
        for spec in signature.inputs
    }


def _random(spec: TensorSpec, generator: np.random.Generator, shape: Sequence[int | str]) -> np.ndarray:
    if spec.dtype == "str":
        raise UsageError(f"input {spec.name!r} takes strings", hint="give the input itself")
    dtype = np.dtype(spec.dtype)
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if len(sizes) < len(shape):
        raise UsageError(
            f"input {spec.name!r} has open dimensions: {spec}",
            hint=f"give the input itself, or its shape: {spec.shape_option()}",
        )
    if dtype.kind == "f":
        values = generator.standard_normal(sizes, dtype=np.float32)
        return np.asarray(values, dtype=dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        info = np.iinfo(dtype)
        return generator.integers(info.min, info.max, sizes, dtype=dtype, endpoint=True)
    return np.asarray(generator.integers(0, 2, sizes), dtype=dtype)
