"""What each operator does with operands that lie in another order than their logical one.

A rule takes the values so far and a call, and returns what the call became: a tensor with its
order, or a tuple of them. None says that the rule does not apply: the operands are then brought to
their logical order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import relax, tirx
from tvm.ir.expr import GenericConst

from dlcomp.frontend.symbolic import Dim, is_open, measure, product, size, surely_equal
from dlcomp.graph.stored import Expr, Order, Stored, Values, identity
from dlcomp.graph.walk import array_of, constant, op_name, shape_of

Rule = Callable[[Values, Expr], "Stored | tuple[Stored, ...] | None"]
CHANNELS_LAST: Order = (0, 2, 3, 1)


def _elementwise(values: Values, call: Expr) -> Stored | None:
    """One or more operands that broadcast: all take the order of the largest that has one of its own."""
    result = shape_of(call)
    tensors = [a for a in call.args if isinstance(a, (relax.Var, GenericConst))]
    if result is None or (len(tensors) != len(call.args) and len(tensors) != 1):
        return None
    rank = len(result)
    operands = {
        i: values.stored(a) for i, a in enumerate(call.args) if isinstance(a, (relax.Var, GenericConst))
    }
    order = _order_of_largest([v for v in operands.values() if v.rank == rank], rank)
    args = [_aligned(values, operands[i], order) if i in operands else a for i, a in enumerate(call.args)]
    return values.emit(relax.Call(call.op, args, call.attrs, call.ty_args), order)


def _order_of_largest(operands: Sequence[Stored], rank: int) -> Order:
    """Constants move for nothing, and small operands for little."""
    computed = [v for v in operands if array_of(v.expr) is None]
    most = max((size(v.shape) for v in computed), default=0)
    largest = [v for v in computed if size(v.shape) == most]
    return next((v.order for v in largest if not v.is_plain), identity(rank))


def _aligned(values: Values, value: Stored, order: Order) -> Expr:
    """The operand of an element-wise operator whose result lies in ``order``."""
    rank = len(order)
    if value.rank == rank:
        return values.move(value, order)
    if order == identity(rank) or value.rank == 0:
        return values.move(value, identity(value.rank))
    return values.move(_raise_rank(values, value, rank), order)


def _raise_rank(values: Values, value: Stored, rank: int) -> Stored:
    """The value with dimensions of one put before its own, as broadcasting would."""
    plain = values.move(value, identity(value.rank))
    shape = (1,) * (rank - value.rank) + value.shape
    array = array_of(plain)
    if array is not None:
        return Stored(constant(array.reshape(shape)), identity(rank))
    return values.emit(relax.op.reshape(plain, shape), identity(rank))


def _conv2d(values: Values, call: Expr) -> Stored | None:
    attrs = call.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        return None
    data = values.move(values.stored(call.args[0]), CHANNELS_LAST)
    weight = values.move(values.stored(call.args[1]), (0, 2, 3, 1))
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
    return values.emit(new, CHANNELS_LAST)


def _conv2d_transpose(values: Values, call: Expr) -> Stored | None:
    """A kernel that is as large as its stride writes every output pixel once: a product and a shuffle."""
    attrs = call.attrs
    kernel = [int(k) for k in shape_of(call.args[1])[2:]]  # type: ignore[index]
    disjoint = kernel == [int(s) for s in attrs.strides] and not any(int(p) for p in attrs.padding)
    plain = all(int(d) == 1 for d in attrs.dilation) and not any(int(p) for p in attrs.output_padding)
    weight = array_of(call.args[1])
    if (
        not (disjoint and plain and int(attrs.groups) == 1 and str(attrs.data_layout) == "NCHW")
        or weight is None
    ):
        return None
    if str(attrs.kernel_layout) != "IOHW":
        return None
    data = values.move(values.stored(call.args[0]), CHANNELS_LAST)
    n, h, w, _ = shape_of(data)  # type: ignore[misc]
    (ci, co), (kh, kw) = weight.shape[:2], kernel
    matrix = constant(weight.transpose(0, 2, 3, 1).reshape(ci, kh * kw * co))
    product = values.builder.emit(relax.op.matmul(data, matrix))
    split = values.builder.emit(relax.op.reshape(product, [n, h, w, kh, kw, co]))
    shuffled = values.builder.emit(relax.op.permute_dims(split, [0, 1, 3, 2, 4, 5]))
    return values.emit(relax.op.reshape(shuffled, [n, h * kh, w * kw, co]), CHANNELS_LAST)


def _pool2d(values: Values, call: Expr) -> Stored | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW":
        return None
    make = relax.op.nn.max_pool2d if op_name(call).endswith("max_pool2d") else relax.op.nn.avg_pool2d
    new = make(
        values.move(values.stored(call.args[0]), CHANNELS_LAST),
        pool_size=list(attrs.pool_size),
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
        layout="NHWC",
    )
    return values.emit(new, CHANNELS_LAST)


def _resize2d(values: Values, call: Expr) -> Stored | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW":
        return None
    new = relax.op.image.resize2d(
        values.move(values.stored(call.args[0]), CHANNELS_LAST),
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
    return values.emit(new, CHANNELS_LAST)


def _transpose(values: Values, call: Expr) -> Stored:
    value = values.stored(call.args[0])
    rank = value.rank
    axes = (
        [int(a) % rank for a in call.attrs.axes] if call.attrs.axes is not None else list(range(rank))[::-1]
    )
    # Dimension j of the result is dimension axes[j] of the operand.
    return Stored(value.expr, tuple(axes.index(d) for d in value.order))


def _concat(values: Values, call: Expr) -> Stored | None:
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else None
    if fields is None:
        return None
    parts = [values.stored(f) for f in fields]
    rank = parts[0].rank
    axis = int(call.attrs.axis) % rank
    order = next((v.order for v in parts if not v.is_plain), identity(rank))
    moved = [values.move(v, order) for v in parts]
    return values.emit(relax.op.concat(moved, axis=order.index(axis)), order)


def _split(values: Values, call: Expr) -> tuple[Stored, ...]:
    value = values.stored(call.args[0])
    parts = call.attrs.indices_or_sections
    where = int(parts) if isinstance(parts, (int, tirx.IntImm)) else [int(i) for i in parts]
    axis = value.order.index(int(call.attrs.axis) % value.rank)
    new = values.builder.emit(relax.op.split(value.expr, where, axis))
    count = len(call.ty.fields)
    return tuple(values.emit(relax.TupleGetItem(new, i), value.order) for i in range(count))


def _softmax(values: Values, call: Expr) -> Stored:
    value = values.stored(call.args[0])
    axis = int(call.attrs.axis) % value.rank
    make = relax.op.nn.log_softmax if "log" in op_name(call) else relax.op.nn.softmax
    return values.emit(make(value.expr, axis=value.order.index(axis)), value.order)


def _reduce(values: Values, call: Expr) -> Stored | None:
    value = values.stored(call.args[0])
    rank = value.rank
    if call.attrs.axis is None:
        return None
    axes = [int(a) % rank for a in call.attrs.axis]
    positions = sorted(value.order.index(a) for a in axes)
    make = getattr(relax.op, op_name(call).removeprefix("relax."))
    new = make(value.expr, positions, keepdims=bool(call.attrs.keepdims))
    if bool(call.attrs.keepdims):
        return values.emit(new, value.order)
    kept = [d for d in range(rank) if d not in axes]
    return values.emit(new, tuple(kept.index(d) for d in value.order if d in kept))


def _broadcast_to(values: Values, call: Expr) -> Stored | None:
    value, result = values.stored(call.args[0]), shape_of(call)
    if result is None or len(result) != value.rank:
        return None
    return values.emit(relax.op.broadcast_to(value.expr, [result[d] for d in value.order]), value.order)


def _prelu(values: Values, call: Expr) -> Stored | None:
    value, slope = values.stored(call.args[0]), values.stored(call.args[1])
    axis = value.order.index(int(call.attrs.axis) % value.rank)
    return values.emit(relax.op.nn.prelu(value.expr, values.move(slope, identity(1)), axis), value.order)


def _layer_norm(values: Values, call: Expr) -> Stored | None:
    """Over one dimension; over several, scale and shift would have to move too."""
    value, attrs = values.stored(call.args[0]), call.attrs
    if len(attrs.axes) != 1:
        return None
    axis = value.order.index(int(attrs.axes[0]) % value.rank)
    scale, shift = (values.move(values.stored(a), identity(1)) for a in call.args[1:])
    new = relax.op.nn.layer_norm(
        value.expr, scale, shift, axis, float(attrs.epsilon), bool(attrs.center), bool(attrs.scale)
    )
    return values.emit(new, value.order)


def _strided_slice(values: Values, call: Expr) -> Stored | None:
    value = values.stored(call.args[0])
    rest = call.args[1:]
    if value.is_plain or not isinstance(rest[0], relax.Tuple):
        return None
    axes = [value.order.index(int(getattr(a, "value", a)) % value.rank) for a in rest[0].fields]
    bounds = [list(t.fields) for t in rest[1:]]
    new = relax.op.strided_slice(value.expr, axes, *bounds, assume_inbound=bool(call.attrs.assume_inbound))
    return values.emit(new, value.order)


def _pad(values: Values, call: Expr) -> Stored:
    value = values.stored(call.args[0])
    widths = [int(w) for w in call.attrs.pad_width]
    moved = [w for d in value.order for w in widths[2 * d : 2 * d + 2]]
    mode, filling = str(call.attrs.pad_mode), float(call.attrs.pad_value)
    new = relax.op.nn.pad(value.expr, moved, pad_mode=mode, pad_value=filling)
    return values.emit(new, value.order)


def _reshape(values: Values, call: Expr) -> Stored | None:
    """Dimensions that are joined or split must lie together and in order; the groups of them need not."""
    value, result = values.stored(call.args[0]), shape_of(call)
    if result is None or value.is_plain:
        return None
    shape = value.shape
    place = {d: i for i, d in enumerate(value.order)}
    groups = _groups(shape, result)
    if groups is None:
        return None
    ranked = []
    for old, new in groups:
        positions = [place[d] for d in old if not _is_one(shape[d])]
        ranked.append((min(positions, default=-1), old, new))
    ranked.sort(key=lambda group: group[0])
    wanted = tuple(d for _, old, _ in ranked for d in old)
    order = tuple(d for _, _, new in ranked for d in new)
    solid = {d for d in wanted if not _is_one(shape[d])}
    ready = [d for d in value.order if d in solid] == [d for d in wanted if d in solid]
    data = value.expr if ready else values.move(value, wanted)
    return values.emit(relax.op.reshape(data, [result[d] for d in order]), order)


def _is_one(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 1


def _groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], list[int]]] | None:
    """The finest pairing of runs of old and new dimensions with equal products.

    None if open dimensions do not let it be seen.
    """
    if not is_open((*old, *new)):
        return _paired(old, new)
    left, right = [measure(d) for d in old], [measure(d) for d in new]
    if math.prod(left) != math.prod(right):
        return None
    groups = _paired(left, right)
    same = (surely_equal(product([old[i] for i in a]), product([new[j] for j in b])) for a, b in groups)
    return groups if all(same) else None


def _paired(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
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
RULES: dict[str, Rule] = {
    **{f"relax.{name}": _elementwise for name in f"{_UNARY} {_BROADCAST}".split()},
    **{f"relax.{name}": _reduce for name in _REDUCTIONS.split()},
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.nn.max_pool2d": _pool2d,
    "relax.nn.avg_pool2d": _pool2d,
    "relax.image.resize2d": _resize2d,
    "relax.permute_dims": _transpose,
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.broadcast_to": _broadcast_to,
    "relax.nn.prelu": _prelu,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.strided_slice": _strided_slice,
    "relax.nn.pad": _pad,
    "relax.reshape": _reshape,
    "relax.squeeze": _reshape,
    "relax.expand_dims": _reshape,
    "relax.flatten": _reshape,
}
