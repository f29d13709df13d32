"""Bytes in order: a writer that knows what each is for, a reader that believes nothing, and packed bits."""

from __future__ import annotations

import numpy as np

from dlcomp.errors import ArtifactError

# Bits that are looked at together: more than the longest code.
WINDOW = 16
_CHUNK = 1 << 18


class Writer:
    """Bytes that are appended under the name of their purpose.

    Attributes
    ----------
    parts : dict of str to int
        Bytes of each purpose; together all that was written.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.parts: dict[str, int] = {}

    def put(self, part: str, data: bytes) -> None:
        self.data += data
        self.parts[part] = self.parts.get(part, 0) + len(data)

    def number(self, part: str, value: int) -> None:
        """An integer in groups of seven bits, the lowest first."""
        made = bytearray()
        while value > 127:
            made.append(value & 127 | 128)
            value >>= 7
        made.append(value)
        self.put(part, bytes(made))

    def block(self, part: str, data: bytes) -> None:
        """``data`` behind its length, which counts as framing."""
        self.number("framing", len(data))
        self.put(part, data)


class Reader:
    """What a :class:`Writer` wrote, read in the same order.

    Every method raises ArtifactError where the data end early.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._place = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._place:
            raise ArtifactError("coded weights end early")
        self._place += size
        return bytes(self._data[self._place - size : self._place])

    def number(self) -> int:
        value = 0
        for shift in range(0, 49, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ArtifactError("a number in coded weights is too large")

    def block(self) -> bytes:
        return self.take(self.number())

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._place)

    def end(self) -> None:
        if self._place != len(self._data):
            raise ArtifactError("coded weights have bytes behind their end")


def pack(codes: np.ndarray, lengths: np.ndarray) -> bytes:
    """Integers of ``lengths`` bits each, the highest bit first, without gaps; zeros fill the last byte.

    Both have the shape (N,); a length is at most 32.
    """
    bits = []
    for start in range(0, len(codes), _CHUNK):
        size = lengths[start : start + _CHUNK].astype(np.int64)
        ends = np.cumsum(size)
        total = int(ends[-1]) if len(ends) else 0
        shift = np.repeat(ends, size) - 1 - np.arange(total)
        bits.append(
            (np.repeat(codes[start : start + _CHUNK].astype(np.int64), size) >> shift & 1).astype(np.uint8)
        )
    return np.packbits(np.concatenate(bits)).tobytes() if bits else b""


def packed_size(count: int, width: int) -> int:
    """Bytes of ``count`` integers of ``width`` bits."""
    return (count * width + 7) // 8


def unpack(data: bytes, count: int, width: int) -> np.ndarray:
    """``count`` integers of ``width`` bits each, as (count,) int64."""
    if packed_size(count, width) != len(data):
        raise ArtifactError(f"{count} integers of {width} bits are not {len(data)} bytes")
    if width == 0:
        return np.zeros(count, np.int64)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
    return np.asarray(bits @ weights)


def windows(data: bytes) -> np.ndarray:
    """For every bit of ``data`` the 16 bits that begin there, zeros behind the end; (8 * bytes,) int64."""
    padded = np.frombuffer(data + bytes(2), np.uint8).astype(np.int64)
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    shifts = np.arange(8, 0, -1)
    return np.asarray((three[:, None] >> shifts & 0xFFFF).reshape(-1))
