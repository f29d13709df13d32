"""ONNX nodes of a TFLite network: dimensions may be open, and quantized weights stay integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlcomp.frontend import builder
from dlcomp.frontend.builder import OPEN, Tensor, axis_of
from dlcomp.frontend.tflite.network import Quantization


class Builder(builder.Builder):
    """The graph so far."""

    takes_open = True
    kept = frozenset({"DequantizeLinear"})

    def __init__(self) -> None:
        super().__init__()
        # What DequantizeLinear made numbers of, and what Transpose turned.
        self.integers: dict[str, tuple[Tensor, Quantization]] = {}
        self.turned: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        # Nodes are named for the operator that they are made of.
        self.label = ""

    def ops(
        self, kind: str, operands: Sequence[Tensor | None], count: int, **attributes: Any
    ) -> list[Tensor]:
        before = len(self.nodes)
        results = super().ops(kind, operands, count, **attributes)
        for node in self.nodes[before:]:
            node.name = f"{self.label}_{node.name}"
        return results

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``x`` in a shape of which one size may be -1; with open dimensions that is not known before."""
        if OPEN not in x.shape:
            return super().reshape(x, shape)
        if list(shape).count(-1) > 1 or min(shape, default=1) < -1 or 0 in shape:
            raise ValueError(f"{list(x.shape)} with open dimensions does not take the shape {list(shape)}")
        return self.op("Reshape", [x, self.constant(list(shape), "int64")])

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """The axes in another order; there and back again is where it was.

        Integers are turned before they become numbers, which stay beside the operator that takes them.
        """
        if sorted(order) != list(range(x.rank)) or list(order) == list(range(x.rank)):
            return super().transpose(x, order)
        if x.name in self.turned:
            source, before = self.turned[x.name]
            return self.transpose(source, [before[a] for a in order])
        if x.name in self.integers:
            stored, q = self.integers[x.name]
            axis = list(order).index(q.axis) if q.scales.size > 1 else 0
            return self.dequantize(self.transpose(stored, order), Quantization(q.scales, q.zeros, axis))
        y = super().transpose(x, order)
        self.turned[y.name] = (x, tuple(order))
        return y

    def squeeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        axes = sorted({axis_of(a, x.rank) for a in axes})
        if any(x.shape[a] not in (1, OPEN) for a in axes):
            raise ValueError(f"axes {axes} of {list(x.shape)} are not of size 1")
        return self.op("Squeeze", [x, self.constant(axes, "int64")]) if axes else x

    def unsqueeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return self.op("Unsqueeze", [x, self.constant(list(axes), "int64")]) if axes else x

    def wide(self, x: Tensor) -> Tensor:
        """Indices and sizes as ONNX wants them."""
        return self.cast(x, "int64")

    def known(self, x: Tensor, axes: Sequence[int]) -> list[int]:
        """The sizes of ``x`` along ``axes``.

        Raises
        ------
        ValueError
            One of them is open.
        """
        sizes = [x.shape[a] for a in axes]
        if OPEN in sizes:
            raise ValueError(f"the sizes of {list(x.shape)} along {list(axes)} must be known")
        return sizes

    # -- quantized tensors -----------------------------------------------------------------------------------

    def dequantize(self, x: Tensor, q: Quantization) -> Tensor:
        """The numbers behind integers."""
        scale, zero = self._parameters(x.shape, x.rank, q)
        if x.dtype in ("int8", "uint8") or (x.dtype == "int32" and not q.zeros.any()):
            zeros = None if x.dtype == "int32" else self.constant(_held(zero, x.dtype), x.dtype)
            axis = {"axis": q.axis} if scale.ndim else {}
            y = self.op("DequantizeLinear", [x, self.constant(scale, "float32"), zeros], **axis)
            self.integers[y.name] = (x, q)
            return y
        if scale.ndim:
            scale, zero = (
                v.reshape([-1 if d == q.axis else 1 for d in range(x.rank)]) for v in (scale, zero)
            )
        numbers = self.cast(x, "float32")
        if q.zeros.any():
            numbers = self.op("Sub", [numbers, self.constant(zero, "float32")])
        return self.op("Mul", [numbers, self.constant(scale, "float32")])

    def quantize(self, x: Tensor, q: Quantization, dtype: str) -> Tensor:
        """``x`` as integers, saturated.

        A half goes to the even side here and away from zero in TFLite's kernels, one step at most.
        """
        if x.name in self.turned:
            source, order = self.turned[x.name]
            return self.transpose(self.quantize(source, q, dtype), order)
        scale, zero = self._parameters(x.shape, x.rank, q)
        if scale.ndim:
            raise ValueError("the result of an operator has a scale for every channel")
        if dtype in ("int8", "uint8"):
            return self.op(
                "QuantizeLinear",
                [x, self.constant(scale, "float32"), self.constant(_held(zero, dtype), dtype)],
            )
        info = np.iinfo(dtype)
        steps = self.op("Round", [self.op("Div", [x, self.constant(scale, "float32")])])
        moved = self.op("Add", [steps, self.constant(zero, "float32")]) if q.zeros.any() else steps
        ends = [self.constant(float(v), "float32") for v in (info.min, info.max)]
        return self.cast(self.op("Clip", [moved, *ends]), dtype)

    def _parameters(
        self, shape: tuple[int, ...], rank: int, q: Quantization
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point, both of no dimension or both of one."""
        if q.scales.size == 1:
            return q.scales.reshape(()), q.zeros.reshape(())
        if not 0 <= q.axis < rank or shape[q.axis] != q.scales.size:
            raise ValueError(f"{q.scales.size} scales do not fit axis {q.axis} of {list(shape)}")
        return q.scales, q.zeros


def _held(zeros: np.ndarray, dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    if zeros.min() < info.min or zeros.max() > info.max:
        raise ValueError(f"{zeros.tolist()} is no zero point of {dtype}")
    return zeros


def same_pads(
    sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Zeros before and behind, as TensorFlow's SAME has them: ceil(size / stride) windows."""
    before, behind = [], []
    for size, window, stride in zip(sizes, windows, strides, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
        before.append(total // 2)
        behind.append(total - total // 2)
    return before, behind
