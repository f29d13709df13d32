"""TFLite's poolings and what else reads windows or neighbours of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.activations import activated
from dlcomp.frontend.tflite.call import Call
from dlcomp.frontend.tflite.convolution import channels_first, channels_last, padding, strides_of


def _pool(kind: str) -> Callable[[Call], Tensor]:
    def convert(call: Call) -> Tensor:
        b, x = call.b, call.arg(0)
        if x.rank != 4:
            raise ValueError("only images of two dimensions are supported")
        strides = strides_of(call)
        window = [call.options.whole("FilterHeight"), call.options.whole("FilterWidth")]
        if min(window) < 1:
            raise ValueError(f"a window of {window}")
        pads = padding(call.options.whole("Padding"), x.shape[1:3], window, strides)
        y = b.op(kind, [channels_first(b, x)], kernel_shape=window, strides=strides, **pads)
        return channels_last(b, y if call.moved else activated(call, y))

    return convert


def _l2_pool(call: Call) -> Tensor:
    """The root of the mean of squares."""
    b, x = call.b, call.arg(0)
    squares = Call(b, [b.op("Mul", [x, x])], call.options, call.results, call.moved)
    mean: Tensor = _pool("AveragePool")(squares)
    return b.op("Sqrt", [mean])


def _local_response(call: Call) -> Tensor:
    """x / (bias + alpha * the sum of squares of 2 radius + 1 channels) ** beta; ONNX's alpha is of a mean."""
    b, x = call.b, call.arg(0)
    size = 2 * call.options.whole("Radius") + 1
    if not 1 <= size <= 2**16:
        raise ValueError(f"a window of {size} channels")
    real = call.options.real
    y = b.op(
        "LRN",
        [channels_first(b, x)],
        size=size,
        alpha=real("Alpha") * size,
        beta=real("Beta"),
        bias=real("Bias"),
    )
    return channels_last(b, y)


OPERATORS: Mapping[str, Any] = {
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "L2_POOL_2D": _l2_pool,
    "LOCAL_RESPONSE_NORMALIZATION": _local_response,
    "MAX_POOL_2D": _pool("MaxPool"),
}
