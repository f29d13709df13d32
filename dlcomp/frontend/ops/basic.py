"""Operators whose conversion by TVM is slow, unsafe or hides from later passes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import ir, relax

# Generated loops count with 32 bits.
_MOST_ELEMENTS = 2**31 - 1


def _clip(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Clip of floats with constant bounds as ``relax.clip`` or ``relu``.

    TVM's converter calls two TensorIR functions per Clip, which no layout or fusion pattern sees through.
    """
    data = inputs[0]
    if "float" not in str(data.ty.dtype.dtype):
        return None
    low = _bound(inputs, 1, attrs.get("min"), -math.inf)
    high = _bound(inputs, 2, attrs.get("max"), math.inf)
    if low is None or high is None:
        return None
    if high == math.inf and low in (0, -math.inf):
        return relax.op.nn.relu(data) if low == 0 else data
    return relax.op.clip(data, low, high)


def _bound(inputs: Any, index: int, attribute: Any, default: float) -> float | None:
    """A constant bound; ``default`` if it is absent or NaN; None if it is computed at run time."""
    operand = inputs[index]
    if operand is None:
        value = default if attribute is None else float(attribute)
    elif isinstance(operand, ir.GenericConst) and math.prod(operand.value.shape) == 1:
        value = operand.value.numpy().item()
    else:
        return None
    return default if math.isnan(value) else value


def _pairwise(op: Callable[[Any, Any], Any]) -> Callable[[Any, dict[str, Any]], Any]:
    """Max, Min and Sum of any number of operands, two by two.

    TVM's converter broadcasts, stacks and reduces them: three passes over memory and no fusion.
    """

    def convert(inputs: Any, attrs: dict[str, Any]) -> Any:
        operands = list(inputs)
        if len(operands) < 2 or all(isinstance(operand, ir.GenericConst) for operand in operands):
            return None
        return functools.reduce(op, operands)

    return convert


def _gather(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Gather along an axis of static size; indices out of bounds are clipped into it.

    TVM's converter reads the size at run time and then takes without a check, which crashes the
    process on an index out of bounds.
    """
    data, indices = inputs[0], inputs[1]
    if isinstance(data, ir.GenericConst) and isinstance(indices, ir.GenericConst):
        return None
    if not (isinstance(data.ty, relax.TensorType) and isinstance(indices.ty, relax.TensorType)):
        return None
    axis = int(attrs.get("axis", 0)) % len(data.ty.shape)
    size = int(data.ty.shape[axis])
    dtype = str(indices.ty.dtype.dtype)
    if isinstance(indices, ir.GenericConst):
        array = indices.value.numpy()
        if array.size and not (-size <= array.min() and array.max() < size):
            raise ValueError(f"constant indices out of bounds: {array.min()} to {array.max()}, size {size}")
        positive: Any = relax.const(np.where(array < 0, array + size, array).astype(dtype), dtype)
    else:
        negative = relax.op.less(indices, relax.const(0, dtype))
        positive = relax.op.where(negative, relax.op.add(indices, relax.const(size, dtype)), indices)
    return relax.op.take(data, positive, axis, mode="clip")


def _constant_of_shape(inputs: Any, attrs: dict[str, Any]) -> Any:
    """A ConstantOfShape too large to fold as ``relax.full``; TVM's converter allocates all of it."""
    if not isinstance(inputs[0], ir.GenericConst):
        return None
    shape = [int(dim) for dim in inputs[0].value.numpy().reshape(-1)]
    if min(shape, default=1) < 0 or math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"a tensor of the shape {shape} is too large")
    filling = numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, "float32")
    return relax.op.full(shape, relax.const(filling.reshape(())), str(filling.dtype))


CONVERTERS: Mapping[str, Callable[[Any, dict[str, Any]], Any]] = {
    "Clip": _clip,
    "ConstantOfShape": _constant_of_shape,
    "Gather": _gather,
    "Max": _pairwise(relax.op.maximum),
    "Min": _pairwise(relax.op.minimum),
    "Sum": _pairwise(relax.op.add),
}
