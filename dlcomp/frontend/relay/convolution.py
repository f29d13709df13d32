"""Relay's convolutions, of numbers and of integers, in every layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlcomp.frontend.builder import Builder, Tensor
from dlcomp.frontend.relay.attributes import Attributes
from dlcomp.frontend.relay.layouts import plain, to_layout

_BYTES = ("int8", "uint8")


def convolve(
    b: Builder,
    operands: Sequence[Tensor],
    attrs: Attributes,
    rank: int,
    zeros: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """A convolution over ``rank`` axes; of bytes the sums are int32, about the zero points in ``zeros``."""
    x, w = operands
    first, spatial = plain(rank), plain(rank)[2:]
    data = attrs.text("data_layout", first)
    kernel = attrs.text("kernel_layout", "OI" + spatial)
    groups = attrs.whole("groups", 1)
    dtype = attrs.text("out_dtype", "int32" if x.is_integer else x.dtype)
    x = to_layout(b, x, data, first)
    w = _depthwise(b, to_layout(b, w, kernel, "OI" + spatial), x.shape[1], groups)
    if groups < 1 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise ValueError(
            f"{x.shape[1]} channels in {groups} groups do not fit a kernel of {w.shape[0]} by {w.shape[1]}"
        )
    options = {
        "strides": attrs.each("strides", rank),
        "pads": attrs.pads(rank),
        "dilations": attrs.each("dilation", rank),
        "group": groups,
    }
    if x.dtype in _BYTES and w.dtype in _BYTES:
        y = b.op("ConvInteger", [x, w, *zeros], **options)
    elif x.is_integer:
        if any(zero is not None for zero in zeros):
            raise ValueError("only bytes have zero points")
        # Sums below 2^53 are exact in float64; Relay's are int32.
        y = b.op("Conv", [b.cast(x, "float64"), b.cast(w, "float64")], **options)
        y = b.cast(y, "int64")
    else:
        y = b.op("Conv", [b.cast(x, dtype), b.cast(w, dtype)], **options)
    return to_layout(b, b.cast(y, dtype), first, attrs.text("out_layout", data))


def _depthwise(b: Builder, w: Tensor, channels: int, groups: int) -> Tensor:
    """ONNX's (channels * multiplier, 1, ...) of Relay's (channels, multiplier, ...)."""
    if groups > 1 and groups == channels == w.shape[0] and w.shape[1] != 1:
        return b.reshape(w, [w.shape[0] * w.shape[1], 1, *w.shape[2:]])
    return w


def _conv(rank: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return convolve(b, args, attrs, rank)

    return convert


def transposed_kernel(b: Builder, w: Tensor, attrs: Attributes, inputs: int, spatial: str) -> Tensor:
    """The kernel, input channels first.

    Releases differ in what ``OI`` and the default mean, so the sizes decide where they can.
    """
    first, groups = "IO" + spatial, attrs.whole("groups", 1)
    layout = attrs.text("kernel_layout", first)
    if layout not in (first, "OI" + spatial):
        return to_layout(b, w, layout, first)
    channels = attrs.get("channels")
    outputs = w.shape[1] * groups if channels is None else int(channels)
    as_it_is = w.shape[0] == inputs and w.shape[1] * groups == outputs
    turned = w.shape[1] == inputs and w.shape[0] * groups == outputs
    if turned and (not as_it_is or layout != first):
        return to_layout(b, w, "OI" + spatial, first)
    return w


def _conv_transpose(rank: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        first = plain(rank)
        data = attrs.text("data_layout", first)
        x = to_layout(b, args[0], data, first)
        w = transposed_kernel(b, args[1], attrs, x.shape[1], first[2:])
        dtype = attrs.text("out_dtype", x.dtype)
        y = b.op(
            "ConvTranspose",
            [b.cast(x, dtype), b.cast(w, dtype)],
            strides=attrs.each("strides", rank),
            pads=attrs.pads(rank),
            dilations=attrs.each("dilation", rank),
            output_padding=attrs.each("output_padding", rank, 0),
            group=attrs.whole("groups", 1),
        )
        return to_layout(b, y, first, attrs.text("out_layout", data))

    return convert


OPERATORS: Mapping[str, Any] = {
    "nn.contrib_conv2d_NCHWc": _conv(2),
    "nn.conv1d": _conv(1),
    "nn.conv1d_transpose": _conv_transpose(1),
    "nn.conv2d": _conv(2),
    "nn.conv2d_transpose": _conv_transpose(2),
    "nn.conv3d": _conv(3),
}
