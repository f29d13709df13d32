"""Relax operators to TensorIR: the ones worth a schedule by our templates, the rest by TVM.

A convolution, product or pooling becomes the definition that a template gives for it, over weights
packed in NumPy for the knobs that the template chose; its block carries workload and knobs, so that
after fusion the same template finds it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import IRModule, relax, te, tirx, topi

from dlcomp.graph import scalar_math
from dlcomp.graph.walk import array_of, constant, dtype_of, shape_of
from dlcomp.schedules import select
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload
from dlcomp.target import Target

Expr = Any
Legalize = Callable[[relax.BlockBuilder, Any], Any]
# Element-wise operators may be fused behind a function of this pattern (TVM's kOutEWiseFusable).
_FUSABLE = {"op_pattern": 4}
# Not behind another operator, but before one (TVM's kInjective).
_INJECTIVE = {"op_pattern": 2}


def lower(module: IRModule, target: Target) -> IRModule:
    """All operators of ``module`` as calls of PrimFuncs, fused, for a CPU."""
    table = {f"relax.{name}": function for name, function in _ELEMENTWISE.items()}
    table |= {
        "relax.nn.conv2d": lambda bb, call: _conv2d(bb, call, target),
        "relax.matmul": lambda bb, call: _matmul(bb, call, target),
        "relax.nn.max_pool2d": lambda bb, call: _pool2d(bb, call, target),
        "relax.nn.avg_pool2d": lambda bb, call: _pool2d(bb, call, target),
    }
    for step in (
        relax.transform.LegalizeOps(table, enable_warning=False),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(["main"]),
    ):
        module = step(module)
    return module


def _anchored(
    bb: relax.BlockBuilder, call: Any, workload: Workload, target: Target, operands: list[Expr]
) -> Any:
    """The call of the template's definition, constants packed for it; TVM's own if there is no template."""
    chosen = select(workload, target)
    if chosen is None:
        return _default(bb, call)
    template, knobs = chosen
    packed = [operands[0]]
    for operand in operands[1:]:
        array = array_of(operand)
        packed.append(operand if array is None else constant(template.pack(workload, knobs, array)))

    def define(*tensors: Any) -> Any:
        return template.compute(workload, knobs, *tensors)

    hint = type(workload).__name__.lower() if not isinstance(workload, Window2d) else workload.kind
    return bb.call_te(define, *packed, primfunc_name_hint=hint, primfunc_attrs=_FUSABLE)


def _default(bb: relax.BlockBuilder, call: Any) -> Any:
    """TVM's own legalization."""
    return call.op.get_attr("FLegalize")(bb, call)


def _is_f32(*exprs: Any) -> bool:
    return all(dtype_of(e) == "float32" for e in exprs)


def _conv2d(bb: relax.BlockBuilder, call: Any, target: Target) -> Any:
    data, weight = call.args
    attrs = call.attrs
    array = array_of(weight)
    shape, out = shape_of(data), shape_of(call)
    if array is None or shape is None or out is None or not _is_f32(data, weight):
        return _default(bb, call)
    if str(attrs.data_layout) != "NHWC" or str(attrs.kernel_layout) != "OHWI":
        return _default(bb, call)
    n, h, w, channels = shape
    co, kh, kw, ci = array.shape
    groups = int(attrs.groups)
    (sh, sw), (dh, dw) = ([int(v) for v in a] for a in (attrs.strides, attrs.dilation))
    top, left, bottom, right = (int(p) for p in attrs.padding)
    geometry = {"kh": kh, "kw": kw, "sh": sh, "sw": sw, "dh": dh, "dw": dw, "top": top, "left": left}
    workload: Workload
    if groups == channels == co:
        workload = Window2d("depthwise", n, h, w, channels, out[1], out[2], **geometry)
    elif (kh, kw, sh, sw, groups) == (1, 1, 1, 1, 1) and not (top or left or bottom or right):
        workload = Gemm(n * h * w, co, ci)
        weight = constant(array.reshape(co, ci).T)
    else:
        workload = Conv2d(n, h, w, ci, out[1], out[2], co // groups, **geometry, groups=groups)
    return _anchored(bb, call, workload, target, [data, weight])


def _matmul(bb: relax.BlockBuilder, call: Any, target: Target) -> Any:
    left, right = call.args
    a, b = shape_of(left), shape_of(right)
    if a is None or b is None or len(a) < 2 or len(b) < 2 or not _is_f32(left, right):
        return _default(bb, call)
    m, k, n = a[-2], a[-1], b[-1]
    workload: Workload
    if array_of(right) is not None and len(b) == 2:
        for extent in a[:-2]:
            m *= extent
        workload = Gemm(m, n, k)
    else:
        result = shape_of(call)
        assert result is not None
        batch = 1
        for extent in result[:-2]:
            batch *= extent
        workload = BatchMatmul(batch, m, n, k)
    if 0 in (m, n, k):
        return _default(bb, call)
    return _anchored(bb, call, workload, target, [left, right])


def _pool2d(bb: relax.BlockBuilder, call: Any, target: Target) -> Any:
    data, attrs = call.args[0], call.attrs
    shape, out = shape_of(data), shape_of(call)
    if shape is None or out is None or not _is_f32(data) or str(attrs.layout) != "NHWC":
        return _default(bb, call)
    kind = "max"
    if str(call.op.name).endswith("avg_pool2d"):
        kind = "avg_full" if bool(attrs.count_include_pad) else "avg"
    n, h, w, c = shape
    (kh, kw), (sh, sw), (dh, dw) = (
        [int(v) for v in a] for a in (attrs.pool_size, attrs.strides, attrs.dilation)
    )
    top, left, bottom, right = (int(p) for p in attrs.padding)
    workload = Window2d(
        kind, n, h, w, c, out[1], out[2], kh, kw, sh, sw, dh, dw, top, left, bottom, right
    )
    return _anchored(bb, call, workload, target, [data])


def _unary(function: Callable[[Expr], Expr]) -> Legalize:
    """A float32 operator of one operand by ``function``; other types are left to TVM."""

    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        if not _is_f32(call.args[0]):
            return _default(bb, call)
        name = str(call.op.name).rsplit(".", 1)[-1]

        def define(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: function(x(*i)), name=name)

        return bb.call_te(define, call.args[0], primfunc_name_hint=name)

    return legalize


def _binary(function: Callable[[Expr, Expr], Expr]) -> Legalize:
    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        if not _is_f32(*call.args):
            return _default(bb, call)
        name = str(call.op.name).rsplit(".", 1)[-1]
        shape = shape_of(call)
        if shape is None:
            return _default(bb, call)

        def define(a: Any, b: Any) -> Any:
            wide = [topi.broadcast_to(t, shape) if tuple(t.shape) != shape else t for t in (a, b)]
            return te.compute(shape, lambda *i: function(wide[0](*i), wide[1](*i)), name=name)

        return bb.call_te(define, *call.args, primfunc_name_hint=name)

    return legalize


def _broadcasting(function: Callable[[Any, Any], Any]) -> Legalize:
    """TVM's definition of a binary operator, kept from fusing behind an operand that it enlarges.

    A convolution to one pixel whose result scales a whole image would be computed for every pixel.
    """

    def legalize(bb: relax.BlockBuilder, call: Any) -> Any:
        result = shape_of(call)
        sizes = [shape_of(a) for a in call.args if array_of(a) is None]
        if result is None or not any(s is not None and np.prod(s) < np.prod(result) for s in sizes):
            return _default(bb, call)
        name = str(call.op.name).rsplit(".", 1)[-1]
        return bb.call_te(function, *call.args, primfunc_name_hint=name, primfunc_attrs=_INJECTIVE)

    return legalize


def _clip(bb: relax.BlockBuilder, call: Any) -> Any:
    low, high = (float(a.value) for a in call.args[1:])
    return _unary(lambda x: scalar_math.clip(x, scalar_math.f32(low), scalar_math.f32(high)))(bb, call)


def _power(bb: relax.BlockBuilder, call: Any) -> Any:
    """Squares and square roots are not left to a general power."""
    exponent = array_of(call.args[1])
    if exponent is not None and exponent.size == 1 and _is_f32(*call.args) and shape_of(call) == shape_of(call.args[0]):
        value = float(exponent.reshape(()))
        known: dict[float, Callable[[Expr], Expr]] = {
            2.0: lambda x: x * x,
            3.0: lambda x: x * x * x,
            0.5: tirx.sqrt,
        }
        if value in known:
            return _unary(known[value])(bb, call)
    return _default(bb, call)


def _softmax(bb: relax.BlockBuilder, call: Any) -> Any:
    """exp(x - max) / sum, with our exp."""
    data = call.args[0]
    shape = shape_of(data)
    if shape is None or not _is_f32(data):
        return _default(bb, call)
    axis = int(call.attrs.axis) % len(shape)
    rest = tuple(d for i, d in enumerate(shape) if i != axis)

    def define(x: Any) -> Any:
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


_ELEMENTWISE: dict[str, Legalize] = {
    "nn.relu": _unary(lambda x: tirx.Select(x < scalar_math.f32(0.0), scalar_math.f32(0.0), x)),
    "clip": _clip,
    "exp": _unary(scalar_math.exp),
    "sigmoid": _unary(scalar_math.sigmoid),
    "tanh": _unary(scalar_math.tanh),
    "erf": _unary(scalar_math.erf),
    "nn.silu": _unary(scalar_math.silu),
    "nn.gelu": _unary(scalar_math.gelu),
    "maximum": _binary(scalar_math.maximum),
    "minimum": _binary(scalar_math.minimum),
    "power": _power,
    "add": _broadcasting(topi.add),
    "subtract": _broadcasting(topi.subtract),
    "multiply": _broadcasting(topi.multiply),
    "divide": _broadcasting(topi.divide),
    "nn.softmax": _softmax,
}
