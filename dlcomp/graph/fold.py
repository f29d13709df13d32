"""Evaluates what depends on constants alone, in NumPy.

TVM's FoldConstant compiles and runs a kernel for every such call, which takes seconds a network;
the operators that occur between constants are few and NumPy has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import IRModule, relax

from dlcomp.graph.walk import array_of, constant, op_name, rebuild, static_shape_of

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.power": np.power,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.negative": np.negative,
    "relax.sqrt": np.sqrt,
    "relax.rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "relax.exp": np.exp,
    "relax.isnan": np.isnan,
    "relax.where": np.where,
}
# Their result is a view of the first argument with the shape that Relax inferred.
_RESHAPES = {"relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"}


def fold_constants(module: IRModule) -> IRModule:
    """``module`` with calls on constants replaced by their values."""

    def step(builder: relax.BlockBuilder, value: Any) -> Any:
        folded = evaluate(builder, value)
        return value if folded is None else constant(folded)

    return rebuild(module, step)


def evaluate(builder: relax.BlockBuilder, call: Any) -> np.ndarray | None:
    """The value of a call on constants; None for anything else."""
    name = op_name(call)
    first = array_of(call.args[0]) if name and call.args else None
    if first is None:
        return None
    if name in _RESHAPES:
        shape = static_shape_of(builder.normalize(call))
        return None if shape is None else first.reshape(shape)
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        return np.transpose(first, None if axes is None else [int(a) for a in axes])
    if name == "relax.astype":
        return first.astype(str(call.attrs.dtype))
    function = _ELEMENTWISE.get(name)
    values = [array_of(a) for a in call.args]
    if function is None or any(v is None for v in values):
        return None
    with np.errstate(all="ignore"):
        result = np.asarray(function(*values))
    return result
