"""Integer operators of ONNX, exactly as it defines them: wide accumulators, then one rounding to even.

Products with stored weights take the 8-bit data as they are: what the zero point of the data adds to a sum
is a constant for each column, and is taken off behind. Everywhere else operands become numbers less their
zero points; those are float32 where the weights prove that no sum can leave the 24 bits that float32 holds
exactly (its kernels are faster than those of 32-bit integers), and otherwise int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from dlcomp.frontend.ops.arithmetic import constant, constant_of, dtype_of, shape_of
from dlcomp.frontend.symbolic import is_open

_BYTES = ("uint8", "int8")
# Whole numbers up to here are exact in float32, and so is every sum of them that stays below.
_EXACT = 1 << 24


def _centred(x: Any, zero: Any, axis: int | None = None, kind: str = "int32") -> Any:
    """``x - zero`` as ``kind``; a zero point of more than one element lies along ``axis``."""
    wide = relax.op.astype(x, kind)
    if zero is None:
        return wide
    return relax.op.subtract(wide, _along(zero, axis, len(shape_of(x)), kind))


def _accumulator(x: Any, x_zero: Any, w: Any, w_zero: Any, reduced: tuple[int, ...], w_axis: int) -> str:
    """float32 if every sum of products over the axes ``reduced`` of ``w`` is exact in it, else int32."""
    weight = constant_of(w)
    zeros = [np.zeros(1, np.int64) if z is None else constant_of(z) for z in (x_zero, w_zero)]
    if weight is None or zeros[0] is None or zeros[1] is None:
        return "int32"
    info = np.iinfo(dtype_of(x))
    largest = max(abs(int(edge) - int(z)) for edge in (info.min, info.max) for z in zeros[0].reshape(-1))
    offset = zeros[1].astype(np.int64).reshape(-1)
    shape = [offset.size if d == w_axis % weight.ndim else 1 for d in range(weight.ndim)]
    centred = np.abs(weight.astype(np.int64) - offset.reshape(shape))
    return "float32" if int(centred.sum(axis=reduced).max(initial=0)) * largest < _EXACT else "int32"


def _along(value: Any, axis: int | None, rank: int, cast: str = "") -> Any:
    """``value`` (a tensor of one element, or of one for each place of ``axis``) so that it broadcasts."""
    dims = shape_of(value)
    count = int(np.prod(dims))
    if cast:
        value = relax.op.astype(value, cast)
    if count == 1:
        return relax.op.reshape(value, [1] * rank) if rank else value
    if len(dims) != 1 or axis is None:
        return value
    return relax.op.reshape(value, [count if d == axis % rank else 1 for d in range(rank)])


def _requantized(total: Any, scale: Any, zero: Any, axis: int | None, rank: int) -> Any:
    """``saturate(round(total * scale) + zero)`` in the type of ``zero``."""
    kind = dtype_of(zero)
    info = np.iinfo(kind)
    value = relax.op.multiply(relax.op.astype(total, "float32"), scale)
    value = relax.op.add(relax.op.round(value), _along(zero, axis, rank, "float32"))
    return relax.op.astype(relax.op.clip(value, float(info.min), float(info.max)), kind)


def _stored_weight(x: Any, w: Any, w_zero: Any, axis: int) -> np.ndarray | None:
    """A constant of 8 bits less its zero points, as int8 or int16; None if it, or the data, is not such."""
    weight = constant_of(w)
    zero = np.zeros(1, np.int64) if w_zero is None else constant_of(w_zero)
    if weight is None or zero is None or dtype_of(x) not in _BYTES or weight.dtype.itemsize != 1:
        return None
    if zero.size not in (1, weight.shape[axis]) or zero.ndim > 1 or weight.size == 0:
        return None
    places = [zero.size if d == axis % weight.ndim else 1 for d in range(weight.ndim)]
    centred = weight.astype(np.int16) - zero.astype(np.int16).reshape(places)
    fits = centred.min() >= -128 and centred.max() <= 127
    return centred.astype(np.int8) if fits else centred


def _without_zero(total: Any, zero: Any, zero_axis: int | None, rank: int, sums: np.ndarray) -> Any:
    """``total``, of ``rank``, less what the zero point of the data adds; ``sums`` are of the weights."""
    known = np.zeros(1, np.int64) if zero is None else constant_of(zero)
    if known is not None and not known.any():
        return total
    added = relax.op.multiply(_along(zero, zero_axis, rank, "int32"), relax.const(sums.astype(np.int32)))
    return relax.op.subtract(total, added)


def _product(a: Any, a_zero: Any, b: Any, b_zero: Any) -> Any:
    kind = "int32"
    if len(shape_of(a)) >= 2 and len(shape_of(b)) == 2:
        weight = _stored_weight(a, b, b_zero, -1)
        if weight is not None:
            total = relax.op.matmul(a, constant(weight), out_dtype="int32")
            return _without_zero(total, a_zero, -2, len(shape_of(a)), weight.sum(axis=0, dtype=np.int64))
    if len(shape_of(b)) >= 2:
        kind = _accumulator(a, a_zero, b, b_zero, (-2,), -1)
    return relax.op.matmul(_centred(a, a_zero, -2, kind), _centred(b, b_zero, -1, kind), out_dtype=kind)


def _mat_mul_integer(inputs: Any, attrs: dict[str, Any]) -> Any:
    a, b = inputs[0], inputs[1]
    a_zero, b_zero = (inputs[i] if len(inputs) > i else None for i in (2, 3))
    return relax.op.astype(_product(a, a_zero, b, b_zero), "int32")


def _q_linear_mat_mul(inputs: Any, attrs: dict[str, Any]) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs[:8]
    total = _product(a, a_zero, b, b_zero)
    rank = max(len(shape_of(a)), len(shape_of(b)))
    left, right, out = (
        _along(scale, axis, rank, "float32") for scale, axis in ((a_scale, -2), (b_scale, -1), (y_scale, -1))
    )
    return _requantized(total, relax.op.divide(relax.op.multiply(left, right), out), y_zero, -1, rank)


def _convolution(x: Any, x_zero: Any, w: Any, w_zero: Any, attrs: dict[str, Any]) -> Any:
    """A convolution of numbers less their zero points: what it pads with is the zero point."""
    dims, kernel = shape_of(x), shape_of(w)[2:]
    rank = len(kernel)
    strides = [int(v) for v in attrs.get("strides", [1] * rank)]
    dilations = [int(v) for v in attrs.get("dilations", [1] * rank)]
    pads = [int(v) for v in attrs.get("pads", [0] * (2 * rank))]
    automatic = attrs.get("auto_pad", b"NOTSET")
    automatic = automatic.decode() if isinstance(automatic, bytes) else automatic
    if automatic.startswith("SAME"):
        for d in range(rank):
            size = dims[2 + d]
            out = -(-size // strides[d])
            total = max(0, (out - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 - size)
            low = total // 2 if automatic == "SAME_UPPER" else -(-total // 2)
            pads[d], pads[d + rank] = low, total - low
    if rank not in (1, 2):
        raise ValueError(f"integer convolutions over {rank} dimensions are not supported")
    op = relax.op.nn.conv2d if rank == 2 else relax.op.nn.conv1d
    groups = int(attrs.get("group", 1))
    weight = _stored_weight(x, w, w_zero, 0)
    filling = np.zeros(1) if x_zero is None else constant_of(x_zero)
    # Groups of a few channels have no neighbours along the reduction to take; depthwise kernels take rows.
    depthwise = shape_of(w)[1] == 1 and not is_open(dims)
    joined = groups == 1 or depthwise or shape_of(w)[1] % 4 == 0
    if weight is not None and joined and (filling is not None or not any(pads)):
        if any(pads):
            assert filling is not None
            widths = [0, 0, 0, 0, *(p for d in range(rank) for p in (pads[d], pads[d + rank]))]
            x = relax.op.nn.pad(x, widths, pad_value=float(filling.reshape(-1)[0]))
        total = op(x, constant(weight), strides=strides, dilation=dilations, groups=groups, out_dtype="int32")
        sums = weight.sum(axis=tuple(range(1, 2 + rank)), dtype=np.int64).reshape(-1, *[1] * rank)
        return _without_zero(total, x_zero, None, 2 + rank, sums)
    kind = _accumulator(x, x_zero, w, w_zero, tuple(range(1, 2 + rank)), 0)
    x, w = _centred(x, x_zero, None, kind), _centred(w, w_zero, 0, kind)
    return op(x, w, strides=strides, padding=pads, dilation=dilations, groups=groups, out_dtype=kind)


def _conv_integer(inputs: Any, attrs: dict[str, Any]) -> Any:
    x, w = inputs[0], inputs[1]
    x_zero, w_zero = (inputs[i] if len(inputs) > i else None for i in (2, 3))
    return relax.op.astype(_convolution(x, x_zero, w, w_zero, attrs), "int32")


def _q_linear_conv(inputs: Any, attrs: dict[str, Any]) -> Any:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = inputs[:8]
    bias = inputs[8] if len(inputs) > 8 else None
    total = _convolution(x, x_zero, w, w_zero, attrs)
    rank = len(shape_of(x))
    if bias is not None:
        # The sum with the bias may need more bits than float32 has.
        total = relax.op.add(relax.op.astype(total, "int32"), _along(bias, 1, rank))
    given, weight, out = (_along(s, 1, rank, "float32") for s in (x_scale, w_scale, y_scale))
    return _requantized(total, relax.op.divide(relax.op.multiply(given, weight), out), y_zero, 1, rank)


def _quantize(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Steps written out, so that they fuse with what is before and behind, in any order of dimensions."""
    x, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else None
    kind = dtype_of(zero) if zero is not None else "uint8"
    if dtype_of(x) != "float32" or not _plain(scale, zero, kind, attrs) or attrs.get("output_dtype"):
        return None
    rank, axis = len(shape_of(x)), int(attrs.get("axis", 1))
    info = np.iinfo(kind)
    value = relax.op.round(_divided(x, scale, axis, rank))
    if zero is not None and not _is_zero(zero):
        value = relax.op.add(value, _along(zero, axis, rank, "float32"))
    return relax.op.astype(relax.op.clip(value, float(info.min), float(info.max)), kind)


def _divided(x: Any, scale: Any, axis: int, rank: int) -> Any:
    known = constant_of(scale)
    if known is None or not (np.frexp(known)[0] == 0.5).all():
        return relax.op.divide(x, _along(scale, axis, rank))
    # The reciprocal of a power of two is exact.
    inverse = relax.const(np.float32(1) / known)
    return x if (known == 1).all() else relax.op.multiply(x, _along(inverse, axis, rank))


def _dequantize(inputs: Any, attrs: dict[str, Any]) -> Any:
    x, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else None
    if attrs.get("block_size"):
        return _dequantize_blocks(x, scale, zero, int(attrs.get("axis", 1)), int(attrs["block_size"]))
    if not _plain(scale, zero, dtype_of(x), attrs):
        return None
    rank, axis = len(shape_of(x)), int(attrs.get("axis", 1))
    value = relax.op.astype(x, "float32")
    if zero is not None and not _is_zero(zero):
        value = relax.op.subtract(value, _along(zero, axis, rank, "float32"))
    return relax.op.multiply(value, _along(scale, axis, rank))


def _dequantize_blocks(x: Any, scale: Any, zero: Any, axis: int, size: int) -> Any:
    """A scale, and a zero point, for every ``size`` neighbours along ``axis``; the last may be fewer."""
    shape = shape_of(x)
    axis %= len(shape)
    if is_open(shape) or dtype_of(scale) != "float32" or dtype_of(x) not in (*_BYTES, "uint16", "int16"):
        return None
    value = relax.op.astype(x, "float32")
    offset = None if zero is None or _is_zero(zero) else _float(zero)
    count, extent = shape_of(scale)[axis], shape[axis]
    if count * size == extent:
        # One number for a block, however large that is.
        value = relax.op.reshape(value, [*shape[:axis], count, size, *shape[axis + 1 :]])
        scale = relax.op.expand_dims(scale, axis + 1)
        offset = None if offset is None else relax.op.expand_dims(offset, axis + 1)
    else:
        scale = _repeated(scale, size, axis, extent)
        offset = None if offset is None else _repeated(offset, size, axis, extent)
    if offset is not None:
        value = relax.op.subtract(value, offset)
    value = relax.op.multiply(value, scale)
    return relax.op.reshape(value, shape) if count * size == extent else value


def _float(value: Any) -> Any:
    known = constant_of(value)
    return relax.op.astype(value, "float32") if known is None else constant(known.astype(np.float32))


def _repeated(value: Any, size: int, axis: int, extent: int) -> Any:
    """Every place of ``axis`` ``size`` times, the first ``extent`` of them."""
    known = constant_of(value)
    if known is not None:
        return constant(np.repeat(known, size, axis).take(range(extent), axis))
    return relax.op.strided_slice(relax.op.repeat(value, size, axis), [axis], [0], [extent])


def _plain(scale: Any, zero: Any, kind: str, attrs: dict[str, Any]) -> bool:
    """One float32 scale, or one for each place of an axis, for integers whose differences float32 holds.

    Zero points of 32 bits are left to TVM, but if they are zero.
    """
    if kind not in (*_BYTES, "uint16", "int16", "int32") or dtype_of(scale) != "float32":
        return False
    if attrs.get("block_size") or len(shape_of(scale)) > 1 or is_open(shape_of(scale)):
        return False
    return kind != "int32" or zero is None or _is_zero(zero)


def _is_zero(zero: Any) -> bool:
    known = constant_of(zero)
    return known is not None and not known.any()


CONVERTERS: Mapping[str, Any] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize,
    "MatMulInteger": _mat_mul_integer,
    "QLinearConv": _q_linear_conv,
    "QLinearMatMul": _q_linear_mat_mul,
    "QuantizeLinear": _quantize,
}
