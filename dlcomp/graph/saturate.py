"""Bounds before a conversion to integers, in one step with it."""

from __future__ import annotations

from typing import Any

from tvm import IRModule, relax, te, tirx

from dlcomp.graph.walk import dtype_of, op_name, rebuild


def saturating(module: IRModule) -> IRModule:
    """``module`` with every float32 clip that becomes integers written as a minimum and a maximum.

    The clip that floats keep makes choices by comparisons, so that NaN stays NaN. No integer is NaN; and of a
    chain of such choices, two quantizations behind each other, LLVM takes seconds to analyse.
    """
    return rebuild(module, _step)


def _step(builder: relax.BlockBuilder, value: Any) -> Any:
    if op_name(value) != "relax.astype" or "int" not in str(value.attrs.dtype):
        return value
    source = value.args[0]
    clip = builder.lookup_binding(source) if isinstance(source, relax.Var) else None
    if clip is None or op_name(clip) != "relax.clip" or dtype_of(clip.args[0]) != "float32":
        return value
    kind = str(value.attrs.dtype)
    low, high = (tirx.const(float(bound.value), "float32") for bound in clip.args[1:])

    def define(x: Any) -> Any:
        def at(*i: Any) -> Any:
            return tirx.Cast(kind, tirx.min(tirx.max(x(*i), low), high))

        return te.compute(x.shape, at, name="saturate")

    return builder.call_te(define, clip.args[0], primfunc_name_hint="saturate")
