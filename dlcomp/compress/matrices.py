"""A layer as matrices: its weight as one for each group, and the rows of its input that it multiplies.

A convolution is a product of matrices over the windows of its input (im2col). A window is ordered by tap,
then by channel: so neighbours in a row of the weight are input channels, which is what N:M patterns and
blocks of several inputs are about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlcomp.compress.layers import Layer
from dlcomp.compress.network import attributes_of

# Rows that are made at a time; they do not depend on the channels, so that a shrunk layer has the same.
_ROWS = 2048


def has_matrices(layer: Layer, weight: np.ndarray) -> bool:
    """Whether the layer is a product with a stored matrix: not a transposed convolution or a batch."""
    return layer.node.op_type != "ConvTranspose" and (layer.node.op_type == "Conv" or weight.ndim == 2)


def to_matrices(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The weight as ``(G, O / G, K)``: for each group, outputs by inputs; K counts taps, then channels."""
    if layer.node.op_type == "Conv":
        moved = np.moveaxis(weight, 1, -1)
        return np.ascontiguousarray(moved.reshape(layer.groups, weight.shape[0] // layer.groups, -1))
    return np.ascontiguousarray(weight if layer.axis == 0 else weight.T)[None]


def from_matrices(layer: Layer, matrices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The weight of ``shape`` (its outputs and inputs may have become fewer) that ``matrices`` stand for."""
    if layer.node.op_type == "Conv":
        outputs, inputs, *kernel = shape
        return np.ascontiguousarray(np.moveaxis(matrices.reshape(outputs, *kernel, inputs), -1, 1))
    return np.ascontiguousarray(matrices[0] if layer.axis == 0 else matrices[0].T)


def rows(
    layer: Layer, kernel: Sequence[int], data: np.ndarray, positions: int, seed: int = 0
) -> Iterator[np.ndarray]:
    """What the layer's matrices multiply, in bounded memory: ``(G, B, N, K)``, N rows of each of B samples.

    Parameters
    ----------
    kernel : sequence of int
        The spatial extent of a convolution's weight; empty for a matrix product.
    data : (B, C, ...) or (B, ..., K)
        A batch of what the layer reads.
    positions : int
        At most as many of a sample are taken, drawn by ``seed``: neighbouring windows say nearly the same.
    """
    if layer.node.op_type != "Conv":
        flat = data.reshape(len(data), -1, data.shape[-1])
        size = max(1, _ROWS // max(1, flat.shape[1]))
        for start in range(0, len(flat), size):
            yield flat[None, start : start + size]
        return
    windows = _windows(layer, kernel, data)
    batch, channels = windows.shape[:2]
    spatial = windows.shape[2 : windows.ndim - len(kernel)]
    count = math.prod(spatial)
    chosen = np.arange(count)
    if count > positions:
        chosen = np.sort(np.random.default_rng(seed).choice(count, positions, replace=False))
    places = np.unravel_index(chosen, spatial)
    size = max(1, _ROWS // max(1, len(chosen)))
    groups = layer.groups
    for start in range(0, batch, size):
        # (B, C, N, kernel...) to (G, B, N, kernel..., C / G)
        index: tuple[Any, ...] = (slice(start, start + size), slice(None), *places)
        taken = windows[index]
        split = taken.reshape(taken.shape[0], groups, channels // groups, len(chosen), -1)
        yield split.transpose(1, 0, 3, 4, 2).reshape(groups, taken.shape[0], len(chosen), -1)


def _windows(layer: Layer, kernel: Sequence[int], data: np.ndarray) -> np.ndarray:
    """A view ``(B, C, positions..., kernel...)`` of the padded input."""
    attributes = attributes_of(layer.node)
    rank = len(kernel)
    strides = list(attributes.get("strides", [1] * rank))
    dilations = list(attributes.get("dilations", [1] * rank))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(attributes, data.shape[2:], extents, strides)
    padded = np.pad(data, [(0, 0), (0, 0), *pads])
    axes = tuple(range(2, 2 + rank))
    view = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=axes)
    stepped = [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilations]
    index: tuple[Any, ...] = (slice(None), slice(None), *stepped)
    return np.asarray(view[index])


def _pads(
    attributes: Mapping[str, Any], shape: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Zeros before and after each spatial axis, as ONNX's Conv defines ``auto_pad`` and ``pads``."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        pairs = []
        for size, extent, stride in zip(shape, extents, strides, strict=True):
            total = max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if mode == b"SAME_UPPER" else (large, small))
        return pairs
    none = [0] * (2 * len(extents))
    flat = none if mode == b"VALID" else attributes.get("pads", none)
    return list(zip(flat[: len(extents)], flat[len(extents) :], strict=True))
