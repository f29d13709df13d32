"""Operators whose result has a shape given by an operand, where that is an expression of open dimensions.

A converter takes the block builder, the Relax operands, the known elements of each (None for data), and the
attributes (with the number of results as ``outputs``); it returns an expression, a list of them, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, te, tirx

from dlcomp.frontend.ops import open_resize, open_windows
from dlcomp.frontend.ops.arithmetic import dtype_of, shape_of
from dlcomp.frontend.symbolic import (
    Dim,
    divided,
    is_open,
    least,
    not_negative,
    product,
    simplified,
    surely_equal,
    whole,
)

Known = Sequence[np.ndarray | None]
_ENDLESS = 2**31 - 1


def shape_expr(dims: Sequence[Dim]) -> Any:
    """The dimensions as a Relax shape."""
    return relax.ShapeExpr(list(dims))


def tensor_of(values: np.ndarray, dtype: str = "int64") -> Any:
    """Known elements as a tensor, computed when the network runs where they are open."""
    flat = values.reshape(-1).tolist()
    if all(isinstance(v, bool | int | float) for v in flat):
        kind = "bool" if flat and isinstance(flat[0], bool) else dtype
        return relax.const(np.array(flat, kind).reshape(values.shape), kind)
    # A shape holds whole numbers; what known elements have behind the point is added after it.
    known = [float(v) if isinstance(v, bool | int | float) else 0.0 for v in flat]
    wholes = [int(v // 1) if isinstance(v, bool | int | float) else v for v in flat]
    tensor = relax.op.shape_to_tensor(shape_expr(wholes))
    if dtype != "int64":
        tensor = relax.op.astype(tensor, dtype)
    if any(v % 1 for v in known):
        tensor = relax.op.add(tensor, relax.const(np.array([v % 1 for v in known], dtype), dtype))
    return tensor if values.ndim == 1 else relax.op.reshape(tensor, list(values.shape))


def _dims(known: Known, place: int) -> list[Dim] | None:
    if len(known) <= place or known[place] is None:
        return None
    found = known[place]
    assert found is not None
    values: list[Dim] = found.reshape(-1).tolist()
    return values


def _reshape(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    x, wanted = inputs[0], _dims(known, 1)
    if wanted is None:
        return None
    given = shape_of(x)
    if not attrs.get("allowzero", 0):
        wanted = [given[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(wanted)]
    places = [i for i, d in enumerate(wanted) if isinstance(d, int) and d == -1]
    if places:
        rest = [d for i, d in enumerate(wanted) if i != places[0]]
        left, right = list(given), list(rest)
        # What stands on both sides cancels.
        for dim in rest:
            match = next((g for g in left if surely_equal(g, dim)), None)
            if match is not None and not (isinstance(dim, int) and dim == 0):
                left.pop(next(i for i, g in enumerate(left) if surely_equal(g, dim)))
                right.pop(next(i for i, g in enumerate(right) if surely_equal(g, dim)))
        wanted[places[0]] = divided(product(left), product(right))
    return relax.op.reshape(x, shape_expr(wanted))


def _expand(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    x, wanted = inputs[0], _dims(known, 1)
    if wanted is None:
        return None
    given = shape_of(x)
    rank = max(len(given), len(wanted))
    given = [1] * (rank - len(given)) + given
    wanted = [1] * (rank - len(wanted)) + wanted
    dims = [g if isinstance(w, int) and w in (1, -1) else w for g, w in zip(given, wanted, strict=True)]
    if all(surely_equal(g, d) for g, d in zip(given, dims, strict=True)) and rank == len(shape_of(x)):
        return x
    if rank > len(shape_of(x)):
        x = relax.op.reshape(x, shape_expr(given))
    # Where both are open or only the result is known, whether there is one element shows at run time.
    repeated = [
        not surely_equal(g, d) and not (isinstance(g, int) and g == 1)
        for g, d in zip(given, dims, strict=True)
    ]

    def define(t: Any, out: Any) -> Any:
        def at(*places: Any) -> Any:
            zero = tirx.const(0, "int64")
            source = []
            for p, size, unsure in zip(places, t.shape, repeated, strict=True):
                alone = isinstance(size, tirx.IntImm | int) and int(size) == 1
                inside = tirx.Select(size == 1, zero, tirx.min(p, size - 1)) if unsure else p
                source.append(zero if alone else inside)
            return t(*source)

        return te.compute(out, at, name="expand")

    return builder.emit_te(define, builder.normalize(x), dims, primfunc_name_hint="expand")


def _split(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    """Parts of an open axis, of given sizes or as many as asked for."""
    x = inputs[0]
    given = shape_of(x)
    axis = int(attrs.get("axis", 0)) % len(given)
    if isinstance(given[axis], int):
        return None
    sizes = attrs.get("split")
    if len(known) > 1 and inputs[1] is not None:
        sizes = _dims(known, 1)
        if sizes is None:
            return None
    if sizes is None:
        count = int(attrs["outputs"])
        part = divided(given[axis] + (count - 1), count)
        sizes = [part] * (count - 1)
        sizes.append(simplified(given[axis] - part * (count - 1)))
    elif not is_open(sizes):
        # The parts are the whole: that says what the open dimension is.
        wanted = [sum(sizes) if d == axis else dim for d, dim in enumerate(given)]
        x = builder.match_cast(builder.emit(x), relax.TensorType(wanted, dtype_of(x)))
    begin: Dim = 0
    parts = []
    for size in sizes:
        parts.append(_part(builder, x, axis, begin, size))
        begin = simplified(begin + size)
    return parts


def _part(builder: Any, x: Any, axis: int, begin: Dim, size: Dim) -> Any:
    """``size`` elements of ``x`` along an axis from ``begin`` on."""

    def define(t: Any, low: Any, count: Any) -> Any:
        out = [count if d == axis else dim for d, dim in enumerate(t.shape)]
        return te.compute(out, lambda *p: t(*p[:axis], p[axis] + low, *p[axis + 1 :]), name="part")

    return builder.emit_te(define, builder.normalize(x), begin, size, primfunc_name_hint="part")


def _constant_of_shape(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    dims = _dims(known, 0)
    if dims is None:
        return None
    filling = numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, "float32")
    return relax.op.full(shape_expr(dims), relax.const(filling.reshape(())), str(filling.dtype))


def _range(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    bounds = [_dims(known, place) for place in range(3)]
    if any(b is None for b in bounds):
        return None
    start, end, step = (b[0] for b in bounds if b is not None)
    return relax.op.arange(start, end, step, "int64")


def _tile(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    repeats = _dims(known, 1)
    if repeats is None:
        return None
    x = inputs[0]
    given = shape_of(x)
    # Each dimension gets one of its repeats before it, which broadcasting fills.
    split = [d for dim in given for d in (1, dim)]
    wide = [d for dim, count in zip(given, repeats, strict=True) for d in (count, dim)]
    x = relax.op.broadcast_to(relax.op.reshape(x, shape_expr(split)), shape_expr(wide))
    return relax.op.reshape(x, shape_expr([dim * count for dim, count in zip(given, repeats, strict=True)]))


def _slice(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    """Steps are numbers; a start or an end may be open."""
    x = inputs[0]
    given = shape_of(x)
    if len(known) > 1:
        starts, ends = _dims(known, 1), _dims(known, 2)
        if starts is None or ends is None:
            return None
        axes = _dims(known, 3) or list(range(len(starts)))
        steps = _dims(known, 4) or [1] * len(starts)
    else:
        starts, ends = list(attrs["starts"]), list(attrs["ends"])
        axes, steps = list(attrs.get("axes", range(len(starts)))), [1] * len(starts)
    begin: list[Dim] = [0] * len(given)
    stride = [1] * len(given)
    dims = list(given)
    for start, end, place, step in zip(starts, ends, axes, steps, strict=True):
        axis = int(place) % len(given)
        if not isinstance(step, int) or step == 0:
            raise ValueError("the step of a Slice must be a number other than 0")
        stride[axis] = step
        if step > 0:
            begin[axis] = _bound(start, given[axis])
            way = _bound(end, given[axis]) - begin[axis]
        else:
            begin[axis] = _bound_backwards(start, given[axis], 0)
            way = begin[axis] - _bound_backwards(end, given[axis], -1)
        count = divided(simplified(way) + (abs(step) - 1), abs(step))
        dims[axis] = max(0, count) if isinstance(count, int) else not_negative(count)

    def define(t: Any, out: Any, low: Any) -> Any:
        def at(*places: Any) -> Any:
            return t(*(p * step + first for p, step, first in zip(places, stride, low, strict=True)))

        return te.compute(tuple(out), at, name="slice")

    return builder.emit_te(define, builder.normalize(x), dims, begin, primfunc_name_hint="slice")


def _bound(place: Dim, size: Dim) -> Dim:
    """A start or end as ONNX means it: from the end if it is negative, and inside the dimension."""
    if isinstance(place, int) and isinstance(size, int):
        return min(max(place + size if place < 0 else place, 0), size)
    if isinstance(place, int):
        if place >= _ENDLESS:
            return size
        if place == 0 or place <= -_ENDLESS:
            return 0
        return simplified(tirx.max(size + place, whole(0)) if place < 0 else tirx.min(size, whole(place)))
    if least(-place, 1) > 0:
        return not_negative(simplified(place + size))
    return not_negative(simplified(tirx.min(place, whole(size))))


def _bound_backwards(place: Dim, size: Dim, least: int) -> Dim:
    """A start or end of a negative step: from the end if it is negative, ``least`` to the last element."""
    if isinstance(place, int) and place >= _ENDLESS:
        return size - 1
    if isinstance(place, int) and place < 0:
        place = least if place <= -_ENDLESS else size + place
    if isinstance(place, int) and isinstance(size, int):
        return min(max(place, least), size - 1)
    # The last element second: of nothing it is -1.
    return simplified(tirx.min(tirx.max(whole(place), whole(least)), whole(size - 1)))


def _gather(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    """Along an open axis: a negative index counts from its end, one out of bounds is clipped into it."""
    x, indices = inputs[0], inputs[1]
    given = shape_of(x)
    axis = int(attrs.get("axis", 0)) % len(given)
    if isinstance(given[axis], int):
        return None
    dtype = dtype_of(indices)
    end = tensor_of(np.array([given[axis]], object), dtype)
    rank = len(shape_of(indices))
    end = relax.op.reshape(end, [1] * rank)
    negative = relax.op.less(indices, relax.const(0, dtype))
    places = relax.op.where(negative, relax.op.add(indices, end), indices)
    return relax.op.take(x, places, axis, mode="clip")


CONVERTERS: Mapping[str, Callable[[Any, Any, Known, Mapping[str, Any]], Any]] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": open_resize.convert,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    **open_windows.CONVERTERS,
}
