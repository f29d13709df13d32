"""Words of 32 bits that are a few small numbers each: the numbers in their place, which have few values.

Kernels that look weights up in a codebook, or make floats of 4-bit integers, read such words. The numbers of
one word are neighbours along the last dimension but one, as they were before they were packed.
"""

from __future__ import annotations

import numpy as np

# Of a number; what is left of a word is zero.
WIDTHS = range(2, 9)


def shape_of(shape: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """That of the numbers of ``bits`` in words of ``shape``."""
    return (*shape[:-2], shape[-2] * (32 // bits), shape[-1])


def numbers(words: np.ndarray, bits: int) -> np.ndarray | None:
    """The numbers of int32 ``words``, uint8; None if they are no numbers of ``bits``."""
    if words.dtype != np.int32 or words.ndim < 2 or not words.size:
        return None
    whole, per = words.view(np.uint32), 32 // bits
    if bits * per < 32 and (whole >> np.uint32(bits * per)).any():
        return None
    shifts = np.uint32(bits) * np.arange(per, dtype=np.uint32)[:, None]
    found = (whole[..., None, :] >> shifts) & np.uint32(2**bits - 1)
    return np.asarray(found.astype(np.uint8).reshape(shape_of(words.shape, bits)))


def width_of(words: np.ndarray) -> int | None:
    """The bits of the numbers that make the fewest by how often each comes; None if they are no numbers."""
    best, least = None, np.inf
    for bits in WIDTHS:
        found = numbers(words, bits)
        if found is None:
            continue
        counts = np.bincount(found.reshape(-1))
        shares = counts[counts > 0] / found.size
        size = -float((shares * np.log2(shares)).sum()) * found.size
        if size < least:
            best, least = bits, size
    return best


def words(found: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse: int32 of ``shape``."""
    per = 32 // bits
    wide = found.astype(np.uint32).reshape(*shape[:-1], per, shape[-1])
    shifts = np.uint32(bits) * np.arange(per, dtype=np.uint32)[:, None]
    made: np.ndarray = np.bitwise_or.reduce(wide << shifts, axis=-2).view(np.int32)
    return made
