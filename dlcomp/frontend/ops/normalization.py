"""Layer and RMS normalisation over any trailing axes, with scales that broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import relax

from dlcomp.frontend.ops.arithmetic import dtype_of, number, shape_of


def _axes(x: Any, attrs: dict[str, Any]) -> list[int]:
    rank = len(shape_of(x))
    return list(range(int(attrs.get("axis", -1)) % rank, rank))


def _layer_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    """(result, mean, inverse deviation), as ai.onnx 17 has them; computed in float32 or better."""
    x, scale = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    axes, kind = _axes(x, attrs), dtype_of(x)
    wide = "float64" if kind == "float64" else "float32"
    values = x if kind == wide else relax.op.astype(x, wide)
    mean = relax.op.mean(values, axis=axes, keepdims=True)
    centred = relax.op.subtract(values, mean)
    variance = relax.op.mean(relax.op.multiply(centred, centred), axis=axes, keepdims=True)
    inverse = relax.op.rsqrt(relax.op.add(variance, relax.const(attrs.get("epsilon", 1e-5), wide)))
    result = relax.op.multiply(centred, inverse)
    if kind != wide:
        result = relax.op.astype(result, kind)
    result = relax.op.multiply(result, scale)
    if bias is not None:
        result = relax.op.add(result, bias)
    return relax.Tuple([result, mean, inverse])


def _rms_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    x, scale = inputs[0], inputs[1]
    axes, kind = _axes(x, attrs), dtype_of(x)
    wide = "float64" if kind == "float64" else "float32"
    values = x if kind == wide else relax.op.astype(x, wide)
    square = relax.op.mean(relax.op.multiply(values, values), axis=axes, keepdims=True)
    inverse = relax.op.rsqrt(relax.op.add(square, number(attrs.get("epsilon", 1e-5), values)))
    result = relax.op.multiply(values, inverse)
    if kind != wide:
        result = relax.op.astype(result, kind)
    return relax.op.multiply(result, scale)


CONVERTERS: Mapping[str, Any] = {
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
}
