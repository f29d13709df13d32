"""TFLite's products of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.activations import activated
from dlcomp.frontend.tflite.call import Call


def _fully_connected(call: Call) -> Tensor:
    """(..., I) by weights of (O, I); without ``KeepNumDims`` the result is (rows, O)."""
    b, x, w, bias = call.b, call.arg(0), call.arg(1), call.maybe(2)
    if call.options.whole("WeightsFormat"):
        raise ValueError("weights that are shuffled for another processor are not supported")
    if w.rank != 2 or w.shape[1] < 1:
        raise ValueError(f"weights of the shape {list(w.shape)}")
    if bias is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"a bias of the shape {list(bias.shape)} for {w.shape[0]} results")
    if call.options.flag("KeepNumDims") and x.rank != 2:
        y = b.op("MatMul", [x, b.transpose(w, [1, 0])])
        return activated(call, y if bias is None else b.op("Add", [y, bias]))
    if x.rank != 2 or x.shape[1] != w.shape[1]:
        x = b.reshape(x, [-1, w.shape[1]])
    return activated(call, b.op("Gemm", [x, w, bias], transB=1))


def _batch_matmul(call: Call) -> Tensor:
    b, sides = call.b, [call.arg(0), call.arg(1)]
    for place, flag in enumerate(("AdjX", "AdjY")):
        x = sides[place]
        if x.rank < 2:
            raise ValueError(f"{list(x.shape)} is no matrix")
        if call.options.flag(flag):
            sides[place] = b.transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])
    return b.op("MatMul", sides)


OPERATORS: Mapping[str, Any] = {
    "BATCH_MATMUL": _batch_matmul,
    "FULLY_CONNECTED": _fully_connected,
}
