"""One array, coded: the palette of its values, where they lie, and which is where, by whatever is shortest.

Floats that are integers with scales are these integers, coded in the same way, and the scales; words of
several small numbers are these numbers.

Values are told apart by their bits, so that zeros of both signs and every NaN come back as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.errors import ArtifactError
from dlcomp.runtime.coding import fields, huffman, places, rans
from dlcomp.runtime.coding.scaled import Scaled, scaled, shape_of_scales
from dlcomp.runtime.coding.stream import Reader, Writer, pack, packed_size, unpack

PLACES = ("all", "huffman distances", "rans distances", "rans bits")
VALUES = ("plain", "packed", "huffman", "rans")
_MOST_VALUES = 256
# The first byte of integers with scales, and of words of numbers.
_SCALED, _FIELDS = 255, 254
# What a byte may become: more is not a weight but an attack on memory.
MOST_EXPANSION = 1 << 16


@dataclass(frozen=True)
class Coded:
    """An array in bytes.

    Attributes
    ----------
    data : bytes
    places, values : str
        How either is written: of ``PLACES`` and ``VALUES``.
    parts : mapping of str to int
        How many of the bytes are framing, scales, palette, tables, places, classes (of rows and columns) and
        values.
    fillers : int
        Zeros among the values that only divide a distance.
    """

    data: bytes
    places: str
    values: str
    parts: Mapping[str, int]
    fillers: int = 0


def encode(array: np.ndarray, ways: Sequence[tuple[str, str]] | None = None) -> Coded:
    """``array`` (any shape; numbers of 1, 2, 4 or 8 bytes), the shortest of all ``ways`` (places, values).

    Without ``ways`` all are tried that can come into question.
    """
    bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
    palette, symbols = np.unique(bits, return_inverse=True)
    # The smallest pattern of bits is that of zero, if there are zeros.
    zeros = bool(len(palette)) and palette[0] == 0
    subject = _Subject(
        array.shape, bits, palette, symbols, (symbols > 0) if zeros else np.ones(len(bits), bool)
    )
    made = [subject.write(*way) for way in (ways or subject.ways())]
    found = scaled(array) if not ways and len(palette) > _MOST_VALUES else None
    if found is not None:
        made.append(_with_scales(found))
    width = fields.width_of(array) if not ways and len(palette) > _MOST_VALUES else None
    if width is not None:
        made.append(_with_fields(array, width))
    return min(made, key=lambda coded: len(coded.data))


@dataclass(frozen=True)
class _Subject:
    shape: tuple[int, ...]
    bits: np.ndarray
    palette: np.ndarray
    symbols: np.ndarray
    mask: np.ndarray

    def ways(self) -> Iterator[tuple[str, str]]:
        """What can be the shortest, told without writing it."""
        if len(self.palette) <= _MOST_VALUES:
            yield from (("all", values) for values in _coders(len(self.palette)))
        count = np.count_nonzero(self.mask)
        if 0 < len(self.mask) and count < 0.9 * len(self.mask):
            few = len(self.palette) <= _MOST_VALUES
            coders = _coders(len(self.palette) - 1) if few else ("plain",)
            yield from (("rans bits", values) for values in coders)
            yield from ((f"{values} distances", values) for values in coders if values in ("huffman", "rans"))
            if not few:
                yield "rans distances", "plain"
        if len(self.palette) > _MOST_VALUES:
            yield "all", "plain"

    def write(self, where: str, values: str) -> Coded:
        out = Writer()
        # The first byte says how, which is known at the end.
        out.put("framing", bytes(1))
        bits, symbols, palette, fillers = self.bits, self.symbols, self.palette, 0
        if where != "all":
            keep = np.flatnonzero(self.mask)
            zeros = int(len(keep) < len(self.mask))
            if where == "rans bits":
                mask = self.mask.reshape(self.shape or (1,))
                split = min(places.splits(mask), key=lambda split: places.mask_bits(mask, split))
                places.write_mask(out, mask, split)
                bits, symbols, palette = bits[keep], symbols[keep] - zeros, palette[zeros:]
            else:
                width = places.best_width(keep)
                gaps, real = places.fill(keep, width)
                places.write_gaps(out, gaps, width, where.split()[0])
                filled = np.zeros(len(gaps), np.int64)
                filled[real] = keep
                bits, symbols = (np.where(real, stream[filled], 0) for stream in (bits, symbols))
                fillers = int(np.count_nonzero(~real))
                if not fillers:
                    symbols, palette = symbols - zeros, palette[zeros:]
        if len(palette) < 2 and values == "rans":
            values = "packed"
        out.data[0] = PLACES.index(where) | VALUES.index(values) << 4
        _write_values(out, values, bits.astype(self.bits.dtype), symbols, palette)
        return Coded(bytes(out.data), where, values, out.parts, fillers)


def decode(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of ``shape`` that :func:`encode` wrote.

    Raises
    ------
    ArtifactError
        The data are damaged; nothing else happens, whatever they are.
    """
    count, size = math.prod(shape), np.dtype(dtype).itemsize
    if count * size > MOST_EXPANSION * len(data):
        raise ArtifactError(f"{len(data)} bytes of coded weights claim to be {count * size}")
    reader = Reader(data)
    (kinds,) = reader.take(1)
    if kinds == _SCALED and dtype == "float32":
        return _read_scaled(reader, shape)
    if kinds == _FIELDS and dtype == "int32" and len(shape) > 1:
        return _read_fields(reader, shape)
    if kinds & 15 >= len(PLACES) or kinds >> 4 >= len(VALUES):
        raise ArtifactError(f"weights are coded in an unknown way ({kinds})")
    where, values = PLACES[kinds & 15], VALUES[kinds >> 4]
    kept: np.ndarray | None = None
    if where == "rans bits":
        kept = places.read_mask(reader, shape or (1,))
    elif where != "all":
        kept = places.read_gaps(reader, count, where.split()[0])
    bits = _read_values(reader, values, count if kept is None else len(kept), size)
    reader.end()
    if kept is None:
        return bits.view(dtype).reshape(shape)
    whole = np.zeros(count, bits.dtype)
    whole[kept] = bits
    return whole.view(dtype).reshape(shape)


def _with_scales(found: Scaled) -> Coded:
    inner = encode(found.integers)
    out = Writer()
    out.put("framing", bytes([_SCALED]))
    out.number("framing", sum(1 << axis for axis in found.axes))
    out.put("scales", np.ascontiguousarray(found.scales, "<f4").tobytes())
    for part, size in inner.parts.items():
        out.parts[part] = out.parts.get(part, 0) + size
    return Coded(bytes(out.data) + inner.data, inner.places, inner.values, out.parts, inner.fillers)


def _read_scaled(reader: Reader, shape: tuple[int, ...]) -> np.ndarray:
    mask = reader.number()
    if mask >> len(shape):
        raise ArtifactError(f"scales of coded weights lie along dimensions that {shape} has not")
    axes = tuple(axis for axis in range(len(shape)) if mask >> axis & 1)
    inner = shape_of_scales(shape, axes)
    scales = np.frombuffer(reader.take(4 * math.prod(inner)), "<f4").reshape(inner)
    integers = reader.rest()
    if integers[:1] == bytes([_SCALED]):
        raise ArtifactError("integers among coded weights have scales twice")
    return Scaled(decode(integers, "int8", shape), scales, axes).reals()


def _with_fields(array: np.ndarray, bits: int) -> Coded:
    found = fields.numbers(array, bits)
    assert found is not None
    return _around(encode(found), bytes([_FIELDS, bits]))


def _around(inner: Coded, framing: bytes) -> Coded:
    """``inner`` behind bytes that say what it stands for."""
    parts = {**inner.parts, "framing": inner.parts.get("framing", 0) + len(framing)}
    return Coded(framing + inner.data, inner.places, inner.values, parts, inner.fillers)


def _read_fields(reader: Reader, shape: tuple[int, ...]) -> np.ndarray:
    (bits,) = reader.take(1)
    if bits not in fields.WIDTHS:
        raise ArtifactError(f"coded weights are words of numbers of {bits} bits")
    inner = reader.rest()
    if inner[:1] == bytes([_FIELDS]):
        raise ArtifactError("numbers among coded weights are words of numbers themselves")
    found = decode(inner, "uint8", fields.shape_of(shape, bits))
    if found.size and int(found.max()) >> bits:
        raise ArtifactError(f"a number among coded weights has more than {bits} bits")
    return fields.words(found, bits, shape)


def _coders(alphabet: int) -> tuple[str, ...]:
    return ("packed",) if alphabet < 2 else ("packed", "huffman", "rans")


def _write_values(
    out: Writer, coder: str, bits: np.ndarray, symbols: np.ndarray, palette: np.ndarray
) -> None:
    if coder == "plain":
        out.block("values", bits.tobytes())
        return
    out.number("framing", len(palette))
    out.put("palette", palette.tobytes())
    counts = np.bincount(symbols, minlength=len(palette))
    if coder == "huffman":
        lengths = huffman.lengths_of(counts)
        out.put("tables", huffman.table(lengths))
        out.block("values", huffman.encode(symbols, lengths))
    elif coder == "rans":
        freq = rans.frequencies(counts)[None]
        out.put("tables", rans.table(freq))
        out.block("values", rans.encode(symbols, freq))
    else:
        width = _width(len(palette))
        out.put("values", pack(symbols, np.full(len(symbols), width)))


def _read_values(data: Reader, coder: str, count: int, size: int) -> np.ndarray:
    """The bits of ``count`` elements of ``size`` bytes."""
    kind = f"u{size}"
    if coder == "plain":
        plain = data.block()
        if len(plain) != count * size:
            raise ArtifactError("plain values among coded weights are damaged")
        return np.array(np.frombuffer(plain, kind))
    alphabet = data.number()
    if alphabet > _MOST_VALUES or (count and not alphabet) or (coder == "rans" and alphabet < 2):
        raise ArtifactError(f"a palette of {alphabet} values among coded weights")
    palette = np.frombuffer(data.take(alphabet * size), kind)
    if coder == "huffman":
        symbols = _huffman(data, count, alphabet)
    elif coder == "rans":
        freq = rans.read_table(data.take(rans.table_size(1, alphabet)), 1, alphabet)
        symbols = rans.decode(data.block(), count, freq)
    else:
        width = _width(alphabet)
        symbols = unpack(data.take(packed_size(count, width)), count, width)
    if count and symbols.max() >= alphabet:
        raise ArtifactError("a value lies outside the palette of coded weights")
    return np.asarray(palette[symbols])


def _huffman(data: Reader, count: int, alphabet: int) -> np.ndarray:
    stored = data.take(huffman.table_size(alphabet))
    return huffman.decode(data.block(), count, stored, alphabet)


def _width(alphabet: int) -> int:
    return max(0, alphabet - 1).bit_length()
