"""Rebuilding ``main`` binding by binding: what the graph passes have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import IRModule, relax
from tvm.ir.expr import GenericConst

from dlcomp.frontend.symbolic import dim_of, is_open

Expr = Any
Step = Callable[[relax.BlockBuilder, Expr], Expr]


def rebuild(module: IRModule, step: Step) -> IRModule:
    """``main`` with every bound value replaced by ``step(builder, value)``.

    ``step`` sees calls, tuples and tuple elements in order, their variables already replaced, and
    returns an expression: a new call, a variable or a constant. Other functions of the module stay.
    """
    main = module["main"]
    builder = builder_without_main(module)
    env: dict[Any, Expr] = {}

    def new(expr: Expr) -> Expr:
        if isinstance(expr, relax.Var):
            return env.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([new(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            source = new(expr.tuple_value)
            if isinstance(source, relax.Tuple):
                return source.fields[int(expr.index)]
            return relax.TupleGetItem(source, int(expr.index))
        if isinstance(expr, relax.Call):
            return relax.Call(expr.op, [new(a) for a in expr.args], expr.attrs, expr.ty_args)
        return expr

    with builder.function("main", list(main.params), attrs=attributes(main)):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    if isinstance(binding, relax.MatchCast):
                        env[binding.var] = builder.match_cast(new(binding.value), binding.ty)
                        continue
                    value = step(builder, new(binding.value))
                    env[binding.var] = _bind(builder, value)
            result = builder.emit_output(_bind(builder, new(main.body.body)))
        builder.emit_func_output(result)
    return remove_dead_code(builder.finalize())


def builder_without_main(module: IRModule) -> relax.BlockBuilder:
    """A builder that holds every function of ``module`` but ``main``, to write that one anew."""
    rest = {var: func for var, func in module.functions.items() if var.name_hint != "main"}
    return relax.BlockBuilder(IRModule(rest, attrs=module.attrs))


def attributes(func: Any) -> dict[str, Any]:
    """A function's attributes as a dict, without the symbol that the builder sets itself."""
    return {k: v for k, v in func.attrs.items() if k != "global_symbol"} if func.attrs else {}


def _bind(builder: relax.BlockBuilder, value: Expr) -> Expr:
    """Calls get a variable; constants, variables and tuples stand for themselves."""
    if isinstance(value, (relax.Var, GenericConst, relax.ShapeExpr)):
        return value
    if isinstance(value, relax.Tuple) and all(
        isinstance(f, (relax.Var, GenericConst, relax.Tuple)) for f in value.fields
    ):
        return value
    return builder.emit(value)


def remove_dead_code(module: IRModule) -> IRModule:
    """Bindings and functions that nothing uses are dropped."""
    return relax.transform.DeadCodeElimination(["main"])(module)


def shape_of(expr: Expr) -> tuple[Any, ...] | None:
    """The shape of a tensor expression, an open dimension as a TIR expression; None if it has none."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    return tuple(dim_of(extent) for extent in ty.shape)


def static_shape_of(expr: Expr) -> tuple[int, ...] | None:
    """The shape of a tensor expression; None if a dimension is open."""
    shape = shape_of(expr)
    return None if shape is None or is_open(shape) else shape


def dtype_of(expr: Expr) -> str:
    """The NumPy name of a tensor expression's element type."""
    return str(expr.ty.dtype.dtype)


def array_of(expr: Expr) -> np.ndarray | None:
    """The value of a constant; None for anything else."""
    return np.asarray(expr.value.numpy()) if isinstance(expr, GenericConst) else None


def constant(value: np.ndarray) -> Expr:
    """A Relax constant of ``value``, in its dtype (which ``relax.const`` would narrow to 32 bits)."""
    return relax.const(np.ascontiguousarray(value).reshape(value.shape), str(value.dtype))


def op_name(expr: Expr) -> str:
    """``relax.add`` for a call of that operator; empty for anything else."""
    if isinstance(expr, relax.Call) and hasattr(expr.op, "name"):
        return str(expr.op.name)
    return ""
