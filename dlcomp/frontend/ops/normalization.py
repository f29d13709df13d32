"""Normalisations in the forms that TVM's importer lacks or gets wrong, and what they come with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from dlcomp.frontend.ops.arithmetic import constant_of, dtype_of, number, shape_of


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


def _batch_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    """In training mode: (result, running mean, running variance) from the batch's own statistics."""
    if not attrs.get("training_mode", 0):
        return None
    x, scale, bias, mean, variance = inputs[:5]
    rank = len(shape_of(x))
    axes = [d for d in range(rank) if d != 1]
    momentum = attrs.get("momentum", 0.9)

    def along(value: Any) -> Any:
        return relax.op.expand_dims(value, [0, *range(2, rank)])

    batch_mean = relax.op.mean(x, axis=axes, keepdims=True)
    centred = relax.op.subtract(x, batch_mean)
    batch_variance = relax.op.mean(relax.op.multiply(centred, centred), axis=axes, keepdims=True)
    root = relax.op.sqrt(relax.op.add(batch_variance, number(attrs.get("epsilon", 1e-5), x)))
    result = relax.op.multiply(relax.op.divide(centred, root), along(scale))

    def running(old: Any, new: Any) -> Any:
        kept = relax.op.multiply(old, number(momentum, x))
        return relax.op.add(kept, relax.op.multiply(relax.op.squeeze(new, axes), number(1 - momentum, x)))

    outputs = [
        relax.op.add(result, along(bias)),
        running(mean, batch_mean),
        running(variance, batch_variance),
    ]
    return relax.Tuple(outputs[: attrs["tvm_custom"]["num_outputs"]])


def _dropout(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Nothing is dropped in inference, and the mask says so; random dropping is refused."""
    x = inputs[0]
    training = constant_of(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else np.array(False)
    ratio = constant_of(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else np.array(0.5)
    if training is None or (training.any() and (ratio is None or ratio.any())):
        raise ValueError("training mode drops at random, which is not supported")
    if attrs["tvm_custom"]["num_outputs"] < 2:
        return x
    return relax.Tuple([x, relax.op.ones(shape_of(x), "bool")])


def _roi_align(inputs: Any, attrs: dict[str, Any]) -> Any:
    if attrs.get("mode", b"avg") in (b"max", "max"):
        raise ValueError("the mode max is not supported")
    return None


CONVERTERS: Mapping[str, Any] = {
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "RoiAlign": _roi_align,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
}
