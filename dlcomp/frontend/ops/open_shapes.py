"""Operators whose result has a shape given by an operand, where that is an expression of open dimensions.

A converter takes the block builder, the Relax operands, the known elements of each (None for data), and the
attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, te, tirx

from dlcomp.frontend.ops.arithmetic import shape_of
from dlcomp.frontend.recurrent import text
from dlcomp.frontend.symbolic import Dim, divided, is_open, product, simplified, surely_equal, whole

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
    tensor = relax.op.shape_to_tensor(shape_expr(flat))
    if dtype != "int64":
        tensor = relax.op.astype(tensor, dtype)
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
    return relax.op.broadcast_to(x, shape_expr(dims))


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
    """Steps and starts are numbers; an end may be open."""
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
        if not isinstance(step, int) or step < 1:
            raise ValueError("a negative step along an open dimension is not supported")
        begin[axis], stride[axis] = _bound(start, given[axis]), step
        length = simplified(_bound(end, given[axis]) - begin[axis])
        count = divided(length + (step - 1), step)
        dims[axis] = max(0, count) if isinstance(count, int) else simplified(tirx.max(count, whole(0)))

    def define(t: Any) -> Any:
        return te.compute(
            tuple(dims),
            lambda *i: t(*(at * step + low for at, step, low in zip(i, stride, begin, strict=True))),
            name="slice",
        )

    return builder.emit_te(define, builder.normalize(x), primfunc_name_hint="slice")


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
    return place


def _resize(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    """Images enlarged or made smaller by a ratio, or to a size."""
    x = inputs[0]
    given = shape_of(x)
    scales, sizes = (_dims(known, place) if len(known) > place else None for place in (2, 3))
    if len(given) != 4 or not is_open(given) or "axes" in attrs:
        return None
    if sizes:
        wanted = sizes
    elif scales:
        wanted = [_scaled(dim, float(scale)) for dim, scale in zip(given, scales, strict=True)]
    else:
        raise ValueError("the scales or sizes must be known when the model is loaded")
    same = all(surely_equal(a, b) for a, b in zip(given[:2], wanted[:2], strict=True))
    mode, coordinates, rounding = (
        text(attrs.get(name, default))
        for name, default in (
            ("mode", "nearest"),
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    )
    enlarged = scales is not None and min(scales) >= 1
    if not same or coordinates not in _COORDINATES or (mode != "nearest" and not enlarged):
        raise ValueError("this form of Resize needs static shapes: give --shape")
    if mode == "nearest" and rounding not in _ROUNDING:
        raise ValueError(f"the nearest_mode {rounding} needs static shapes: give --shape")
    if mode not in ("nearest", "linear"):
        raise ValueError(f"the mode {mode} needs static shapes: give --shape")
    return relax.op.image.resize2d(
        x,
        shape_expr(wanted[2:]),
        roi=[0.0] * 4,
        layout="NCHW",
        method="nearest_neighbor" if mode == "nearest" else "linear",
        coordinate_transformation_mode=coordinates,
        rounding_method=rounding if mode == "nearest" else "round",
    )


# Those that TVM computes as ONNX does.
_COORDINATES = frozenset({"half_pixel", "asymmetric", "align_corners"})
_ROUNDING = frozenset({"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"})


def _scaled(dim: Dim, scale: float) -> Dim:
    """floor(dim * scale)."""
    ratio = Fraction(scale).limit_denominator(1024)
    if isinstance(dim, int):
        return math.floor(dim * scale)
    if float(np.float32(float(ratio))) != float(np.float32(scale)):
        raise ValueError(f"a Resize by {scale} needs static shapes: give --shape")
    return divided(dim * ratio.numerator, ratio.denominator)


CONVERTERS: Mapping[str, Callable[[Any, Any, Known, Mapping[str, Any]], Any]] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Tile": _tile,
}
