"""Channels last for the whole network, with transposes only where nothing else helps.

Every value is kept in whatever order of dimensions its producer likes, together with that order.
A convolution or pooling takes and gives (n, h, w, c); an operator that does not care (element-wise,
concatenation, reduction, ...) keeps the order of its operands; a transpose changes the order and
moves nothing; a reshape goes through where the dimensions that it joins lie together. Only an
operator that needs a certain order, or the end of the network, has the value moved.
"""

from __future__ import annotations

from tvm import IRModule, relax
from tvm.ir.expr import GenericConst

from dlcomp.graph.layout_rules import RULES
from dlcomp.graph.stored import Expr, Stored, Value, Values
from dlcomp.graph.walk import attributes, op_name, remove_dead_code


def channels_last(module: IRModule) -> IRModule:
    """``module`` with NCHW operators turned to NHWC; the signature of ``main`` is unchanged."""
    main = module["main"]
    values = Values(module)
    builder = values.builder
    with builder.function("main", list(main.params), attrs=attributes(main)):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    if isinstance(binding, relax.MatchCast):
                        values.env[binding.var] = _cast(values, binding)
                        continue
                    values.env[binding.var] = _visit(values, binding.value)
            result = builder.emit_output(values.plain(main.body.body))
        builder.emit_func_output(result)
    return remove_dead_code(builder.finalize())


def _cast(values: Values, binding: relax.MatchCast) -> Value:
    """A check of dimensions that must be equal: on the value as it lies."""
    ty = binding.ty
    value = _visit(values, binding.value)
    if not isinstance(value, Stored):
        return values.builder.match_cast(value, ty)
    kind = str(ty.dtype.dtype)
    if ty.shape is None:
        moved = relax.TensorType(None, kind, ndim=int(ty.ndim))
    else:
        moved = relax.TensorType([ty.shape[d] for d in value.order], kind)
    return Stored(values.builder.match_cast(value.expr, moved), value.order)


def _visit(values: Values, value: Expr) -> Value:
    """The new form of one bound value: by the rule of its operator, else in logical order."""
    if isinstance(value, relax.Var):
        return values.env.get(value, value)
    if isinstance(value, relax.Call):
        rule = RULES.get(op_name(value))
        new = rule(values, value) if rule else None
        if new is not None:
            return new
        args = [values.plain(a) for a in value.args]
        value = relax.Call(value.op, args, value.attrs, value.ty_args)
    elif isinstance(value, relax.TupleGetItem):
        source, index = value.tuple_value, int(value.index)
        found = values.env.get(source) if isinstance(source, relax.Var) else None
        if isinstance(found, tuple):
            return found[index]
        value = relax.TupleGetItem(values.plain(source), index)
    else:
        value = values.plain(value)
    if isinstance(value, (GenericConst, relax.Tuple, relax.ShapeExpr)):
        return value
    return values.builder.emit(value)
