"""Relay's products of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcomp.frontend.builder import Builder, Tensor
from dlcomp.frontend.relay.attributes import Attributes

_BYTES = ("int8", "uint8")


def turned(b: Builder, x: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    if x.rank < 2:
        raise ValueError(f"{list(x.shape)} is no matrix")
    return b.transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def multiply(b: Builder, x: Tensor, w: Tensor, attrs: Attributes) -> Tensor:
    """``x @ w`` in the type of the result: sums of bytes and of other integers are int32."""
    dtype = attrs.text("out_dtype", "int32" if x.is_integer else x.dtype)
    if x.dtype in _BYTES and w.dtype in _BYTES:
        return b.cast(b.op("MatMulInteger", [x, w]), dtype)
    return b.op("MatMul", [b.cast(x, dtype), b.cast(w, dtype)])


def _dense(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """(..., k) by (units, k)."""
    return multiply(b, args[0], turned(b, args[1]), attrs)


def _matmul(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = turned(b, args[0]) if attrs.flag("transpose_a") else args[0]
    return multiply(b, x, turned(b, args[1]) if attrs.flag("transpose_b") else args[1], attrs)


def _batch_matmul(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """As matmul; releases without the flags had the right operand turned, which the sizes betray."""
    x, w = args
    flagless = attrs.get("transpose_a") is None and attrs.get("transpose_b") is None
    if flagless and x.shape[-1] != w.shape[-2] and x.shape[-1] == w.shape[-1]:
        w = turned(b, w)
    return _matmul(b, [x, w], attrs)


def _bias_add(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Add", [args[0], b.along(args[1], attrs.whole("axis", 1), args[0].rank)])


def _einsum(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    return b.op("Einsum", list(args[0]), equation=str(attrs.required("equation")))


OPERATORS: Mapping[str, Any] = {
    "einsum": _einsum,
    "nn.batch_matmul": _batch_matmul,
    "nn.bias_add": _bias_add,
    "nn.dense": _dense,
    "nn.matmul": _matmul,
}
