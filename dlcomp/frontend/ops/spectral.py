"""The discrete Fourier transform as a product with the matrix of its roots of unity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from dlcomp.frontend.ops.arithmetic import constant_of, dtype_of, shape_of


def _dft(inputs: Any, attrs: dict[str, Any]) -> Any:
    """(..., n, 1 or 2) to (..., m, 2): real and imaginary parts along the last axis (ai.onnx 17 and 20)."""
    x = inputs[0]
    dims, kind = shape_of(x), dtype_of(x)
    length = _known(inputs, 1, "dft_length")
    axis = _known(inputs, 2, "axis") if len(inputs) > 2 and inputs[2] is not None else attrs.get("axis", None)
    axis = int(-2 if axis is None and len(inputs) > 2 else 1 if axis is None else axis) % len(dims)
    count = int(length) if length is not None else dims[axis]
    inverse, onesided = bool(attrs.get("inverse", 0)), bool(attrs.get("onesided", 0))
    kept = count // 2 + 1 if onesided else count
    used = min(count, dims[axis])
    angle = 2 * np.pi * np.outer(np.arange(used), np.arange(kept)) / count
    scale = 1 / count if inverse else 1.0
    real = relax.const(np.cos(angle) * scale, kind)
    imaginary = relax.const(np.sin(angle) * (scale if inverse else -scale), kind)

    # The transformed axis last, the pair of parts apart.
    others = [d for d in range(len(dims) - 1) if d != axis]
    parts = []
    for place in range(dims[-1]):
        part = relax.op.take(x, relax.const(place, "int64"), len(dims) - 1, mode="clip")
        part = relax.op.permute_dims(part, [*others, axis])
        if used < dims[axis]:
            part = relax.op.strided_slice(part, [len(others)], [0], [used])
        parts.append(part)

    def product(a: Any, b: Any) -> Any:
        return relax.op.matmul(a, b)

    first, second = product(parts[0], real), product(parts[0], imaginary)
    if len(parts) == 2:
        first = relax.op.subtract(first, product(parts[1], imaginary))
        second = relax.op.add(second, product(parts[1], real))
    order = [*others, axis]
    back = [order.index(d) for d in range(len(dims) - 1)]
    return relax.op.stack([relax.op.permute_dims(part, back) for part in (first, second)], len(dims) - 1)


def _known(inputs: Any, place: int, name: str) -> int | None:
    if len(inputs) <= place or inputs[place] is None:
        return None
    value = constant_of(inputs[place])
    if value is None:
        raise ValueError(f"{name} must be known when the model is loaded: values={{{name!r}: ...}}")
    return int(value.reshape(-1)[0])


CONVERTERS: Mapping[str, Any] = {"DFT": _dft}
