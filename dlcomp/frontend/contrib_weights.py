"""Weights of a few bits an element, as onnxruntime's weight-only quantizer packs them, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """(..., bytes) to (..., bytes * 8 / bits): the lowest bits of a byte come first."""
    if bits == 8:
        return data.astype(np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (data[..., None].astype(np.uint8) >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(parts).reshape(*data.shape[:-1], -1)


@dataclass(frozen=True)
class MatrixOfBits:
    """The weight of MatMulNBits: (columns, blocks, bytes) with a scale and perhaps a zero for each block."""

    data: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    rows: int
    columns: int
    bits: int
    block: int

    def values(self) -> np.ndarray:
        """(columns, rows) in float32."""
        blocks = -(-self.rows // self.block)
        whole = unpacked(self.data.reshape(self.columns, blocks, -1), self.bits)[..., : self.block]
        scales = self.scales.astype(np.float32).reshape(self.columns, blocks, 1)
        steps = whole.astype(np.float32) - self._zeros(blocks)
        return np.asarray(steps * scales).reshape(self.columns, -1)[:, : self.rows]

    def _zeros(self, blocks: int) -> np.ndarray:
        """(columns, blocks, 1); the middle of the range without any."""
        if self.zeros is None:
            return np.full((1, 1, 1), 1 << (self.bits - 1), np.float32)
        if self.zeros.dtype == np.uint8 and self.bits < 8:
            found = unpacked(self.zeros.reshape(self.columns, -1), self.bits)[:, :blocks]
        else:
            found = self.zeros.reshape(self.columns, blocks)
        return np.asarray(found, np.float32)[..., None]


def rows_of_bits(
    data: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, block: int
) -> np.ndarray:
    """The table of GatherBlockQuantized: blocks along the last dimension, float32.

    4-bit data come as ml_dtypes' int4 or uint4, or packed in bytes.
    """
    if data.dtype == np.uint8 and bits < 8:
        whole = unpacked(data, bits).astype(np.float32)
        middle = float(1 << (bits - 1))
        if zeros is not None:
            zeros = unpacked(zeros, bits)[..., : scales.shape[-1]]
    else:
        whole, middle = data.astype(np.float32), 0.0
    count = whole.shape[-1]
    wide = np.repeat(scales.astype(np.float32), block, axis=-1)[..., :count]
    offset = middle if zeros is None else np.repeat(zeros.astype(np.float32), block, axis=-1)[..., :count]
    result: np.ndarray = (whole - offset) * wide
    return result
