"""A GEMM instruction as a few matrix products: its loops sorted by what they are, its micro-ops by weight.

A loop that leaves the accumulator where it is adds up, one that leaves the data where they are goes over
output channels, one that leaves the weight where it is goes over pixels. Micro-ops with the same weight are
pixels too. What does not fall into such parts is written out as micro-ops first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcomp.vta import isa

Indices = npt.NDArray[np.int64]
# A sum of so many products of int8 is below 2^24, and so exact in single precision.
_EXACT = 1 << 10


@dataclass(frozen=True, eq=False)
class Product:
    """``acc[dst] += inp[src] @ wgt[weight]``; ``dst (P, C)`` each once, ``src (P, R)``, ``weight (R, C)``."""

    dst: Indices
    src: Indices
    weight: Indices


def products(uops: Indices, one: isa.Gemm, block: int) -> list[Product] | None:
    """The products of an instruction with micro-ops ``(U, 3)``; None where one writes an element twice."""
    kinds: dict[str, Indices] = {kind: np.zeros((1, 3), np.int64) for kind in ("sum", "channel", "pixel")}
    rows = uops
    for extent, *step in _loops(one):
        steps = np.arange(extent, dtype=np.int64)[:, None] * np.array([step], np.int64)
        # What stays tells what the loop is.
        kind = next((kind for kind, by in zip(kinds, step, strict=True) if by == 0), None)
        if kind is None:
            rows = _sums(steps, rows)
        else:
            kinds[kind] = _sums(kinds[kind], steps)
    found: dict[bytes, list[Product]] = {}
    for group in _by_weight(rows):
        pixels = _sums(kinds["pixel"], group)
        dst = pixels[:, :1] + kinds["channel"][None, :, 0]
        if np.bincount(dst.ravel()).max() > 1:
            return None
        src = pixels[:, 1:2] + kinds["sum"][None, :, 1]
        weight = group[0, 2] + kinds["sum"][:, 2:] + kinds["channel"][None, :, 2]
        found.setdefault(dst.tobytes(), []).append(Product(dst, src, weight))
    return [part for same in found.values() for part in _merged(same, _EXACT // block)]


def _loops(one: isa.Gemm) -> list[tuple[int, int, int, int]]:
    loops = [
        (one.iter_out, one.dst_factor_out, one.src_factor_out, one.wgt_factor_out),
        (one.iter_in, one.dst_factor_in, one.src_factor_in, one.wgt_factor_in),
    ]
    return [loop for loop in loops if loop[0] > 1]


def _sums(left: Indices, right: Indices) -> Indices:
    """All sums of a row of each."""
    result: Indices = (left[:, None, :] + right[None, :, :]).reshape(-1, 3)
    return result


def _by_weight(rows: Indices) -> list[Indices]:
    order = np.argsort(rows[:, 2], kind="stable")
    ordered = rows[order]
    cuts = np.flatnonzero(np.diff(ordered[:, 2])) + 1
    return np.split(ordered, cuts)


def _merged(same: Sequence[Product], most: int) -> list[Product]:
    """Products into the same accumulators as longer sums, none longer than ``most`` blocks."""
    src = np.concatenate([one.src for one in same], axis=1)
    weight = np.concatenate([one.weight for one in same], axis=0)
    return [
        Product(same[0].dst, src[:, at : at + most], weight[at : at + most])
        for at in range(0, len(weight), most)
    ]


def multiply(
    acc: npt.NDArray[np.int32], inp: npt.NDArray[np.int8], wgt: npt.NDArray[np.int8], parts: Sequence[Product]
) -> None:
    """Run ``parts`` on the scratchpads, in place; sums wrap at 32 bits."""
    batch, block = inp.shape[1:]
    for one in parts:
        pixels, channels = one.dst.shape
        terms = one.src.shape[1]
        left = inp[one.src].transpose(0, 2, 1, 3).reshape(pixels * batch, terms * block)
        right = wgt[one.weight].transpose(0, 3, 1, 2).reshape(terms * block, channels * block)
        sums = left.astype(np.float32) @ right.astype(np.float32)
        acc[one.dst] += sums.astype(np.int32).reshape(pixels, batch, channels, block).transpose(0, 2, 1, 3)
