"""Padding, and the windows of convolutions and pooling, on images of open size.

ONNX lets the size of an image decide about its padding (``auto_pad``, ``ceil_mode``); such padding becomes
a kernel of its own here, and the windows then slide over the padded image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from dlcomp.frontend.ops.arithmetic import dtype_of, number, shape_of
from dlcomp.frontend.recurrent import text
from dlcomp.frontend.symbolic import Dim, divided, is_open, simplified, whole

Known = Sequence[np.ndarray | None]
_CONVOLUTIONS: Mapping[int, Callable[..., Any]] = {
    1: relax.op.nn.conv1d,
    2: relax.op.nn.conv2d,
    3: relax.op.nn.conv3d,
}
_POOLS: Mapping[tuple[str, int], Callable[..., Any]] = {
    ("MaxPool", 1): relax.op.nn.max_pool1d,
    ("MaxPool", 2): relax.op.nn.max_pool2d,
    ("MaxPool", 3): relax.op.nn.max_pool3d,
    ("AveragePool", 1): relax.op.nn.avg_pool1d,
    ("AveragePool", 2): relax.op.nn.avg_pool2d,
    ("AveragePool", 3): relax.op.nn.avg_pool3d,
}


def padded(
    builder: Any, x: Any, before: Sequence[Dim], after: Sequence[Dim], mode: str, filling: Any = None
) -> Any:
    """``x`` with ``before`` and ``after`` more elements along each axis, fewer if they are negative.

    ``mode`` is ONNX's: constant (``filling``, a scalar tensor), edge, reflect or wrap.
    """

    def define(t: Any, low: Any, high: Any, *value: Any) -> Any:
        dims = list(t.shape)

        def at(*places: Any) -> Any:
            source = [p - b for p, b in zip(places, low, strict=True)]
            moved = [a for a, (b, e) in enumerate(zip(low, high, strict=True)) if not _is_zero(b, e)]
            if mode != "constant":
                for axis in moved:
                    source[axis] = _mirrored(source[axis], dims[axis], mode)
                return t(*source)
            inside = [c for a in moved for c in (source[a] >= 0, source[a] < dims[a])]
            scalar = value[0](*[0] * len(value[0].shape))
            return tirx.if_then_else(tirx.all(*inside), t(*source), scalar) if inside else t(*source)

        out = [d + b + e for d, b, e in zip(dims, low, high, strict=True)]
        return te.compute(out, at, name="pad")

    operands = [builder.normalize(filling)] if mode == "constant" else []
    return builder.emit_te(
        define, builder.normalize(x), list(before), list(after), *operands, primfunc_name_hint="pad"
    )


def _is_zero(*widths: Dim) -> bool:
    return all(isinstance(w, int) and w == 0 for w in widths)


def _mirrored(place: Any, size: Any, mode: str) -> Any:
    """The element of an axis that a place before, in or after it shows."""
    zero, last = tirx.const(0, "int64"), size - 1
    if mode == "edge":
        return tirx.max(tirx.min(place, last), zero)
    if mode == "wrap":
        return tirx.floormod(place, size)
    # There and back; an axis of one element only shows that one.
    period = tirx.max(2 * last, tirx.const(1, "int64"))
    there = tirx.floormod(place, period)
    return tirx.max(tirx.min(there, 2 * last - there), zero)


def _pad(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    x = inputs[0]
    rank = len(shape_of(x))
    if len(known) > 1:
        if known[1] is None or (len(known) > 3 and inputs[3] is not None and known[3] is None):
            return None
        widths: list[Dim] = known[1].reshape(-1).tolist()
    else:
        widths = list(attrs["pads"])
    if not is_open([*shape_of(x), *widths]):
        return None
    axes = list(range(rank))
    if len(known) > 3 and known[3] is not None:
        axes = [int(a) % rank for a in known[3].reshape(-1).tolist()]
    before: list[Dim] = [0] * rank
    after: list[Dim] = [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = widths[place], widths[place + len(axes)]
    given = inputs[2] if len(inputs) > 2 else None
    filling = given if given is not None else number(attrs.get("value", 0), x)
    return padded(builder, x, before, after, text(attrs.get("mode", "constant")), filling)


def _windows(
    attrs: Mapping[str, Any], sizes: Sequence[Dim], kernel: Sequence[int]
) -> tuple[list[Dim], list[Dim]]:
    """The padding before and after each axis that ``auto_pad``, ``ceil_mode`` and ``pads`` ask for."""
    rank = len(sizes)
    strides, dilations = (list(attrs.get(name, [1] * rank)) for name in ("strides", "dilations"))
    auto = text(attrs.get("auto_pad", "NOTSET"))
    pads: list[Dim] = list(attrs.get("pads", [0] * (2 * rank))) if auto == "NOTSET" else [0] * (2 * rank)
    for axis, size in enumerate(sizes):
        reach, stride = (kernel[axis] - 1) * dilations[axis] + 1, strides[axis]
        if auto.startswith("SAME"):
            count = divided(size + (stride - 1), stride)
            total = _at_least_zero((count - 1) * stride + reach - size)
            half = divided(total, 2)
            rest = simplified(total - half)
            pads[axis], pads[axis + rank] = (half, rest) if auto == "SAME_UPPER" else (rest, half)
        elif attrs.get("ceil_mode", 0):
            behind = size + pads[axis]
            windows = divided(behind + pads[axis + rank] - reach + (stride - 1), stride) + 1
            # A window that would begin behind the image and the padding before it does not count.
            count = _least(windows, divided(behind + (stride - 1), stride))
            pads[axis + rank] = _at_least_zero((count - 1) * stride + reach - behind)
    return pads[:rank], pads[rank:]


def _at_least_zero(value: Dim) -> Dim:
    return max(value, 0) if isinstance(value, int) else simplified(tirx.max(value, whole(0)))


def _least(a: Dim, b: Dim) -> Dim:
    return (
        min(a, b) if isinstance(a, int) and isinstance(b, int) else simplified(tirx.min(whole(a), whole(b)))
    )


def _conv(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
    """A convolution whose padding follows from an open size."""
    x, weight, *bias = inputs
    sizes = shape_of(x)[2:]
    if not is_open(sizes) or not text(attrs.get("auto_pad", "NOTSET")).startswith("SAME"):
        return None
    rank = len(sizes)
    before, after = _windows(attrs, sizes, shape_of(weight)[2:])
    if is_open([*before, *after]):
        x = padded(builder, x, [0, 0, *before], [0, 0, *after], "constant", number(0, x))
        before = after = [0] * rank
    layouts = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}[rank]
    result = _CONVOLUTIONS[rank](
        x,
        weight,
        strides=list(attrs.get("strides", [1] * rank)),
        padding=[*before, *after],
        dilation=list(attrs.get("dilations", [1] * rank)),
        groups=int(attrs.get("group", 1)),
        data_layout=layouts[0],
        kernel_layout=layouts[1],
    )
    if bias and bias[0] is not None:
        result = relax.op.add(result, relax.op.reshape(bias[0], [1, -1, *[1] * rank]))
    return result


def _pool(operator: str) -> Callable[[Any, Any, Known, Mapping[str, Any]], Any]:
    def convert(builder: Any, inputs: Any, known: Known, attrs: Mapping[str, Any]) -> Any:
        (x,) = inputs
        sizes, rank = shape_of(x)[2:], len(shape_of(x)) - 2
        same = text(attrs.get("auto_pad", "NOTSET")).startswith("SAME")
        if not is_open(sizes) or not (same or attrs.get("ceil_mode", 0)):
            return None
        counts_padding = bool(attrs.get("count_include_pad", 0))
        if operator == "AveragePool" and counts_padding and attrs.get("ceil_mode", 0):
            raise ValueError("ceil_mode with count_include_pad needs static shapes: give --shape")
        kernel = list(attrs["kernel_shape"])
        before, after = _windows(attrs, sizes, kernel)
        lowest = -np.inf if dtype_of(x).startswith("float") else np.iinfo(dtype_of(x)).min
        filling = number(lowest if operator == "MaxPool" else 0, x)

        def over(image: Any, filling: Any) -> Any:
            wide = padded(builder, image, [0, 0, *before], [0, 0, *after], "constant", filling)
            options = {"count_include_pad": True} if operator == "AveragePool" else {}
            return _POOLS[operator, rank](
                wide,
                pool_size=kernel,
                strides=list(attrs.get("strides", [1] * rank)),
                dilation=list(attrs.get("dilations", [1] * rank)),
                padding=[0] * (2 * rank),
                **options,
            )

        result = over(x, filling)
        if operator == "MaxPool" or counts_padding:
            return result
        # The mean over a window with its padding, by the share of the window that is no padding.
        ones = relax.op.full(relax.ShapeExpr([1, 1, *sizes]), number(1, x), dtype_of(x))
        return relax.op.divide(result, over(ones, number(0, x)))

    return convert


CONVERTERS: Mapping[str, Callable[[Any, Any, Known, Mapping[str, Any]], Any]] = {
    "AveragePool": _pool("AveragePool"),
    "Conv": _conv,
    "MaxPool": _pool("MaxPool"),
    "Pad": _pad,
}
