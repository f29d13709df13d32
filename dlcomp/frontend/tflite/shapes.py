"""TFLite's operators that make tensors: of shapes, of one number, of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import OPEN, Tensor
from dlcomp.frontend.tflite.call import Call

_MOST = 2**24


def _shape(call: Call) -> Tensor:
    """Known at load unless a dimension is open."""
    b, x = call.b, call.arg(0)
    if OPEN not in x.shape:
        return b.constant(list(x.shape), call.result.dtype)
    return b.cast(b.op("Shape", [x]), call.result.dtype)


def _rank(call: Call) -> Tensor:
    return call.b.constant(call.arg(0).rank, "int32")


def _fill(call: Call) -> Tensor:
    b, value = call.b, _scalar(call, 1)
    if call.is_known(0):
        return b.spread(value, call.wholes(0, "the shape"))
    y = b.op("Expand", [value, b.wide(call.arg(0))])
    return Tensor(y.name, call.result.shape, y.dtype)


def _scalar(call: Call, place: int) -> Tensor:
    return call.b.reshape(call.arg(place), [])


def _range(call: Call) -> Tensor:
    b = call.b
    if not all(call.is_known(place) for place in range(3)):
        return b.op("Range", [_scalar(call, place) for place in range(3)])
    start, stop, step = (call.array(place, "a bound").item() for place in range(3))
    if not step or abs((stop - start) / step) > _MOST:
        raise ValueError(f"from {start} to {stop} in steps of {step}")
    return b.constant(np.arange(start, stop, step), call.result.dtype)


OPERATORS: Mapping[str, Any] = {"RANGE": _range}
MOVING: Mapping[str, Any] = {"FILL": _fill}
ALWAYS_MOVING: Mapping[str, Any] = {"RANK": _rank, "SHAPE": _shape}
