"""TFLite's activations: those fused into another operator, and those that stand alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.builder import Builder
from dlcomp.frontend.tflite.call import Call
from dlcomp.frontend.tflite.network import Info

_NONE, _RELU, _RELU_N1_TO_1, _RELU6, _TANH = range(5)
_BOUNDS = {_RELU: (0.0, math.inf), _RELU_N1_TO_1: (-1.0, 1.0), _RELU6: (0.0, 6.0)}


def activated(call: Call, y: Tensor) -> Tensor:
    """``y`` behind the activation that the operator's options name."""
    kind = call.options.whole("FusedActivationFunction")
    if kind == _NONE:
        return y
    if kind == _TANH:
        return call.b.op("Tanh", [y])
    if kind not in _BOUNDS:
        raise ValueError(f"the fused activation number {kind} is not supported")
    low, high = _BOUNDS[kind]
    return y if _saturates(call.result, low, high) else bounded(call.b, y, low, high)


def bounded(b: Builder, x: Tensor, low: float, high: float) -> Tensor:
    if (low, high) == (0.0, math.inf) and not x.is_integer:
        return b.op("Relu", [x])
    if not x.is_integer:
        return b.op("Clip", [x, b.number(low, x), b.number(high, x)])
    ends = [None if math.isinf(v) else b.number(int(v), x) for v in (low, high)]
    return b.op("Clip", [x, *ends])


def _saturates(result: Info, low: float, high: float) -> bool:
    """Whether the result's integers end where the activation does, so that rounding to them is enough."""
    q = result.quantization
    if q is None or q.scales.size != 1 or result.dtype not in ("int8", "uint8", "int16"):
        return False
    info, scale, zero = np.iinfo(result.dtype), float(q.scales[0]), int(q.zeros[0])
    return zero + round(low / scale) <= info.min and (
        math.isinf(high) or zero + round(high / scale) >= info.max
    )


def _bounded(low: float, high: float) -> Callable[[Call], Tensor]:
    def convert(call: Call) -> Tensor:
        return call.arg(0) if _saturates(call.result, low, high) else bounded(call.b, call.arg(0), low, high)

    return convert


def _leaky_relu(call: Call) -> Tensor:
    return call.b.op("LeakyRelu", [call.arg(0)], alpha=call.options.real("Alpha"))


def _prelu(call: Call) -> Tensor:
    return call.b.op("PRelu", [call.arg(0), call.arg(1)])


def _gelu(call: Call) -> Tensor:
    """x/2 (1 + erf(x / sqrt 2)), or with tanh for erf (Hendrycks and Gimpel, 2016)."""
    b, x = call.b, call.arg(0)
    if call.options.flag("Approximate"):
        cubed = b.op("Mul", [b.op("Mul", [x, x]), x])
        inner = b.op("Add", [x, b.op("Mul", [cubed, b.number(0.044715, x)])])
        share = b.op("Tanh", [b.op("Mul", [inner, b.number(math.sqrt(2 / math.pi), x)])])
    else:
        share = b.op("Erf", [b.op("Div", [x, b.number(math.sqrt(2), x)])])
    half = b.op("Mul", [x, b.number(0.5, x)])
    return b.op("Mul", [half, b.op("Add", [share, b.number(1.0, x)])])


def _softmax(call: Call) -> Tensor:
    b, x = call.b, call.arg(0)
    beta = call.options.real("Beta", 1.0)
    return b.op("Softmax", [x if beta == 1 else b.op("Mul", [x, b.number(beta, x)])], axis=-1)


def _log_softmax(call: Call) -> Tensor:
    return call.b.op("LogSoftmax", [call.arg(0)], axis=-1)


OPERATORS: Mapping[str, Any] = {
    "GELU": _gelu,
    "LEAKY_RELU": _leaky_relu,
    "LOG_SOFTMAX": _log_softmax,
    "PRELU": _prelu,
    "RELU": _bounded(0.0, math.inf),
    "RELU6": _bounded(0.0, 6.0),
    "RELU_0_TO_1": _bounded(0.0, 1.0),
    "RELU_N1_TO_1": _bounded(-1.0, 1.0),
    "SOFTMAX": _softmax,
}
