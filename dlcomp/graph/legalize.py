"""Element-wise operators, reductions and softmax in TensorIR, where TVM's definition is slow or wrong.

Its elementary functions do not vectorize, its maximum loses NaN and starts from the least float, and
its fusion takes a broadcast for an epilogue. Everything else stays with TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from dlcomp.frontend.ops.open_resize import resized
from dlcomp.frontend.symbolic import is_open, product, size
from dlcomp.graph import integer_math, scalar_math
from dlcomp.graph.operations import nearest
from dlcomp.graph.walk import array_of, dtype_of, shape_of

Expr = Any
Legalize = Callable[[relax.BlockBuilder, Any], Any]
# Not to be fused behind another operator, but before one (TVM's kInjective).
_INJECTIVE = {"op_pattern": 2}
# From here on a sum over several axes is taken axis by axis.
_MANY_TERMS = 1024


def default(bb: relax.BlockBuilder, call: Any) -> Any:
    """TVM's own legalization."""
    return call.op.get_attr("FLegalize")(bb, call)


def is_f32(*exprs: Any) -> bool:
    return all(dtype_of(e) == "float32" for e in exprs)


def _unary(function: Callable[[Expr], Expr]) -> Legalize:
    """A float32 operator of one operand by ``function``; other types are left to TVM."""

    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        if not is_f32(call.args[0]):
            return default(bb, call)
        name = str(call.op.name).rsplit(".", 1)[-1]

        def define(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: function(x(*i)), name=name)

        return bb.call_te(define, call.args[0], primfunc_name_hint=name)

    return legalize


def _integers(function: Callable[[Expr, Expr], Expr], floats: Legalize) -> Legalize:
    """``function`` for integers, ``floats`` for every other type."""
    whole = _binary(function, lambda call: all("int" in dtype_of(arg) for arg in call.args))
    return lambda bb, call: (whole if "int" in dtype_of(call.args[0]) else floats)(bb, call)


def _binary(
    function: Callable[[Expr, Expr], Expr], takes: Callable[[Any], bool] = lambda call: is_f32(*call.args)
) -> Legalize:
    """An operator of two operands that broadcast, by ``function``; types that it does not take go to TVM."""

    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        shape = shape_of(call)
        if shape is None or not takes(call):
            return default(bb, call)
        name = str(call.op.name).rsplit(".", 1)[-1]

        def define(*operands: Any) -> Any:
            wide = [topi.broadcast_to(t, shape) if isinstance(t, te.Tensor) else t for t in operands]

            def at(*i: Any) -> Any:
                return function(*(t(*i) if isinstance(t, te.Tensor) else t for t in wide))

            return te.compute(shape, at, name=name)

        pattern = _INJECTIVE if _enlarges(call) else None
        return bb.call_te(define, *_operands(call), primfunc_name_hint=name, primfunc_attrs=pattern)

    return legalize


def _broadcasting(function: Callable[[Any, Any], Any]) -> Legalize:
    """TVM's definition of a binary operator, kept from fusing behind an operand that it enlarges.

    A convolution to one pixel whose result scales a whole image would be computed for every pixel.
    """

    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        if not _enlarges(call):
            return default(bb, call)
        name = str(call.op.name).rsplit(".", 1)[-1]
        return bb.call_te(function, *_operands(call), primfunc_name_hint=name, primfunc_attrs=_INJECTIVE)

    return legalize


def _enlarges(call: Any) -> bool:
    """Whether an operand that is computed at run time is smaller than the result."""
    result = shape_of(call)
    sizes = [shape_of(a) for a in call.args if array_of(a) is None]
    return result is not None and any(s is not None and size(s) < size(result) for s in sizes)


def _operands(call: Any) -> list[Any]:
    """The operands, constants of one element as numbers in the code."""
    rank = len(shape_of(call) or ())
    operands = []
    for arg in call.args:
        array = array_of(arg)
        single = array is not None and array.size == 1 and array.ndim <= rank
        operands.append(tirx.const(array.item(), str(array.dtype)) if single and array is not None else arg)
    return operands


def _extreme(combine: Callable[[Expr, Expr], Expr], start: float) -> Legalize:
    """A largest or smallest element: that of nothing is infinite, and a NaN among them is the result."""
    reducer = te.comm_reducer(combine, lambda dtype: tirx.const(start, dtype), name="extreme")

    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        shape, attrs = shape_of(call.args[0]), call.attrs
        if shape is None or attrs.axis is None or not is_f32(call.args[0]):
            return default(bb, call)
        reduced = {int(a) % len(shape) for a in attrs.axis}

        def define(x: Any) -> Any:
            # The kernel has its own symbols for open dimensions: those of x, not those of the graph.
            axes = {d: te.reduce_axis((0, x.shape[d]), f"k{d}") for d in sorted(reduced)}
            left = [1] if bool(attrs.keepdims) else []
            out = [d for i, dim in enumerate(x.shape) for d in (left if i in reduced else [dim])]

            def at(*indices: Any) -> Any:
                kept = list(indices)
                if bool(attrs.keepdims):
                    kept = [i for d, i in enumerate(indices) if d not in reduced]
                whole = [axes[d] if d in reduced else kept.pop(0) for d in range(len(shape))]
                return reducer(x(*whole), axis=list(axes.values()))

            return te.compute(out, at, name=name)

        name = str(call.op.name).rsplit(".", 1)[-1]
        return bb.call_te(define, call.args[0], primfunc_name_hint=name)

    return legalize


def _sum_by_axis(bb: relax.BlockBuilder, call: Any) -> Any:
    """A sum or mean over several axes, one axis a kernel where there is much to sum.

    One running sum over a whole image loses as many digits as it has terms; sums of sums do not, and
    their first stage has more rows for the cores to share.
    """
    data, attrs = call.args[0], call.attrs
    shape, out = shape_of(data), shape_of(call)
    if shape is None or out is None:
        return default(bb, call)
    axes = sorted({int(a) % len(shape) for a in attrs.axis} if attrs.axis is not None else range(len(shape)))
    open_ = is_open([shape[a] for a in axes])
    count = product([shape[a] for a in axes])
    if not open_ and count == 0 and str(call.op.name) == "relax.mean":
        # TVM folds the division by their number, and may not.
        return bb.call_te(lambda dims: topi.full(dims, dtype_of(data), float("nan")), out)
    if not is_f32(data):
        return default(bb, call)
    many = [a for a in axes if not isinstance(shape[a], int) or shape[a] > 1]
    if len(many) < 2 or (not open_ and count < _MANY_TERMS):
        return default(bb, call)
    result = data
    for axis in reversed(axes):
        result = bb.emit_te(topi.sum, result, axis=axis, keepdims=True, primfunc_name_hint="sum")
    result = bb.emit_te(topi.reshape, result, out)
    if str(call.op.name) == "relax.sum":
        return result
    divisor = tirx.Cast("float32", count) if open_ else tirx.const(float(count), "float32")
    return bb.call_te(topi.divide, result, divisor)


def _clip(bb: relax.BlockBuilder, call: Any) -> Any:
    low, high = (float(a.value) for a in call.args[1:])
    return _unary(lambda x: scalar_math.clip(x, scalar_math.f32(low), scalar_math.f32(high)))(bb, call)


def _power(bb: relax.BlockBuilder, call: Any) -> Any:
    """Squares and square roots are not left to a general power."""
    exponent = array_of(call.args[1])
    if (
        exponent is not None
        and exponent.size == 1
        and is_f32(*call.args)
        and shape_of(call) == shape_of(call.args[0])
    ):
        value = float(exponent.reshape(()))
        known: dict[float, Callable[[Expr], Expr]] = {
            2.0: lambda x: x * x,
            3.0: lambda x: x * x * x,
            0.5: scalar_math.square_root,
        }
        if value in known:
            return _unary(known[value])(bb, call)
    return default(bb, call)


def _softmax(bb: relax.BlockBuilder, call: Any) -> Any:
    """exp(x - max) / sum, with our exp."""
    data = call.args[0]
    shape = shape_of(data)
    if shape is None or not is_f32(data):
        return default(bb, call)
    axis = int(call.attrs.axis) % len(shape)

    def define(x: Any) -> Any:
        shape = x.shape
        rest = tuple(d for i, d in enumerate(shape) if i != axis)

        def without(indices: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(v for i, v in enumerate(indices) if i != axis)

        def put(indices: tuple[Any, ...], k: Any) -> tuple[Any, ...]:
            return (*indices[:axis], k, *indices[axis:])

        k = te.reduce_axis((0, shape[axis]), "k")
        largest = te.compute(rest, lambda *i: te.max(x(*put(i, k)), axis=[k]), name="largest")
        lifted = te.compute(
            shape, lambda *i: scalar_math.exp(x(*i) - largest(*without(i))), name="exponential"
        )
        k2 = te.reduce_axis((0, shape[axis]), "k")
        total = te.compute(rest, lambda *i: te.sum(lifted(*put(i, k2)), axis=[k2]), name="total")
        return te.compute(shape, lambda *i: lifted(*i) / total(*without(i)), name="softmax")

    return bb.call_te(define, data, primfunc_name_hint="softmax")


def _resize2d(bb: relax.BlockBuilder, call: Any) -> Any:
    """TVM's arithmetic of places is in float32, of which its own passes cannot bound an open size."""
    attrs = call.attrs
    if not is_open(shape_of(call.args[0]) or ()):
        return default(bb, call)
    axes = (2, 3) if str(attrs.layout) == "NCHW" else (1, 2)
    mode = "nearest" if str(attrs.method) == "nearest_neighbor" else "linear"
    forms = (str(attrs.coordinate_transformation_mode), str(attrs.rounding_method))

    def define(x: Any, sizes: Any) -> Any:
        return resized(x, sizes, axes, mode, *forms)

    return bb.call_te(define, call.args[0], list(call.args[1].values), primfunc_name_hint="resize2d")


ELEMENTWISE: dict[str, Legalize] = {
    "nn.relu": _unary(scalar_math.relu),
    "clip": _clip,
    "round": _unary(nearest),
    "exp": _unary(scalar_math.exp),
    "sigmoid": _unary(scalar_math.sigmoid),
    "tanh": _unary(scalar_math.tanh),
    "cosh": _unary(scalar_math.cosh),
    "sinh": _unary(scalar_math.sinh),
    "erf": _unary(scalar_math.erf),
    "nn.silu": _unary(scalar_math.silu),
    "nn.gelu": _unary(scalar_math.gelu),
    "maximum": _binary(scalar_math.maximum),
    "minimum": _binary(scalar_math.minimum),
    "power": _power,
    "add": _broadcasting(topi.add),
    "subtract": _broadcasting(topi.subtract),
    "multiply": _broadcasting(topi.multiply),
    "divide": _integers(integer_math.divide, _broadcasting(topi.divide)),
    "floor_divide": _integers(integer_math.floor_divide, default),
    "mod": _integers(integer_math.mod, default),
    "floor_mod": _integers(integer_math.floor_mod, default),
    "sign": _unary(scalar_math.sign),
    "mean": _sum_by_axis,
    "sum": _sum_by_axis,
    "max": _extreme(scalar_math.maximum, -np.inf),
    "min": _extreme(scalar_math.minimum, np.inf),
    "nn.softmax": _softmax,
    "image.resize2d": _resize2d,
}
