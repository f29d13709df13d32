"""Relay operators by name: those that ONNX has under another name, and converters for the rest.

A converter takes the builder, the operands (tensors, or tuples of them) and the attributes as they were
printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.relay import (
    convolution,
    elementwise,
    linear,
    movement,
    normalization,
    pooling,
    quantized,
    reduction,
    resizing,
)

Converter = Callable[[Any, list[Any], Any], Any]

PLAIN: Mapping[str, str] = elementwise.PLAIN

OPERATORS: Mapping[str, Converter] = {
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **linear.OPERATORS,
    **movement.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **quantized.OPERATORS,
    **reduction.OPERATORS,
    **resizing.OPERATORS,
}
