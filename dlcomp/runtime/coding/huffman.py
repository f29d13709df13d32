"""Canonical Huffman codes: only the lengths are stored, codes of one length are consecutive integers.

Lengths of at most 15 bits are found by package-merge (Larmore and Hirschberg, "A fast algorithm for optimal
length-limited Huffman codes", J. ACM 1990).
"""

from __future__ import annotations

import numpy as np

from dlcomp.errors import ArtifactError
from dlcomp.runtime.coding.stream import WINDOW, pack, packed_size, unpack, windows

LONGEST = 15
# Bytes that are decoded at a time: every bit of them becomes some numbers.
_CHUNK = 1 << 16


def lengths_of(counts: np.ndarray) -> np.ndarray:
    """The length of each symbol's code for ``counts`` (K,) occurrences, K at most 2**15.

    Of symbols that do not occur it is 0, of the only one that does 1.
    """
    found = np.zeros(len(counts), np.int64)
    items: list[tuple[int, tuple[int, ...]]] = sorted(
        (int(count), (symbol,)) for symbol, count in enumerate(counts) if count
    )
    if len(items) < 2:
        found[[symbols[0] for _, symbols in items]] = 1
        return found
    packages = items
    for _ in range(LONGEST - 1):
        pairs = zip(packages[::2], packages[1::2], strict=False)
        packages = sorted([*items, *((a + b, left + right) for (a, left), (b, right) in pairs)])
    for _, symbols in packages[: 2 * len(items) - 2]:
        np.add.at(found, list(symbols), 1)
    return found


def codes_of(lengths: np.ndarray) -> np.ndarray:
    """The code of each symbol: first the shorter, among equals the smaller symbol."""
    codes = np.zeros(len(lengths), np.int64)
    code = previous = 0
    for symbol in np.argsort(lengths, kind="stable"):
        length = int(lengths[symbol])
        if length:
            code = (code << (length - previous)) if previous else 0
            codes[symbol], previous = code, length
            code += 1
    return codes


def table(lengths: np.ndarray) -> bytes:
    """The lengths as stored: four bits each."""
    return pack(lengths, np.full(len(lengths), 4))


def table_size(symbols: int) -> int:
    """Bytes of :func:`table`."""
    return packed_size(symbols, 4)


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """``symbols`` (N,) in the code of ``lengths`` (K,)."""
    return pack(codes_of(lengths)[symbols], lengths[symbols])


def decode(data: bytes, count: int, stored: bytes, alphabet: int) -> np.ndarray:
    """``count`` symbols below ``alphabet``, (count,) int64.

    Raises
    ------
    ArtifactError
        The lengths are those of no code, or the data are not ``count`` symbols of it.
    """
    lengths = unpack(stored, alphabet, 4)
    symbol_at, length_at = _lookup(lengths)
    found: list[np.ndarray] = []
    position, left = 0, count
    bits = 8 * len(data)
    for start in range(0, len(data), _CHUNK):
        if not left:
            break
        part = (
            windows(data[start : start + _CHUNK + 2])[: 8 * min(_CHUNK, len(data) - start)]
            >> WINDOW - LONGEST
        )
        length = length_at[part]
        # Where no code begins, the walk ends at once.
        jump = np.where(length, np.arange(len(part)) + length, bits + LONGEST).tolist()
        places = []
        place, end = position - 8 * start, len(part)
        for _ in range(left):
            if place >= end:
                break
            places.append(place)
            place = jump[place]
        found.append(symbol_at[part[places]])
        left -= len(places)
        position = place + 8 * start
    if left or not bits - 8 < position <= bits:
        raise ArtifactError("Huffman codes of weights are damaged")
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _lookup(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symbol and length for each of the 2**15 next bits; length 0 where there is no code."""
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    spans = 1 << (LONGEST - lengths[order])
    if spans.sum() > 1 << LONGEST:
        raise ArtifactError("the lengths of Huffman codes are those of no code")
    rest = (1 << LONGEST) - int(spans.sum())
    symbols = np.concatenate([np.repeat(order, spans), np.zeros(rest, np.int64)])
    return symbols, np.concatenate([np.repeat(lengths[order], spans), np.zeros(rest, np.int64)])
