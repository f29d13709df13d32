"""TFLite's convolutions: images (N, H, W, C), computed channels first as ONNX has them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from dlcomp.frontend.builder import OPEN, Tensor
from dlcomp.frontend.tflite.activations import activated
from dlcomp.frontend.tflite.builder import Builder, same_pads
from dlcomp.frontend.tflite.call import Call

SAME, VALID = 0, 1


def channels_first(b: Builder, x: Tensor) -> Tensor:
    """(N, ..., C) to (N, C, ...)."""
    if x.rank < 3:
        raise ValueError(f"{list(x.shape)} is no image")
    return b.transpose(x, [0, x.rank - 1, *range(1, x.rank - 1)])


def channels_last(b: Builder, x: Tensor) -> Tensor:
    return b.transpose(x, [0, *range(2, x.rank), 1])


def padding(
    kind: int, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> dict[str, Any]:
    """ONNX's attributes for SAME or VALID; SAME over an open size is left to ONNX, whose rule it is."""
    if kind == VALID:
        return {}
    if kind != SAME:
        raise ValueError(f"the padding number {kind} is not supported")
    if OPEN in sizes:
        return {"auto_pad": "SAME_UPPER"}
    before, behind = same_pads(sizes, windows, strides)
    return {"pads": [*before, *behind]} if any(before + behind) else {}


def strides_of(call: Call) -> list[int]:
    strides = [call.options.whole("StrideH", 1), call.options.whole("StrideW", 1)]
    if min(strides) < 1:
        raise ValueError(f"strides of {strides}")
    return strides


def _convolve(call: Call, w: Tensor, groups: int) -> Tensor:
    """``w`` is (O, I / groups, KH, KW)."""
    b, x = call.b, call.arg(0)
    if x.rank != 4 or w.rank != 4:
        raise ValueError("only images of two dimensions are supported")
    strides = strides_of(call)
    dilations = [call.options.whole(f"Dilation{side}Factor", 1) for side in "HW"]
    if min(dilations) < 1 or min(w.shape) < 1:
        raise ValueError(f"dilations of {dilations} over a kernel of {list(w.shape)}")
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    y = b.op(
        "Conv",
        [channels_first(b, x), w, _row(call.maybe(2))],
        kernel_shape=w.shape[2:],
        strides=strides,
        dilations=dilations,
        group=groups,
        **padding(call.options.whole("Padding"), x.shape[1:3], reach, strides),
    )
    return channels_last(b, activated(call, y))


def _row(bias: Tensor | None) -> Tensor | None:
    if bias is not None and bias.rank != 1:
        raise ValueError(f"a bias of the shape {list(bias.shape)}")
    return bias


def _conv_2d(call: Call) -> Tensor:
    """Kernels are (O, KH, KW, I); fewer input channels than the image has are groups."""
    x, w = call.arg(0), call.arg(1)
    if w.rank != 4 or x.rank != 4:
        raise ValueError("only images of two dimensions are supported")
    inputs = w.shape[3]
    if inputs < 1 or x.shape[3] < 1 or x.shape[3] % inputs:
        raise ValueError(f"kernels for {inputs} channels do not fit {x.shape[3]}")
    return _convolve(call, channels_first(call.b, w), x.shape[3] // inputs)


def _depthwise(call: Call) -> Tensor:
    """Kernels are (1, KH, KW, C * multiplier)."""
    x, w = call.arg(0), call.arg(1)
    if w.rank != 4 or x.rank != 4 or w.shape[0] != 1 or x.shape[3] < 1 or w.shape[3] % x.shape[3]:
        raise ValueError("the kernels do not fit the channels")
    return _convolve(call, call.b.transpose(w, [3, 0, 1, 2]), x.shape[3])


def _spread(
    call: Call, x: Tensor, w: Tensor, bias: Tensor | None, sizes: list[int], strides: list[int], kind: int
) -> Tensor:
    """The transpose of a convolution that reads an image of ``sizes``; kernels are (O, KH, KW, I)."""
    b = call.b
    if x.rank != 4 or w.rank != 4:
        raise ValueError("only images of two dimensions are supported")
    image, kernel = b.known(x, (1, 2)), list(w.shape[1:3])
    before, _ = same_pads(sizes, kernel, strides) if kind == SAME else ([0, 0], [])
    # What the image spreads to, less what is wanted, is cut off behind; what is missing there is bias alone.
    rest = [
        (size - 1) * stride + k - low - wanted
        for size, stride, k, low, wanted in zip(image, strides, kernel, before, sizes, strict=True)
    ]
    y = b.op(
        "ConvTranspose",
        [channels_first(b, x), b.transpose(w, [3, 0, 1, 2]), _row(bias)],
        kernel_shape=kernel,
        strides=strides,
        pads=[*before, *(max(r, 0) for r in rest)],
        output_padding=[max(-r, 0) for r in rest],
    )
    return channels_last(b, activated(call, y))


def _transpose_conv(call: Call) -> Tensor:
    """Operands: the result's shape, kernels, the image, perhaps a bias."""
    sizes = call.wholes(0, "the shape of the result")
    if len(sizes) != 4 or min(sizes) < 1:
        raise ValueError(f"a result of the shape {sizes}")
    kind = call.options.whole("Padding")
    if kind not in (SAME, VALID):
        raise ValueError(f"the padding number {kind} is not supported")
    return _spread(call, call.arg(2), call.arg(1), call.maybe(3), sizes[1:3], strides_of(call), kind)


def _transpose_conv_with_bias(call: Call) -> Tensor:
    """MediaPipe's own: image, kernels, bias; padding (1 is SAME) and strides as three 32-bit numbers."""
    kind, across, down = struct.unpack("<3i", call.options.custom[:12].ljust(12, b"\0"))
    x, w, strides = call.arg(0), call.arg(1), [down, across]
    if x.rank != 4 or w.rank != 4 or kind not in (1, 2) or min(strides) < 1:
        raise ValueError(f"padding {kind} and strides {strides} are not supported")
    sizes = [
        size * stride if kind == 1 else size * stride + max(k - stride, 0)
        for size, k, stride in zip(call.b.known(x, (1, 2)), w.shape[1:3], strides, strict=True)
    ]
    return _spread(call, x, w, call.arg(2), sizes, strides, SAME if kind == 1 else VALID)


OPERATORS: Mapping[str, Any] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose_conv,
}
CUSTOM: Mapping[str, Any] = {"CUSTOM Convolution2DTransposeBias": _transpose_conv_with_bias}
