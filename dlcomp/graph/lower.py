"""Relax operators to TensorIR: the ones worth a schedule by our templates, the rest by TVM.

A convolution, product or pooling becomes the definition that a template gives for it, over weights
packed in NumPy for the knobs that the template chose; its block carries workload and knobs, so that
after fusion the same template finds it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from tvm import IRModule, relax, tirx, topi

from dlcomp.frontend.symbolic import is_open, product
from dlcomp.graph.coded import with_coded_kernels
from dlcomp.graph.depthwise import with_depthwise_kernels
from dlcomp.graph.integer import Integers, copied, integers, is_integer
from dlcomp.graph.legalize import ELEMENTWISE, default, is_f32
from dlcomp.graph.patterns import annotated
from dlcomp.graph.quantized import exact_steps
from dlcomp.graph.walk import array_of, constant, dtype_of, shape_of
from dlcomp.schedules import ON_REQUEST, WINOGRAD, Records, select
from dlcomp.schedules.sparsity import left as weights_left
from dlcomp.schedules.sparsity import left_in_groups
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload
from dlcomp.target import Target

Expr = Any
# Who computes a workload: a template and its knobs, or None.
Choose = Callable[..., Any]
# Element-wise operators may be fused behind a function of this pattern (TVM's kOutEWiseFusable).
_FUSABLE = {"op_pattern": 4}


def lower(
    module: IRModule, target: Target, without: Collection[str] = ON_REQUEST, records: Records | None = None
) -> IRModule:
    """All operators of ``module`` as fused PrimFuncs for a CPU, by other templates than ``without``.

    ``records`` say which template and knobs were measured to be the best; the rest is estimated.
    """

    def choose(workload: Workload, exact: bool = False) -> Any:
        refused = {*without, *(WINOGRAD if exact else ())}
        return select(workload, target, refused, records)

    table = {f"relax.{name}": function for name, function in ELEMENTWISE.items()}
    table |= {
        "relax.nn.conv2d": lambda bb, call: _conv2d(bb, call, target, choose),
        "relax.concat": copied,
        "relax.nn.pad": copied,
        "relax.matmul": lambda bb, call: _matmul(bb, call, target, choose),
        "relax.nn.max_pool2d": lambda bb, call: _pool2d(bb, call, choose),
        "relax.nn.avg_pool2d": lambda bb, call: _pool2d(bb, call, choose),
    }
    module = with_coded_kernels(exact_steps(module), choose, target)
    module = with_depthwise_kernels(module, target, choose)
    with target.to_tvm():
        # TopK, CumSum and the like, which have no legalization.
        module = relax.backend.DispatchSortScan()(module)
    for step in (
        relax.transform.LegalizeOps(table, enable_warning=False),
        annotated,
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(["main"]),
    ):
        module = step(module)
    return module


def _anchored(
    bb: relax.BlockBuilder, call: Any, workload: Workload, choose: Choose, operands: list[Expr], **more: Any
) -> Any:
    """The call of the template's definition, constants packed for it; TVM's own if there is no template."""
    chosen = choose(workload)
    if chosen is None:
        return default(bb, call)
    template, knobs = chosen
    packed = [operands[0]]
    for operand in operands[1:]:
        array = array_of(operand)
        if array is None:
            packed.append(operand)
            continue
        parts = template.pack(workload, knobs, array)
        packed += [constant(part) for part in (parts if isinstance(parts, tuple) else (parts,))]

    def define(*tensors: Any) -> Any:
        return template.compute(workload, knobs, *tensors, **more)

    hint = type(workload).__name__.lower() if not isinstance(workload, Window2d) else workload.kind
    return bb.call_te(define, *packed, primfunc_name_hint=hint, primfunc_attrs=_FUSABLE)


def _conv2d(bb: relax.BlockBuilder, call: Any, target: Target, choose: Choose) -> Any:
    data, weight = call.args
    attrs = call.attrs
    array = array_of(weight)
    shape, out = shape_of(data), shape_of(call)
    whole = is_integer(data, weight)
    if array is None or shape is None or out is None or not (is_f32(data, weight) or whole):
        return default(bb, call)
    if str(attrs.data_layout) != "NHWC" or str(attrs.kernel_layout) != "OHWI":
        return default(bb, call)
    n, h, w, channels = shape
    co, kh, kw, ci = array.shape
    groups = int(attrs.groups)
    (sh, sw), (dh, dw) = ([int(v) for v in a] for a in (attrs.strides, attrs.dilation))
    top, left, bottom, right = (int(p) for p in attrs.padding)
    geometry = {"kh": kh, "kw": kw, "sh": sh, "sw": sw, "dh": dh, "dw": dw, "top": top, "left": left}
    workload: Workload
    if whole:
        return _integer_conv2d(bb, call, target, choose, geometry)
    if is_open((n, h, w)):
        return _open_conv2d(bb, call, choose, geometry, (bottom, right))
    if not (_reads(out[1], kh, sh, dh, top, h) and _reads(out[2], kw, sw, dw, left, w)):
        return default(bb, call)
    if groups == channels == co:
        workload = Window2d("depthwise", n, h, w, channels, out[1], out[2], **geometry)
    elif (kh, kw, sh, sw, groups) == (1, 1, 1, 1, 1) and not (top or left or bottom or right):
        workload = Gemm(n * h * w, co, ci, stored=weights_left(array.reshape(co, ci).T))
        weight = constant(array.reshape(co, ci).T)
    else:
        stored = weights_left(array.reshape(co, -1).T) if groups == 1 else ""
        workload = Conv2d(n, h, w, ci, out[1], out[2], co // groups, **geometry, groups=groups, stored=stored)
        choose = _by_weights(choose, array)
    return _anchored(bb, call, workload, choose, [data, weight])


def _by_weights(choose: Choose, array: np.ndarray) -> Choose:
    """Whole weights are those of integer arithmetic in float32, which minimal filtering would round."""
    return functools.partial(choose, exact=True) if np.array_equal(array, np.rint(array)) else choose


def _integer_conv2d(
    bb: relax.BlockBuilder, call: Any, target: Target, choose: Choose, geometry: dict[str, int]
) -> Any:
    """A convolution of integers, which come padded."""
    array, out = array_of(call.args[1]), shape_of(call)
    assert array is not None
    assert out is not None
    groups = int(call.attrs.groups)
    if any(int(p) for p in call.attrs.padding) or (groups > 1 and array.shape[3] % 4):
        return default(bb, call)
    made = integers(bb, target, call.args[0], array, 3, 0)
    shape = shape_of(made.data)
    assert shape is not None
    n, h, w, _ = shape
    co, kh, kw, ci = made.weight.shape
    workload: Workload
    weight = made.weight
    more: dict[str, Any] = {}
    if (kh, kw, geometry["sh"], geometry["sw"], groups) == (1, 1, 1, 1, 1):
        weight = weight.reshape(co, ci).T
        if is_open(out):
            workload = Gemm(0, co, ci, made.arithmetic)
        else:
            workload = Gemm(n * h * w, co, ci, made.arithmetic, left_in_groups(weight, made.group))
    elif is_open(out):
        geometry = {**geometry, "top": 0, "left": 0}
        workload = Conv2d(
            0, 0, 0, ci, 0, 0, co // groups, **geometry, groups=groups, arithmetic=made.arithmetic
        )
        more["shape"] = out
    else:
        stored = left_in_groups(weight.reshape(co, -1).T, made.group) if groups == 1 else ""
        workload = Conv2d(
            n, h, w, ci, out[1], out[2], co // groups, **geometry,
            groups=groups, arithmetic=made.arithmetic, stored=stored,
        )  # fmt: skip
    return _offset(bb, _anchored(bb, call, workload, choose, [made.data, constant(weight)], **more), made)


def _offset(bb: relax.BlockBuilder, total: Any, made: Integers) -> Any:
    if made.offset is None:
        return total
    return bb.call_te(topi.add, bb.emit(total), constant(made.offset), primfunc_name_hint="add")


def _open_conv2d(
    bb: relax.BlockBuilder, call: Any, choose: Choose, geometry: dict[str, int], after: tuple[int, int]
) -> Any:
    """A convolution of an image of open size: padded first, so that no window leaves it."""
    data, weight = call.args
    array, out = array_of(weight), shape_of(call)
    assert array is not None
    groups, (co, kh, kw, ci) = int(call.attrs.groups), array.shape
    data = _padded(bb, data, geometry, after, 0.0)
    geometry = {**geometry, "top": 0, "left": 0}
    if groups == co and ci == 1:
        window = Window2d("depthwise", 0, 0, 0, co, 0, 0, **geometry)
        return _anchored(bb, call, window, choose, [data, weight], shape=out)
    if (kh, kw, geometry["sh"], geometry["sw"], groups) == (1, 1, 1, 1, 1):
        return _anchored(bb, call, Gemm(0, co, ci), choose, [data, constant(array.reshape(co, ci).T)])
    workload = Conv2d(0, 0, 0, ci, 0, 0, co // groups, **geometry, groups=groups)
    return _anchored(bb, call, workload, _by_weights(choose, array), [data, weight], shape=out)


def _padded(
    bb: relax.BlockBuilder, data: Expr, geometry: dict[str, int], after: tuple[int, int], filling: float
) -> Expr:
    """(n, h, w, c) with the padding of a window around it."""
    before = (geometry["top"], geometry["left"])
    if not any((*before, *after)):
        return data
    widths = [0, 0, before[0], after[0], before[1], after[1], 0, 0]
    return bb.emit_te(
        topi.nn.pad,
        data,
        widths[::2],
        widths[1::2],
        tirx.const(filling, "float32"),
        primfunc_name_hint="pad",
    )


def _reads(out: int, kernel: int, stride: int, dilation: int, before: int, size: int) -> bool:
    """Whether a window along one dimension ever meets the image; if not, the image is no operand."""
    starts = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    return bool(((starts >= 0) & (starts < size)).any())


def _matmul(bb: relax.BlockBuilder, call: Any, target: Target, choose: Choose) -> Any:
    left, right = call.args
    a, b = shape_of(left), shape_of(right)
    workload: Workload
    if any(isinstance(extent, int) and extent == 0 for extent in (*(a or ()), *(b or ()))):
        # Sums of nothing, or no sums.
        return bb.call_te(lambda dims: topi.full(dims, dtype_of(call), 0), shape_of(call))
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return default(bb, call)
    if is_integer(left, right) and len(b) == 2:
        array = array_of(right)
        assert array is not None
        made = integers(bb, target, left, array, 0, 1)
        rows = product(a[:-1])
        if isinstance(rows, int):
            stored = left_in_groups(made.weight, made.group)
            workload = Gemm(rows, b[-1], made.weight.shape[0], made.arithmetic, stored)
        else:
            workload = Gemm(0, b[-1], made.weight.shape[0], made.arithmetic)
        return _offset(bb, _anchored(bb, call, workload, choose, [made.data, constant(made.weight)]), made)
    if not is_f32(left, right):
        return default(bb, call)
    m, k, n = a[-2], a[-1], b[-1]
    array = array_of(right)
    if array is not None and len(b) == 2:
        for extent in a[:-2]:
            m *= extent
        if is_open((k, n)):
            return default(bb, call)
        is_known = isinstance(m, int)
        workload = Gemm(m, n, k, stored=weights_left(array)) if is_known else Gemm(0, n, k)
        if not is_known:
            return _anchored(bb, call, workload, choose, [left, right])
    else:
        result = shape_of(call)
        assert result is not None
        batch = product(result[:-2])
        sizes = [extent if isinstance(extent, int) else 0 for extent in (batch, m, n, k)]
        workload = BatchMatmul(*sizes)
        if 0 in sizes:
            return _anchored(bb, call, workload, choose, [left, right], shape=result)
    return _anchored(bb, call, workload, choose, [left, right])


def _pool2d(bb: relax.BlockBuilder, call: Any, choose: Choose) -> Any:
    data, attrs = call.args[0], call.attrs
    shape, out = shape_of(data), shape_of(call)
    whole = dtype_of(data) in ("uint8", "int8") and str(call.op.name).endswith("max_pool2d")
    if shape is None or out is None or not (is_f32(data) or whole) or str(attrs.layout) != "NHWC":
        return default(bb, call)
    if whole and is_open(shape):
        return default(bb, call)
    kind = "max"
    if str(call.op.name).endswith("avg_pool2d"):
        kind = "avg_full" if bool(attrs.count_include_pad) else "avg"
    n, h, w, c = shape
    (kh, kw), (sh, sw), (dh, dw) = (
        [int(v) for v in a] for a in (attrs.pool_size, attrs.strides, attrs.dilation)
    )
    top, left, bottom, right = (int(p) for p in attrs.padding)
    if is_open(shape):
        if kind == "avg" and not any((top, left, bottom, right)):
            kind = "avg_full"
        if kind == "avg" or bool(attrs.ceil_mode) or not isinstance(c, int):
            return default(bb, call)
        geometry = {"kh": kh, "kw": kw, "sh": sh, "sw": sw, "dh": dh, "dw": dw, "top": top, "left": left}
        lowest = -np.inf if kind == "max" else 0.0
        padded = _padded(bb, data, geometry, (bottom, right), lowest)
        workload = Window2d(kind, 0, 0, 0, c, 0, 0, **{**geometry, "top": 0, "left": 0})
        return _anchored(bb, call, workload, choose, [padded], shape=out)
    if not (_reads(out[1], kh, sh, dh, top, h) and _reads(out[2], kw, sw, dw, left, w)):
        return default(bb, call)
    workload = Window2d(
        kind, n, h, w, c, out[1], out[2], kh, kw, sh, sw, dh, dw, top, left, bottom, right, dtype_of(data)
    )
    return _anchored(bb, call, workload, choose, [data])
