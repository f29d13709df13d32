"""Channels last for the whole network, with transposes only where nothing else helps.

Every value is kept in whatever order of dimensions its producer likes, together with that order.
A convolution or pooling takes and gives (n, h, w, c); an operator that does not care (element-wise,
concatenation, reduction, ...) keeps the order of its operands; a transpose changes the order and
moves nothing; a reshape goes through where the dimensions that it joins lie together. Only an
operator that needs a certain order, or the end of the network, has the value moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, relax
from tvm.ir.expr import GenericConst

from dlcomp.graph.walk import (
    array_of,
    attributes,
    builder_without_main,
    constant,
    op_name,
    remove_dead_code,
    shape_of,
)

Expr = Any
Order = tuple[int, ...]
CHANNELS_LAST: Order = (0, 2, 3, 1)


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in memory: ``order[i]`` is the logical dimension stored at position i."""

    expr: Expr
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        stored = shape_of(self.expr)
        assert stored is not None
        return tuple(stored[self.order.index(d)] for d in range(len(stored)))


def identity(rank: int) -> Order:
    return tuple(range(rank))


def channels_last(module: IRModule) -> IRModule:
    """``module`` with NCHW operators turned to NHWC; the signature of ``main`` is unchanged."""
    return remove_dead_code(_Rewriter(module).run())


class _Rewriter:
    def __init__(self, module: IRModule) -> None:
        self.main = module["main"]
        self.builder = builder_without_main(module)
        self.env: dict[Any, Any] = {}
        self.moved: dict[tuple[Any, Order], Expr] = {}

    def run(self) -> IRModule:
        main, builder = self.main, self.builder
        with builder.function("main", list(main.params), attrs=attributes(main)):
            with builder.dataflow():
                for block in main.body.blocks:
                    for binding in block.bindings:
                        self.env[binding.var] = self.visit(binding.value)
                result = builder.emit_output(self.plain(main.body.body))
            builder.emit_func_output(result)
        return builder.finalize()

    # Values ------------------------------------------------------------------------------------

    def stored(self, expr: Expr) -> Stored:
        """Where an argument lies."""
        found = self.env.get(expr) if isinstance(expr, relax.Var) else None
        if isinstance(found, Stored):
            return found
        value = found if found is not None else expr
        shape = shape_of(value)
        if shape is None:
            raise ValueError("a value without a static shape")
        return Stored(value, identity(len(shape)))

    def plain(self, expr: Expr) -> Expr:
        """``expr`` with everything in logical order."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.plain(f) for f in expr.fields])
        if isinstance(expr, relax.Var):
            found = self.env.get(expr, expr)
            return self.move(found, identity(len(found.order))) if isinstance(found, Stored) else found
        return expr

    def move(self, value: Stored, order: Order) -> Expr:
        """``value`` stored in ``order``: at no cost if only dimensions of one move."""
        if value.order == order:
            return value.expr
        axes = [value.order.index(d) for d in order]
        array = array_of(value.expr)
        if array is not None:
            return constant(array.transpose(axes))
        key = (value.expr, tuple(axes))
        if key not in self.moved:
            shape = shape_of(value.expr)
            assert shape is not None
            solid = [a for a in axes if shape[a] != 1]
            if solid == sorted(solid):
                new = relax.op.reshape(value.expr, [shape[a] for a in axes])
            else:
                new = relax.op.permute_dims(value.expr, axes)
            self.moved[key] = self.builder.emit(new)
        return self.moved[key]

    def emit(self, call: Expr, order: Order) -> Stored:
        return Stored(self.builder.emit(call), order)

    # Operators ---------------------------------------------------------------------------------

    def visit(self, value: Expr) -> Any:
        """The new form of one bound value: a Stored tensor, or a tuple in logical order."""
        if isinstance(value, relax.Var):
            return self.env.get(value, value)
        if isinstance(value, relax.Call) and shape_of(value) is not None:
            handler = _HANDLERS.get(op_name(value))
            new = handler(self, value) if handler else None
            if new is not None:
                return new
        if isinstance(value, relax.Call):
            args = [self.plain(a) for a in value.args]
            value = relax.Call(value.op, args, value.attrs, value.ty_args)
        elif isinstance(value, relax.TupleGetItem):
            value = relax.TupleGetItem(self.plain(value.tuple_value), int(value.index))
        else:
            value = self.plain(value)
        if isinstance(value, (GenericConst, relax.Tuple, relax.ShapeExpr)):
            return value
        return self.builder.emit(value)


def _elementwise(rw: _Rewriter, call: Expr) -> Stored | None:
    """One or more operands that broadcast: all take the order of the first that has one of its own."""
    if any(not isinstance(a, (relax.Var, GenericConst)) for a in call.args):
        tensors = [a for a in call.args if isinstance(a, (relax.Var, GenericConst))]
        if len(tensors) != 1:
            return None
    result = shape_of(call)
    assert result is not None
    rank = len(result)
    values = [rw.stored(a) if isinstance(a, (relax.Var, GenericConst)) else a for a in call.args]
    order = next(
        (
            v.order
            for v in values
            if isinstance(v, Stored) and v.order != identity(len(v.order)) and len(v.order) == rank
        ),
        identity(rank),
    )
    args = []
    for value in values:
        if not isinstance(value, Stored):
            args.append(value)
        elif len(value.order) == rank or not value.order:
            args.append(rw.move(value, order) if value.order else value.expr)
        elif order == identity(rank):
            args.append(rw.move(value, identity(len(value.order))))
        else:
            args.append(rw.move(_raise_rank(rw, value, rank), order))
    return rw.emit(relax.Call(call.op, args, call.attrs, call.ty_args), order)


def _raise_rank(rw: _Rewriter, value: Stored, rank: int) -> Stored:
    """The value with dimensions of one put before its own, as broadcasting would."""
    plain = rw.move(value, identity(len(value.order)))
    shape = (1,) * (rank - len(value.order)) + value.shape
    array = array_of(plain)
    if array is not None:
        return Stored(constant(array.reshape(shape)), identity(rank))
    return rw.emit(relax.op.reshape(plain, shape), identity(rank))


def _conv2d(rw: _Rewriter, call: Expr) -> Stored | None:
    attrs = call.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        return None
    data = rw.move(rw.stored(call.args[0]), CHANNELS_LAST)
    weight = rw.move(rw.stored(call.args[1]), (0, 2, 3, 1))
    new = relax.op.nn.conv2d(
        data,
        weight,
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        groups=int(attrs.groups),
        data_layout="NHWC",
        kernel_layout="OHWI",
        out_dtype=attrs.out_dtype,
    )
    return rw.emit(new, CHANNELS_LAST)


def _conv2d_transpose(rw: _Rewriter, call: Expr) -> Stored | None:
    """A kernel that is as large as its stride writes every output pixel once: a product and a shuffle."""
    attrs = call.attrs
    kernel = [int(k) for k in shape_of(call.args[1])[2:]]  # type: ignore[index]
    disjoint = kernel == [int(s) for s in attrs.strides] and not any(int(p) for p in attrs.padding)
    plain = all(int(d) == 1 for d in attrs.dilation) and not any(int(p) for p in attrs.output_padding)
    weight = array_of(call.args[1])
    if not (disjoint and plain and int(attrs.groups) == 1 and str(attrs.data_layout) == "NCHW") or weight is None:
        return None
    if str(attrs.kernel_layout) != "IOHW":
        return None
    data = rw.move(rw.stored(call.args[0]), CHANNELS_LAST)
    n, h, w, ci = shape_of(data)  # type: ignore[misc]
    co, (kh, kw) = weight.shape[1], kernel
    matrix = constant(weight.transpose(0, 2, 3, 1).reshape(ci, kh * kw * co))
    product = rw.builder.emit(relax.op.matmul(data, matrix))
    split = rw.builder.emit(relax.op.reshape(product, [n, h, w, kh, kw, co]))
    shuffled = rw.builder.emit(relax.op.permute_dims(split, [0, 1, 3, 2, 4, 5]))
    return rw.emit(relax.op.reshape(shuffled, [n, h * kh, w * kw, co]), CHANNELS_LAST)


def _pool2d(rw: _Rewriter, call: Expr) -> Stored | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW":
        return None
    make = relax.op.nn.max_pool2d if op_name(call).endswith("max_pool2d") else relax.op.nn.avg_pool2d
    new = make(
        rw.move(rw.stored(call.args[0]), CHANNELS_LAST),
        pool_size=list(attrs.pool_size),
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
        layout="NHWC",
    )
    return rw.emit(new, CHANNELS_LAST)


def _resize2d(rw: _Rewriter, call: Expr) -> Stored | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW":
        return None
    new = relax.op.image.resize2d(
        rw.move(rw.stored(call.args[0]), CHANNELS_LAST),
        call.args[1],
        roi=[float(r) for r in attrs.roi],
        layout="NHWC",
        method=str(attrs.method),
        coordinate_transformation_mode=str(attrs.coordinate_transformation_mode),
        rounding_method=str(attrs.rounding_method),
        cubic_alpha=float(attrs.cubic_alpha),
        cubic_exclude=int(attrs.cubic_exclude),
        extrapolation_value=float(attrs.extrapolation_value),
    )
    return rw.emit(new, CHANNELS_LAST)


def _transpose(rw: _Rewriter, call: Expr) -> Stored:
    value = rw.stored(call.args[0])
    rank = len(value.order)
    axes = [int(a) % rank for a in call.attrs.axes] if call.attrs.axes is not None else list(range(rank))[::-1]
    # Dimension j of the result is dimension axes[j] of the operand.
    return Stored(value.expr, tuple(axes.index(d) for d in value.order))


def _concat(rw: _Rewriter, call: Expr) -> Stored | None:
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else None
    if fields is None:
        return None
    values = [rw.stored(f) for f in fields]
    rank = len(values[0].order)
    axis = int(call.attrs.axis) % rank
    order = next((v.order for v in values if v.order != identity(rank)), identity(rank))
    moved = [rw.move(v, order) for v in values]
    return rw.emit(relax.op.concat(moved, axis=order.index(axis)), order)


def _softmax(rw: _Rewriter, call: Expr) -> Stored:
    value = rw.stored(call.args[0])
    axis = int(call.attrs.axis) % len(value.order)
    make = relax.op.nn.log_softmax if "log" in op_name(call) else relax.op.nn.softmax
    return rw.emit(make(value.expr, axis=value.order.index(axis)), value.order)


def _reduce(rw: _Rewriter, call: Expr) -> Stored | None:
    value = rw.stored(call.args[0])
    rank = len(value.order)
    if call.attrs.axis is None:
        return None
    axes = [int(a) % rank for a in call.attrs.axis]
    positions = sorted(value.order.index(a) for a in axes)
    make = getattr(relax.op, op_name(call).removeprefix("relax."))
    new = make(value.expr, positions, keepdims=bool(call.attrs.keepdims))
    if bool(call.attrs.keepdims):
        return rw.emit(new, value.order)
    kept = [d for d in range(rank) if d not in axes]
    return rw.emit(new, tuple(kept.index(d) for d in value.order if d in kept))


def _strided_slice(rw: _Rewriter, call: Expr) -> Stored | None:
    value = rw.stored(call.args[0])
    rest = call.args[1:]
    if value.order == identity(len(value.order)) or not isinstance(rest[0], relax.Tuple):
        return None
    lists = [[int(f.value if hasattr(f, "value") else f) for f in t.fields] for t in rest]
    axes = [value.order.index(a % len(value.order)) for a in lists[0]]
    new = relax.op.strided_slice(
        value.expr, axes, *lists[1:], assume_inbound=bool(call.attrs.assume_inbound)
    )
    return rw.emit(new, value.order)


def _pad(rw: _Rewriter, call: Expr) -> Stored:
    value = rw.stored(call.args[0])
    widths = [int(w) for w in call.attrs.pad_width]
    moved = [w for d in value.order for w in widths[2 * d : 2 * d + 2]]
    new = relax.op.nn.pad(value.expr, moved, float(call.attrs.pad_value), str(call.attrs.pad_mode))
    return rw.emit(new, value.order)


def _reshape(rw: _Rewriter, call: Expr) -> Stored | None:
    """Goes through where every group of dimensions that is joined or split lies together in order."""
    value = rw.stored(call.args[0])
    result = shape_of(call)
    assert result is not None
    if value.order == identity(len(value.order)):
        return None
    groups = _groups(value.shape, result)
    place = {d: i for i, d in enumerate(value.order)}
    ranked = []
    for old, new in groups:
        solid = [d for d in old if value.shape[d] != 1]
        positions = [place[d] for d in solid]
        between = [value.order[p] for p in range(min(positions), max(positions) + 1)] if positions else []
        if positions != sorted(positions) or any(d not in solid and value.shape[d] != 1 for d in between):
            return None
        ranked.append((positions[0] if positions else -1, new))
    order = tuple(d for _, new in sorted(ranked, key=lambda g: g[0]) for d in new)
    if order == identity(len(result)) and value.order == identity(len(value.order)):
        return None
    return rw.emit(relax.op.reshape(value.expr, [result[d] for d in order]), order)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairing of runs of old and new dimensions with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left.append(i)
            a *= old[i]
            i += 1
        if j < len(new):
            right.append(j)
            b *= new[j]
            j += 1
        while a != b:
            if a < b:
                left.append(i)
                a *= old[i]
                i += 1
            else:
                right.append(j)
                b *= new[j]
                j += 1
        groups.append((left, right))
    return groups


_UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh exp floor log negative round rsqrt sigmoid sign sin "
    "sinh square sqrt tan tanh erf clip isfinite isinf isnan logical_not nn.relu nn.relu6 nn.gelu "
    "nn.gelu_tanh nn.selu nn.silu nn.leakyrelu nn.softplus astype"
)
_BROADCAST = (
    "add subtract multiply divide floor_divide power mod floor_mod maximum minimum equal greater "
    "greater_equal less less_equal not_equal logical_and logical_or logical_xor where"
)
_REDUCTIONS = "mean sum max min prod variance std"
_HANDLERS: dict[str, Callable[[_Rewriter, Expr], Stored | None]] = {
    **{f"relax.{name}": _elementwise for name in f"{_UNARY} {_BROADCAST}".split()},
    **{f"relax.{name}": _reduce for name in _REDUCTIONS.split()},
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.nn.max_pool2d": _pool2d,
    "relax.nn.avg_pool2d": _pool2d,
    "relax.image.resize2d": _resize2d,
    "relax.permute_dims": _transpose,
    "relax.concat": _concat,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.strided_slice": _strided_slice,
    "relax.nn.pad": _pad,
    "relax.reshape": _reshape,
    "relax.squeeze": _reshape,
    "relax.expand_dims": _reshape,
    "relax.flatten": _reshape,
}
