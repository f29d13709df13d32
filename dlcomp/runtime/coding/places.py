"""Where the elements lie that are not zero: distances between them, or a bit for each element.

Distances are those of Deep Compression (section 3): of a fixed number of bits, with a zero put in as a filler
where one is longer. A bit for each element is coded by how full its row and its column are, since the inputs
that nobody reads and the outputs that read little are what pruning leaves.
"""

from __future__ import annotations

import math

import numpy as np

from dlcomp.errors import ArtifactError
from dlcomp.runtime.coding import huffman, rans
from dlcomp.runtime.coding.stream import Reader, Writer

# Shares of elements that are not zero, between which a row or column is of one class.
_BORDERS = np.array([0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])
_CLASSES = len(_BORDERS) + 1
_WIDTHS = range(2, 9)


def fill(places: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances less one, below ``2**width``, and which of them lead to an element (the others: fillers).

    ``places`` (N,) are ascending.
    """
    gaps = np.diff(places, prepend=-1) - 1
    most = 1 << width
    fillers = gaps // most
    found = np.full(len(gaps) + int(fillers.sum()), most - 1, np.int64)
    real = np.zeros(len(found), bool)
    ends = np.cumsum(fillers + 1) - 1
    found[ends] = gaps % most
    real[ends] = True
    return found, real


def best_width(places: np.ndarray) -> int:
    """The number of bits of a distance whose entropy, with that of its table, is least."""

    def bits(width: int) -> float:
        gaps, real = fill(places, width)
        # A filler is also one more value to store, of some bits.
        return entropy(np.bincount(gaps)) + 14 * (1 << width) + 3 * int(np.count_nonzero(~real))

    return min(_WIDTHS, key=bits)


def entropy(counts: np.ndarray) -> float:
    """Bits of as many symbols as ``counts`` (K,) says, each by its frequency."""
    some = counts[counts > 0].astype(np.float64)
    return float((some * np.log2(some.sum() / some)).sum()) if len(some) else 0.0


def write_gaps(out: Writer, gaps: np.ndarray, width: int, coder: str) -> None:
    """Distances from :func:`fill`, by ``coder``: ``huffman`` or ``rans``."""
    out.number("framing", width)
    out.number("framing", len(gaps))
    counts = np.bincount(gaps, minlength=1 << width)
    if coder == "huffman":
        lengths = huffman.lengths_of(counts)
        out.put("tables", huffman.table(lengths))
        out.block("places", huffman.encode(gaps, lengths))
    else:
        freq = rans.frequencies(counts)[None]
        out.put("tables", rans.table(freq))
        out.block("places", rans.encode(gaps, freq))


def read_gaps(data: Reader, count: int, coder: str) -> np.ndarray:
    """The places of all elements with a value, fillers among them, in an array of ``count`` elements."""
    width, gaps = data.number(), data.number()
    if width not in _WIDTHS or gaps > count:
        raise ArtifactError("distances of sparse weights are damaged")
    if coder == "huffman":
        stored = data.take(huffman.table_size(1 << width))
        found = huffman.decode(data.block(), gaps, stored, 1 << width)
    else:
        freq = rans.read_table(data.take(rans.table_size(1, 1 << width)), 1, 1 << width)
        found = rans.decode(data.block(), gaps, freq)
    places = np.cumsum(found + 1) - 1
    if gaps and places[-1] >= count:
        raise ArtifactError("a sparse weight lies outside its array")
    return np.asarray(places)


def write_mask(out: Writer, mask: np.ndarray, split: int) -> None:
    """A bit for each element of ``mask``, seen as rows (its first ``split`` axes) and columns."""
    flat = _matrix(mask, split)
    classes = [np.searchsorted(_BORDERS, flat.mean(axis=axis)) for axis in (1, 0)]
    out.number("framing", split)
    for found in classes:
        freq = rans.frequencies(np.bincount(found, minlength=_CLASSES))[None]
        out.put("tables", rans.table(freq))
        out.block("classes", rans.encode(found, freq))
    contexts = (classes[0][:, None] * _CLASSES + classes[1]).reshape(-1)
    bits = flat.reshape(-1).astype(np.int64)
    present = _contexts(classes)
    counts = np.bincount(contexts * 2 + bits, minlength=2 * _CLASSES**2).reshape(-1, 2)[present]
    freq = np.stack([rans.frequencies(row) for row in counts])
    out.put("tables", rans.table(freq))
    out.block("places", rans.encode(bits, freq, _renumbered(contexts, present)))


def read_mask(data: Reader, shape: tuple[int, ...]) -> np.ndarray:
    """The places of what :func:`write_mask` wrote, for an array of ``shape``."""
    split = data.number()
    if not 0 <= split <= len(shape):
        raise ArtifactError("the bits of sparse weights are damaged")
    classes = []
    for size in (math.prod(shape[:split]), math.prod(shape[split:])):
        freq = rans.read_table(data.take(rans.table_size(1, _CLASSES)), 1, _CLASSES)
        classes.append(rans.decode(data.block(), size, freq))
    present = _contexts(classes)
    freq = rans.read_table(data.take(rans.table_size(len(present), 2)), len(present), 2)
    contexts = (classes[0][:, None] * _CLASSES + classes[1]).reshape(-1)
    bits = rans.decode(data.block(), len(contexts), freq, _renumbered(contexts, present))
    return np.flatnonzero(bits)


def splits(mask: np.ndarray) -> range:
    """After which axes an array can be cut into rows and columns."""
    return range(1, max(2, mask.ndim))


def mask_bits(mask: np.ndarray, split: int) -> float:
    """About as many bits as :func:`write_mask` takes."""
    flat = _matrix(mask, split)
    rows, columns = (np.searchsorted(_BORDERS, flat.mean(axis=axis)) for axis in (1, 0))
    contexts = (rows[:, None] * _CLASSES + columns).reshape(-1)
    counts = np.bincount(contexts * 2 + flat.reshape(-1), minlength=2 * _CLASSES**2).reshape(-1, 2)
    return sum(entropy(row) + 14 for row in counts if row.any()) + sum(
        entropy(np.bincount(found)) for found in (rows, columns)
    )


def _matrix(mask: np.ndarray, split: int) -> np.ndarray:
    return mask.reshape(math.prod(mask.shape[:split]), math.prod(mask.shape[split:]))


def _contexts(classes: list[np.ndarray]) -> np.ndarray:
    """The pairs of classes that some element has."""
    rows, columns = (np.flatnonzero(np.bincount(found, minlength=_CLASSES)) for found in classes)
    return (rows[:, None] * _CLASSES + columns).reshape(-1)


def _renumbered(contexts: np.ndarray, present: np.ndarray) -> np.ndarray:
    return np.asarray(np.searchsorted(present, contexts))
