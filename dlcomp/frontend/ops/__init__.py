"""Converters of our own from ONNX operators to Relax, one family a file, asked before TVM's.

A converter takes the operands and the attributes of a node and returns a Relax expression, or None to leave
the node to TVM's own converter. ``CONVERTERS`` is keyed by operator, ``domain::Op`` outside the standard
domain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.ops import (
    arithmetic,
    basic,
    float8,
    kernels,
    movement,
    normalization,
    quantized,
    recurrent,
    resize,
    spectral,
)

Converter = Callable[[Any, dict[str, Any]], Any]

CONVERTERS: Mapping[str, Converter] = {
    **basic.CONVERTERS,
    **arithmetic.CONVERTERS,
    **float8.CONVERTERS,
    **kernels.CONVERTERS,
    **movement.CONVERTERS,
    **normalization.CONVERTERS,
    **quantized.CONVERTERS,
    **recurrent.CONVERTERS,
    **resize.CONVERTERS,
    **spectral.CONVERTERS,
}
