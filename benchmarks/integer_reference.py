"""A quantized network in NumPy: the integer arithmetic that its nodes stand for, one operator at a time.

Products of integers are summed in float64, which is exact below 2^53. Everything else is what the ONNX
standard's own evaluator makes of it, in the types that the nodes have, float32 mostly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from dlcomp.frontend.qdq import on_integers


class ConvInteger(OpRun):  # type: ignore[misc]
    """(N, C, H, W) by (O, C / groups, KH, KW), as the operator of that name."""

    op_domain = ""

    def _run(
        self, x: np.ndarray, w: np.ndarray, x_zero: Any = None, w_zero: Any = None, **attributes: Any
    ) -> tuple[np.ndarray]:
        data, weight = _shifted(x, x_zero), _shifted(w, _by_output(w_zero, w.ndim))
        rank = weight.ndim - 2
        kernel, pads = weight.shape[2:], attributes["pads"] or [0] * (2 * rank)
        strides, dilations = (attributes[key] or [1] * rank for key in ("strides", "dilations"))
        if attributes["auto_pad"] not in ("NOTSET", None, b"NOTSET"):
            raise NotImplementedError(f"auto_pad {attributes['auto_pad']}")
        groups = attributes["group"] or 1
        padded = np.pad(data, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, extents, tuple(range(2, 2 + rank)))
        steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
        windows = windows[(slice(None), slice(None), *steps)]
        batch, channels, *rest = windows.shape
        spatial, depth = rest[:rank], channels // groups * int(np.prod(kernel))
        split = windows.reshape(batch, groups, channels // groups, int(np.prod(spatial)), -1)
        columns = split.transpose(0, 1, 2, 4, 3).reshape(batch, groups, depth, -1)
        matrices = weight.reshape(groups, len(weight) // groups, depth)
        total = np.matmul(matrices, columns).reshape(batch, len(weight), *spatial)
        return (total.astype(np.int32),)


class MatMulInteger(OpRun):  # type: ignore[misc]
    """(..., M, K) by (..., K, N), as the operator of that name."""

    op_domain = ""

    def _run(self, a: np.ndarray, b: np.ndarray, a_zero: Any = None, b_zero: Any = None) -> tuple[np.ndarray]:
        return (np.matmul(_shifted(a, a_zero), _shifted(b, b_zero)).astype(np.int32),)


class QuantizeLinear(OpRun):  # type: ignore[misc]
    """float32 divided by the scale, to the nearest (ties to even), plus the zero point, within its type."""

    op_domain = ""

    def _run(self, x: np.ndarray, scale: Any, zero: Any, axis: Any = None, **_: Any) -> tuple[np.ndarray]:
        scale, zero = (_along(each, axis, x.ndim) for each in (scale, zero))
        info = np.iinfo(zero.dtype)
        found = np.rint(x / scale) + zero.astype(np.float32)
        return (np.clip(found, info.min, info.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):  # type: ignore[misc]
    """The integer less the zero point, times the scale, in float32."""

    op_domain = ""

    def _run(
        self, x: np.ndarray, scale: Any, zero: Any = None, axis: Any = None, **_: Any
    ) -> tuple[np.ndarray]:
        shift = np.zeros((), x.dtype) if zero is None else zero
        scale, shift = (_along(each, axis, x.ndim) for each in (scale, shift))
        return ((x.astype(np.int32) - shift.astype(np.int32)).astype(np.float32) * scale,)


def _along(parameter: Any, axis: int | None, rank: int) -> np.ndarray:
    array = np.asarray(parameter)
    if array.ndim != 1 or array.size == 1:
        return array.reshape(())
    place = (1 if axis is None else axis) % rank
    return array.reshape([-1 if d == place else 1 for d in range(rank)])


def _shifted(integers: np.ndarray, zero: Any) -> np.ndarray:
    shift = 0.0 if zero is None else np.asarray(zero).astype(np.float64)
    return np.asarray(integers.astype(np.float64) - shift)


def _by_output(zero: Any, rank: int) -> Any:
    array = None if zero is None else np.asarray(zero)
    return array if array is None or array.size == 1 else array.reshape(-1, *[1] * (rank - 1))


_OPERATORS = [ConvInteger, MatMulInteger, QuantizeLinear, DequantizeLinear]


def evaluated(
    network: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """The outputs of ``network`` (with QuantizeLinear and DequantizeLinear) for each of ``feeds``."""
    evaluator = ReferenceEvaluator(on_integers(network), new_ops=_OPERATORS)
    names = list(evaluator.output_names)
    return [dict(zip(names, evaluator.run(None, dict(feed)), strict=True)) for feed in feeds]
