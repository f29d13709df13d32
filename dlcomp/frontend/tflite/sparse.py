"""Weights that a TFLite file stores without their zeros, as whole tensors.

The format is TACO's (Kjolstad et al., "The Tensor Algebra Compiler", 2017): the dimensions one level inside
the other, each dense or compressed; blocks are further dimensions inside those that they divide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_MOST = 2**28  # elements


def densified(sparsity: Any, values: np.ndarray, shape: list[int], what: str) -> np.ndarray:
    """``values`` in their places in ``shape``, zeros elsewhere.

    Raises
    ------
    ValueError
        The places do not fit the shape or the values.
    """
    order = [int(v) for v in _vector(sparsity.TraversalOrderAsNumpy())]
    blocked = [int(v) for v in _vector(sparsity.BlockMapAsNumpy())]
    levels = sparsity.DimMetadataLength()
    rank = len(shape)
    if sorted(order) != list(range(rank + len(blocked))) or levels != len(order):
        raise ValueError(f"{what} has {levels} levels in the order {order} for {rank} dimensions")
    if any(not 0 <= dim < rank for dim in blocked) or math.prod(shape) > _MOST:
        raise ValueError(f"{what} has blocks of the dimensions {blocked}")
    places: dict[int, np.ndarray] = {}
    sizes: dict[int, int] = {}
    count = 1
    for level, dim in enumerate(order):
        metadata = sparsity.DimMetadata(level)
        if metadata.Format() == 0:
            size = metadata.DenseSize()
            if not 0 < size * count <= _MOST:
                raise ValueError(f"{what} has {size} elements at level {level}")
            repeats: Any = size
            inner = np.tile(np.arange(size), count)
        else:
            segments = _indices(metadata.ArraySegments(), metadata.ArraySegmentsType())
            inner = _indices(metadata.ArrayIndices(), metadata.ArrayIndicesType())
            repeats = np.diff(segments)
            size = int(inner.max(initial=-1)) + 1
            if repeats.size != count or repeats.min(initial=0) < 0 or repeats.sum() != inner.size:
                raise ValueError(f"{what} has {inner.size} indices in {repeats.size} rows at level {level}")
        places = {d: np.repeat(p, repeats) for d, p in places.items()}
        places[dim], sizes[dim] = inner, size
        count = inner.size
    if count != values.size:
        raise ValueError(f"{what} has {values.size} values in {count} places")
    for block, dim in enumerate(blocked, rank):
        places[dim] = places[dim] * sizes[block] + places[block]
    whole = np.zeros(shape, values.dtype)
    whole[tuple(places[dim] for dim in range(rank))] = values
    return whole


def _vector(found: Any) -> Any:
    return [] if isinstance(found, int) else found


def _indices(table: Any, kind: int) -> np.ndarray:
    """A vector of indices of 32, 16 or 8 bits."""
    import tflite

    names = {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}
    if table is None or kind not in names:
        raise ValueError(f"indices of the kind {kind}")
    vector = getattr(tflite, names[kind])()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(_vector(vector.ValuesAsNumpy()), np.int64)
