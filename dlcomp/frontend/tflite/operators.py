"""TFLite operators by name.

A converter takes a :class:`Call` and gives a tensor, or a list of as many as the operator has results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.tflite import (
    activations,
    convolution,
    elementwise,
    linear,
    lookup,
    movement,
    pooling,
    recurrent,
    reduction,
    resizing,
    shapes,
    slicing,
)
from dlcomp.frontend.tflite.call import Call

Converter = Callable[[Call], Any]

# Compute with numbers.
OPERATORS: Mapping[str, Converter] = {
    **activations.OPERATORS,
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **linear.OPERATORS,
    **lookup.OPERATORS,
    **pooling.OPERATORS,
    **recurrent.OPERATORS,
    **reduction.OPERATORS,
    **resizing.OPERATORS,
    **shapes.OPERATORS,
}
# Move elements: integers as they are, if operands and results mean the same by them.
MOVING: Mapping[str, Converter] = {
    **elementwise.MOVING,
    **lookup.MOVING,
    **movement.MOVING,
    **resizing.MOVING,
    **shapes.MOVING,
    **slicing.MOVING,
}
# Take integers as they are, whatever they mean.
ALWAYS_MOVING: Mapping[str, Converter] = {
    **elementwise.ALWAYS_MOVING,
    **lookup.ALWAYS_MOVING,
    **shapes.ALWAYS_MOVING,
}
CUSTOM: Mapping[str, Converter] = convolution.CUSTOM
