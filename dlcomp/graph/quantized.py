"""Steps between floats and integers, so that every processor computes the same integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import IRModule, relax, te, tirx

from dlcomp.graph.operations import rounded
from dlcomp.graph.walk import array_of, constant, dtype_of, op_name, rebuild, shape_of

Bound = Callable[[Any], Any]
# Whole numbers below are exact in float32 beside a number that leaves no place for fractions.
_FAR = 1 << 20
# Steps on elements may be fused behind (TVM's kOutEWiseFusable).
_FUSABLE = {"op_pattern": 4}


def exact_steps(module: IRModule) -> IRModule:
    """``module`` with the steps of quantized arithmetic that a processor might take in its own way fixed.

    A float32 clip that becomes integers is a minimum and a maximum. The clip that floats keep makes choices
    by comparisons, so that NaN stays NaN; no integer is NaN, and of a chain of such choices, two
    quantizations behind each other, LLVM takes seconds to analyse. Where the nearest whole number is clipped
    at whole numbers, it is clipped first, with all bounds that were set before, and then rounded: what is
    small is rounded by one addition. That gives the same integers, because rounding keeps order.

    What integers are scaled by is rounded before anything is added: a multiplication and an addition in one
    instruction, which not all have and which of two products it takes is open, would round once.

    What a zero point adds to a sum, and a bias, are one constant. A sum of 8-bit integers reads them as they
    are; widened by the layer before, they would be written and read in 32 bits.
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
            return _saturated(builder, clip, str(value.attrs.dtype), bound)
    if op_name(value) == "relax.sum" and dtype_of(value.args[0]) == "int32":
        source = bound(value.args[0])
        if op_name(source) == "relax.astype" and dtype_of(source.args[0]) in ("uint8", "int8"):
            return _summed(builder, value, source.args[0])
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


def _saturated(builder: relax.BlockBuilder, clip: Any, kind: str, bound: Bound) -> Any:
    low, high = (float(edge.value) for edge in clip.args[1:])
    source, zero = _before_rounding(clip.args[0], bound)
    if source is None or not (low.is_integer() and high.is_integer() and -_FAR < low <= high < _FAR):

        def define(x: Any) -> Any:
            def at(*i: Any) -> Any:
                value = tirx.max(x(*i), tirx.const(low, "float32"))
                return tirx.Cast(kind, tirx.min(value, tirx.const(high, "float32")))

            return te.compute(x.shape, at, name="saturate")

        return builder.call_te(define, clip.args[0], primfunc_name_hint="saturate")
    source, least, most = _tightened(source, low - zero, high - zero, bound)
    # Zero points are operands, so that layers which differ in nothing else have one kernel.
    shared = (least, most) == (low - zero, high - zero) and zero != 0

    def nearest(x: Any, *zeros: Any) -> Any:
        def at(*i: Any) -> Any:
            edges = [tirx.const(edge, "float32") for edge in ((low, high) if shared else (least, most))]
            added = zeros[0](0) if zeros else tirx.const(float(zero), "float32")
            if shared:
                edges = [edge - added for edge in edges]
            within = tirx.min(tirx.max(x(*i), edges[0]), edges[1])
            # Behind the sum with it a float32 has no fraction, and the whole number in its last bits.
            bits = tirx.call_intrin("int32", "tirx.reinterpret", within + tirx.const(1.5 * 2**23, "float32"))
            return tirx.Cast(kind, bits + tirx.Cast("int32", added) if zero else bits)

        return te.compute(x.shape, at, name="saturate")

    zeros = [constant(np.array([zero], np.float32))] if shared else []
    return builder.call_te(nearest, source, *zeros, primfunc_name_hint="saturate")


def _before_rounding(value: Any, bound: Bound) -> tuple[Any, int]:
    """What is rounded to the nearest, and the zero point added then; None and 0 if ``value`` is not such."""
    call, zero = bound(value), 0
    if op_name(call) == "relax.add":
        added = array_of(call.args[1])
        if added is None or added.size != 1 or shape_of(call.args[0]) != shape_of(value):
            return None, 0
        if not float(added.item()).is_integer() or abs(added.item()) >= _FAR:
            return None, 0
        call, zero = bound(call.args[0]), int(added.item())
    return (call.args[0], zero) if op_name(call) == "relax.round" else (None, 0)


def _tightened(value: Any, low: float, high: float, bound: Bound) -> tuple[Any, float, float]:
    """``value`` before the bounds that were set to it already, and all bounds together."""
    while True:
        call = bound(value)
        if op_name(call) == "relax.nn.relu":
            edges = [0.0, np.inf]
        elif op_name(call) == "relax.clip":
            edges = [float(np.float32(edge.value)) for edge in call.args[1:]]
        else:
            return value, low, high
        if not edges[0] <= edges[1]:
            return value, low, high
        least, most = (min(max(edge, low), high) for edge in edges)
        value, low, high = call.args[0], least, most


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


def _summed(builder: relax.BlockBuilder, total: Any, data: Any) -> Any:
    axes = None if total.attrs.axis is None else [int(axis) for axis in total.attrs.axis]

    def define(x: Any) -> Any:
        rank = len(x.shape)
        reduced = {axis % rank for axis in (range(rank) if axes is None else axes)}
        terms = {d: te.reduce_axis((0, x.shape[d]), f"k{d}") for d in sorted(reduced)}
        keeps = bool(total.attrs.keepdims)
        out = [1 if d in reduced else x.shape[d] for d in range(rank) if keeps or d not in reduced]

        def at(*indices: Any) -> Any:
            kept = [i for d, i in enumerate(indices) if not (keeps and d in reduced)]
            places = [terms[d] if d in reduced else kept.pop(0) for d in range(rank)]
            return te.sum(tirx.Cast("int32", x(*places)), axis=list(terms.values()))

        return te.compute(out, at, name="sum")

    return builder.call_te(define, data, primfunc_name_hint="sum", primfunc_attrs=_FUSABLE)
