"""Operators without a counterpart in Relax, defined in the tensor expression language.

These converters take the block builder as well, through which a definition becomes a function of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper
from tvm import relax, te, tirx

from dlcomp.frontend.ops.arithmetic import constant_of, dtype_of, number, shape_of


def with_builder(function: Callable[[Any, Any, dict[str, Any]], Any]) -> Any:
    """Marks a converter ``(builder, inputs, attrs)``."""
    function.takes_builder = True  # type: ignore[attr-defined]
    return function


@with_builder
def _bit_cast(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """The same bits as another type of the same width."""
    x = inputs[0]
    wanted = str(helper.tensor_dtype_to_np_dtype(int(attrs["to"])))
    if wanted == dtype_of(x):
        return x
    held = x
    if dtype_of(x) == "bool":
        held = relax.op.astype(x, "uint8")
    target = "uint8" if wanted == "bool" else wanted

    def define(t: Any) -> Any:
        if t.dtype == target:
            return te.compute(t.shape, lambda *i: t(*i), name="bit_cast")
        return te.compute(t.shape, lambda *i: tirx.reinterpret(target, t(*i)), name="bit_cast")

    result = builder.emit_te(define, builder.normalize(held), primfunc_name_hint="bit_cast")
    return relax.op.astype(result, "bool") if wanted == "bool" else result


@with_builder
def _col2im(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Sums the columns of blocks back into an image, over any number of dimensions."""
    x, size, block = inputs[0], constant_of(inputs[1]), constant_of(inputs[2])
    if size is None or block is None:
        raise ValueError("image_shape and block_shape must be known when the model is loaded")
    image, kernel = [int(v) for v in size.reshape(-1)], [int(v) for v in block.reshape(-1)]
    rank = len(image)
    strides = [int(v) for v in attrs.get("strides", [1] * rank)]
    dilations = [int(v) for v in attrs.get("dilations", [1] * rank)]
    pads = [int(v) for v in attrs.get("pads", [0] * (2 * rank))]
    batch, rows, _ = shape_of(x)
    channels = rows // int(np.prod(kernel))
    steps = [
        (image[d] + pads[d] + pads[d + rank] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1
        for d in range(rank)
    ]

    def define(t: Any) -> Any:
        taps = [te.reduce_axis((0, k), f"k{d}") for d, k in enumerate(kernel)]

        def at(n: Any, c: Any, *place: Any) -> Any:
            row: Any = c
            column: Any = tirx.const(0, "int64")
            inside: Any = tirx.const(True, "bool")
            for d in range(rank):
                row = row * kernel[d] + taps[d]
                distance = place[d] + pads[d] - taps[d] * dilations[d]
                step = tirx.floordiv(distance, strides[d])
                column = column * steps[d] + step
                valid = tirx.all(tirx.floormod(distance, strides[d]) == 0, step >= 0, step < steps[d])
                inside = tirx.all(inside, valid)
            return te.sum(tirx.if_then_else(inside, t[n, row, column], tirx.const(0, t.dtype)), axis=taps)

        return te.compute((batch, channels, *image), at, name="col2im")

    return builder.emit_te(define, x, primfunc_name_hint="col2im")


@with_builder
def _det(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Determinants of small square matrices, by expansion along the first row."""
    x = inputs[0]
    dims = shape_of(x)
    if dims[-1] > _LARGEST_DETERMINANT:
        raise ValueError(f"matrices of more than {_LARGEST_DETERMINANT} rows are not supported")

    def define(t: Any) -> Any:
        def minor(lead: Any, rows: list[int], columns: list[int]) -> Any:
            if len(rows) == 1:
                return t(*lead, rows[0], columns[0])
            total = tirx.const(0, t.dtype)
            for place, column in enumerate(columns):
                rest = minor(lead, rows[1:], columns[:place] + columns[place + 1 :])
                term = t(*lead, rows[0], column) * rest
                total = total + term if place % 2 == 0 else total - term
            return total

        every = list(range(dims[-1]))
        return te.compute(tuple(dims[:-2]), lambda *lead: minor(lead, every, every), name="det")

    return builder.emit_te(define, x, primfunc_name_hint="det")


_LARGEST_DETERMINANT = 5


@with_builder
def _space_to_depth(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Blocks of pixels into channels: (n, c, h, w) to (n, b*b*c, h/b, w/b), DCR as default, or CRD."""
    x, size = inputs[0], int(attrs["blocksize"])
    n, c, h, w = shape_of(x)
    mode = attrs.get("mode", b"DCR")
    split = relax.op.reshape(x, [n, c, h // size, size, w // size, size])
    order = [0, 1, 3, 5, 2, 4] if mode in (b"CRD", "CRD") else [0, 3, 5, 1, 2, 4]
    return relax.op.reshape(relax.op.permute_dims(split, order), [n, c * size * size, h // size, w // size])


@with_builder
def _eye_like(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Ones on the k-th diagonal, in the type that is asked for."""
    rows, columns = shape_of(inputs[0])
    kind = dtype_of(inputs[0])
    if "dtype" in attrs:
        kind = str(helper.tensor_dtype_to_np_dtype(int(attrs["dtype"])))
    return relax.const(np.eye(rows, columns, int(attrs.get("k", 0))).astype(kind), kind)


@with_builder
def _tensor_scatter(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """A cache with an update written at a place of its own in each batch entry, or around its end."""
    past, update = inputs[0], inputs[1]
    begin = inputs[2] if len(inputs) > 2 else None
    dims, axis = shape_of(past), int(attrs.get("axis", -2)) % len(shape_of(past))
    mode = attrs.get("mode", b"linear")
    length, size = shape_of(update)[axis], dims[axis]
    if begin is None:
        begin = relax.const(np.zeros(dims[0]), "int64")

    def define(cache: Any, new: Any, places: Any) -> Any:
        def at(*i: Any) -> Any:
            distance = i[axis] - places[i[0]]
            if mode in (b"circular", "circular"):
                distance = tirx.floormod(distance, size)
            inside = tirx.all(distance >= 0, distance < length)
            clipped = tirx.max(tirx.min(distance, tirx.const(length - 1, "int64")), tirx.const(0, "int64"))
            where = [clipped if d == axis else index for d, index in enumerate(i)]
            return tirx.if_then_else(inside, new(*where), cache(*i))

        return te.compute(cache.shape, at, name="tensor_scatter")

    begin = builder.normalize(relax.op.astype(begin, "int64"))
    return builder.emit_te(define, past, update, begin, primfunc_name_hint="tensor_scatter")


@with_builder
def _mod(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    """``fmod`` gives the sign of the dividend, else the result has the sign of the divisor."""
    a, b = inputs[0], inputs[1]
    if "float" not in dtype_of(a):
        return (relax.op.mod if attrs.get("fmod", 0) else relax.op.floor_mod)(a, b)
    whole = relax.op.trunc(relax.op.divide(a, b))
    rest = relax.op.subtract(a, relax.op.multiply(whole, b))
    # By infinity the dividend itself remains.
    endless = relax.op.isinf(b)
    rest = relax.op.where(relax.op.logical_and(endless, relax.op.isfinite(a)), a, rest)
    if attrs.get("fmod", 0):
        return rest
    zero = number(0.0, a)
    other_sign = relax.op.logical_and(
        relax.op.not_equal(rest, zero), relax.op.less(relax.op.multiply(rest, relax.op.sign(b)), zero)
    )
    return relax.op.where(other_sign, relax.op.add(rest, b), rest)


CONVERTERS: Mapping[str, Any] = {
    "BitCast": _bit_cast,
    "Col2Im": _col2im,
    "Det": _det,
    "EyeLike": _eye_like,
    "Mod": _mod,
    "SpaceToDepth": _space_to_depth,
    "TensorScatter": _tensor_scatter,
}
