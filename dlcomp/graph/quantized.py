"""Steps between floats and integers, so that every processor computes the same integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import IRModule, relax, te, tirx

from dlcomp.graph.operations import rounded
from dlcomp.graph.walk import array_of, constant, dtype_of, op_name, rebuild, shape_of


def exact_steps(module: IRModule) -> IRModule:
    """``module`` with the steps of quantized arithmetic that a processor might take in its own way fixed.

    A float32 clip that becomes integers is a minimum and a maximum. The clip that floats keep makes choices
    by comparisons, so that NaN stays NaN; no integer is NaN, and of a chain of such choices, two
    quantizations behind each other, LLVM takes seconds to analyse.

    What integers are scaled by is rounded before anything is added: a multiplication and an addition in one
    instruction, which not all have and which of two products it takes is open, would round once.

    What a zero point adds to a sum, and a bias, are one constant.
    """
    return rebuild(module, _step)


def _step(builder: relax.BlockBuilder, value: Any) -> Any:
    def bound(expr: Any) -> Any:
        return builder.lookup_binding(expr) if isinstance(expr, relax.Var) else None

    if op_name(value) == "relax.astype" and dtype_of(value.args[0]) == str(value.attrs.dtype):
        return value.args[0]
    if op_name(value) == "relax.astype" and "int" in str(value.attrs.dtype):
        clip = bound(value.args[0])
        if op_name(clip) == "relax.clip" and dtype_of(clip.args[0]) == "float32":
            return _saturated(builder, clip, str(value.attrs.dtype))
    if op_name(value) == "relax.add":
        source, added = bound(value.args[0]), array_of(value.args[1])
        taken = array_of(source.args[1]) if op_name(source) == "relax.subtract" else None
        if added is not None and taken is not None and added.dtype == taken.dtype == np.int32:
            return relax.op.add(source.args[0], constant(added - taken))
    if op_name(value) == "relax.multiply" and array_of(value.args[1]) is not None:
        source = bound(value.args[0])
        if op_name(source) == "relax.subtract" and array_of(source.args[1]) is not None:
            source = bound(source.args[0])
        if op_name(source) == "relax.astype" and "int" in dtype_of(source.args[0]):
            return _scaled(builder, value)
    return value


def _saturated(builder: relax.BlockBuilder, clip: Any, kind: str) -> Any:
    low, high = (tirx.const(float(edge.value), "float32") for edge in clip.args[1:])

    def define(x: Any) -> Any:
        def at(*i: Any) -> Any:
            return tirx.Cast(kind, tirx.min(tirx.max(x(*i), low), high))

        return te.compute(x.shape, at, name="saturate")

    return builder.call_te(define, clip.args[0], primfunc_name_hint="saturate")


def _scaled(builder: relax.BlockBuilder, product: Any) -> Any:
    product = builder.normalize(product)
    shape, given = shape_of(product), [shape_of(arg) for arg in product.args]
    if shape is None or given[0] != shape or given[1] is None or dtype_of(product) != "float32":
        return product

    def define(x: Any, scale: Any) -> Any:
        def at(*i: Any) -> Any:
            own = i[len(i) - len(scale.shape) :]
            places = [0 if int(size) == 1 else place for size, place in zip(scale.shape, own, strict=True)]
            return rounded(x(*i) * scale(*places))

        return te.compute(x.shape, at, name="scale")

    return builder.call_te(define, *product.args, primfunc_name_hint="scale")
