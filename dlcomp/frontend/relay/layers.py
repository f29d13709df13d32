"""Relay's neural network operators (``nn.*``, ``image.*``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.relay.builder import Builder, Tensor

Attributes = Mapping[str, Any]


def pair(value: Any, count: int = 2) -> list[int]:
    """An attribute of one number or of ``count``."""
    values = [int(v) for v in (value if isinstance(value, list) else [value])]
    return values * count if len(values) == 1 else values


def padding(value: Any, rank: int = 2) -> list[int]:
    """ONNX's pads of Relay's padding: one number, one for each axis, or all (first those before)."""
    values = pair(value, rank)
    return values * 2 if len(values) == rank else values


def first_channels(b: Builder, x: Tensor, layout: str) -> Tensor:
    """``x`` in NCHW (or NCW, NCDHW)."""
    spatial = "DHW"[3 - (len(layout) - 2) :]
    wanted = f"NC{spatial}"
    if sorted(layout) != sorted(wanted):
        raise ValueError(f"the layout {layout} is not supported")
    return b.transpose(x, [layout.index(c) for c in wanted])


def back(b: Builder, x: Tensor, layout: str) -> Tensor:
    """``x`` from NCHW to ``layout``."""
    wanted = f"NC{'DHW'[3 - (len(layout) - 2) :]}"
    return b.transpose(x, [wanted.index(c) for c in layout])


def weight_first(b: Builder, w: Tensor, layout: str, wanted: str = "OIHW") -> Tensor:
    """A weight in ``wanted`` order."""
    if sorted(layout) != sorted(wanted):
        raise ValueError(f"the kernel layout {layout} is not supported")
    order = [layout.index(c) for c in wanted]
    if w.name in b.arrays:
        return b.constant(b.arrays[w.name].transpose(order))
    return b.transpose(w, order)


def _layouts(attrs: Attributes) -> tuple[str, str]:
    data = str(attrs.get("data_layout") or "NCHW")
    return data, str(attrs.get("kernel_layout") or "OIHW")


def _conv2d(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    data, kernel = _layouts(attrs)
    x, w = first_channels(b, args[0], data), args[1]
    groups = int(attrs.get("groups", 1))
    if groups > 1 and kernel == "HWOI":
        # A depthwise kernel of channels last: (height, width, channels, multiplier).
        height, width, channels, multiplier = w.shape
        w = b.transpose(w, [2, 3, 0, 1])
        w = b.reshape(w, [channels * multiplier, 1, height, width])
    else:
        w = weight_first(b, w, kernel)
    y = b.op(
        "Conv",
        [x, w],
        strides=pair(attrs.get("strides", 1)),
        pads=padding(attrs.get("padding", 0)),
        dilations=pair(attrs.get("dilation", 1)),
        group=groups,
    )
    return back(b, y, str(attrs.get("out_layout") or data))


def _conv1d(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    data = str(attrs.get("data_layout") or "NCW")
    x = first_channels(b, args[0], data)
    w = weight_first(b, args[1], str(attrs.get("kernel_layout") or "OIW"), "OIW")
    y = b.op(
        "Conv",
        [x, w],
        strides=pair(attrs.get("strides", 1), 1),
        pads=padding(attrs.get("padding", 0), 1),
        dilations=pair(attrs.get("dilation", 1), 1),
        group=int(attrs.get("groups", 1)),
    )
    return back(b, y, data)


def _conv2d_transpose(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    data = str(attrs.get("data_layout") or "NCHW")
    kernel = str(attrs.get("kernel_layout") or "IOHW")
    # Releases differ in the name of the order that is input channels first in memory.
    w = args[1] if kernel in ("IOHW", "OIHW") else weight_first(b, args[1], kernel, "IOHW")
    y = b.op(
        "ConvTranspose",
        [first_channels(b, args[0], data), w],
        strides=pair(attrs.get("strides", 1)),
        pads=padding(attrs.get("padding", 0)),
        dilations=pair(attrs.get("dilation", 1)),
        output_padding=pair(attrs.get("output_padding", 0)),
        group=int(attrs.get("groups", 1)),
    )
    return back(b, y, data)


def _dense(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """(..., k) by (units, k)."""
    return b.op("MatMul", [args[0], _turned(b, args[1])])


def _turned(b: Builder, w: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    order = [*range(len(w.shape) - 2), len(w.shape) - 1, len(w.shape) - 2]
    if w.name in b.arrays:
        return b.constant(np.ascontiguousarray(b.arrays[w.name].transpose(order)))
    return b.transpose(w, order)


def _matmul(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = _turned(b, args[0]) if attrs.get("transpose_a", False) else args[0]
    return b.op("MatMul", [x, _turned(b, args[1]) if attrs.get("transpose_b", False) else args[1]])


def _batch_matmul(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """The right operand comes turned by default."""
    return _matmul(b, args, {"transpose_b": True, **attrs})


def _bias_add(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    return b.op("Add", [x, b.along(args[1], int(attrs.get("axis", 1)), len(x.shape))])


def _batch_norm(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    """(result, mean, variance): in inference the statistics pass through."""
    x, gamma, beta, mean, variance = args
    axis, rank = int(attrs.get("axis", 1)) % len(x.shape), len(x.shape)
    order = [d for d in range(rank) if d != axis]
    order.insert(1, axis)
    if not attrs.get("scale", True):
        gamma = b.constant(np.ones(gamma.shape, gamma.dtype))
    if not attrs.get("center", True):
        beta = b.constant(np.zeros(beta.shape, beta.dtype))
    epsilon = float(attrs.get("epsilon", 1e-5))
    y = b.op("BatchNormalization", [b.transpose(x, order), gamma, beta, mean, variance], epsilon=epsilon)
    return b.transpose(y, [order.index(d) for d in range(rank)]), mean, variance


def _layer_norm(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, gamma, beta = args
    axis = int(attrs.get("axis", -1))
    if axis % len(x.shape) != len(x.shape) - 1:
        raise ValueError("only over the last dimension")
    return b.op("LayerNormalization", [x, gamma, beta], axis=-1, epsilon=float(attrs.get("epsilon", 1e-5)))


def _pool2d(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        layout = str(attrs.get("layout") or "NCHW")
        more = {"count_include_pad": int(attrs.get("count_include_pad", 0))} if kind == "AveragePool" else {}
        y = b.op(
            kind,
            [first_channels(b, args[0], layout)],
            kernel_shape=pair(attrs["pool_size"]),
            strides=pair(attrs.get("strides", 1)),
            pads=padding(attrs.get("padding", 0)),
            dilations=pair(attrs.get("dilation", 1)),
            ceil_mode=int(attrs.get("ceil_mode", 0)),
            **more,
        )
        return back(b, y, str(attrs.get("out_layout") or layout))

    def without_dilations(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        if pair(attrs.get("dilation", 1)) != [1, 1]:
            return _whole(b, args, attrs)
        layout = str(attrs.get("layout") or "NCHW")
        y = b.op(
            kind,
            [first_channels(b, args[0], layout)],
            kernel_shape=pair(attrs["pool_size"]),
            strides=pair(attrs.get("strides", 1)),
            pads=padding(attrs.get("padding", 0)),
            ceil_mode=int(attrs.get("ceil_mode", 0)),
            count_include_pad=int(attrs.get("count_include_pad", 0)),
        )
        return back(b, y, str(attrs.get("out_layout") or layout))

    def _whole(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        raise ValueError("a dilated average is not supported")

    return convert if kind == "MaxPool" else without_dilations


def _global_pool(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        layout = str(attrs.get("layout") or "NCHW")
        return back(b, b.op(kind, [first_channels(b, args[0], layout)]), layout)

    return convert


def _adaptive_pool(kind: str, whole: str) -> Any:
    """To a size that divides the image, or to one pixel."""

    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        layout = str(attrs.get("layout") or "NCHW")
        x = first_channels(b, args[0], layout)
        size = attrs.get("output_size")
        wanted = pair(size) if size not in (None, []) else list(x.shape[2:])
        if wanted == [1, 1]:
            return back(b, b.op(whole, [x]), layout)
        if any(have % want for have, want in zip(x.shape[2:], wanted, strict=True)):
            raise ValueError(f"an image of {list(x.shape[2:])} does not divide into {wanted}")
        kernel = [have // want for have, want in zip(x.shape[2:], wanted, strict=True)]
        return back(b, b.op(kind, [x], kernel_shape=kernel, strides=kernel), layout)

    return convert


def _softmax(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.op(kind, [args[0]], axis=int(attrs.get("axis", -1)))

    return convert


def _leaky_relu(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("LeakyRelu", [args[0]], alpha=float(attrs.get("alpha", 0.01)))


def _prelu(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    return b.op("PRelu", [x, b.along(args[1], int(attrs.get("axis", 1)), len(x.shape))])


def _pad(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    widths = [[int(v) for v in side] for side in attrs["pad_width"]]
    flat = [low for low, _ in widths] + [high for _, high in widths]
    value = args[1] if len(args) > 1 else b.number(float(attrs.get("pad_value", 0)), args[0])
    operands = [args[0], b.constant(flat, "int64")]
    mode = str(attrs.get("pad_mode", "constant"))
    if mode == "constant":
        operands.append(b.reshape(b.cast(value, args[0].dtype), []))
    return b.op("Pad", operands, mode=mode)


def _lrn(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    if int(attrs.get("axis", 1)) != 1:
        raise ValueError("only across the channels of NCHW")
    return b.op(
        "LRN",
        [args[0]],
        size=int(attrs.get("size", 5)),
        alpha=float(attrs.get("alpha", 1e-5)) * 1.0,
        beta=float(attrs.get("beta", 0.75)),
        bias=float(attrs.get("bias", 2)),
    )


def _upsampling(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    layout = str(attrs.get("layout") or "NCHW")
    x = first_channels(b, args[0], layout)
    scales = b.constant([1, 1, float(attrs.get("scale_h", 1)), float(attrs.get("scale_w", 1))], "float32")
    return back(b, _resized(b, x, scales, None, str(attrs.get("method", "nearest_neighbor")), attrs), layout)


def _resize2d(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    layout = str(attrs.get("layout") or "NCHW")
    x = first_channels(b, args[0], layout)
    sizes = b.constant([*x.shape[:2], *pair(attrs["size"])], "int64")
    mode = {"coordinate_transformation_mode": "half_pixel", **attrs}
    return back(b, _resized(b, x, None, sizes, str(attrs.get("method", "linear")), mode), layout)


def _resized(
    b: Builder, x: Tensor, scales: Tensor | None, sizes: Tensor | None, method: str, attrs: Attributes
) -> Tensor:
    nearest = method in ("nearest_neighbor", "nearest")
    coordinates = attrs.get("coordinate_transformation_mode")
    if coordinates is None:
        coordinates = "align_corners" if attrs.get("align_corners", False) else "asymmetric"
    rounding = {"round": "round_prefer_ceil", "": "floor" if coordinates != "half_pixel" else ""}
    how = str(attrs.get("rounding_method", ""))
    how = rounding.get(how, how) or "round_prefer_ceil"
    mode = "nearest" if nearest else {"bilinear": "linear", "bicubic": "cubic"}.get(method, method)
    more = {"nearest_mode": how} if nearest else {}
    operands = [x, None, scales] if sizes is None else [x, None, None, sizes]
    return b.op("Resize", operands, mode=mode, coordinate_transformation_mode=str(coordinates), **more)


def _dropout(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    """(the value, a mask of ones)."""
    return args[0], b.constant(np.ones(args[0].shape, "float32"))


OPERATORS: Mapping[str, Any] = {
    "image.resize2d": _resize2d,
    "nn.adaptive_avg_pool2d": _adaptive_pool("AveragePool", "GlobalAveragePool"),
    "nn.adaptive_max_pool2d": _adaptive_pool("MaxPool", "GlobalMaxPool"),
    "nn.avg_pool2d": _pool2d("AveragePool"),
    "nn.batch_matmul": _batch_matmul,
    "nn.batch_norm": _batch_norm,
    "nn.bias_add": _bias_add,
    "nn.conv1d": _conv1d,
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
    "nn.dense": _dense,
    "nn.dropout": _dropout,
    "nn.fast_softmax": _softmax("Softmax"),
    "nn.global_avg_pool2d": _global_pool("GlobalAveragePool"),
    "nn.global_max_pool2d": _global_pool("GlobalMaxPool"),
    "nn.layer_norm": _layer_norm,
    "nn.leaky_relu": _leaky_relu,
    "nn.log_softmax": _softmax("LogSoftmax"),
    "nn.lrn": _lrn,
    "nn.matmul": _matmul,
    "nn.max_pool2d": _pool2d("MaxPool"),
    "nn.pad": _pad,
    "nn.prelu": _prelu,
    "nn.softmax": _softmax("Softmax"),
    "nn.upsampling": _upsampling,
}
