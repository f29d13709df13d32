"""Arrays that come with Relay text: the ``#[metadata]`` section, and files of parameters beside it.

Both hold arrays in TVM's binary form: two words (a magic number, a reserved one), device, rank, element type,
shape, the number of bytes, the bytes.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping

import numpy as np

from dlcomp.errors import ModelError
from dlcomp.frontend.relay.syntax import Place

_ARRAY, _PARAMETERS = 0xDD5E40F096B4A13F, 0xF7E58D4F05049CB7
_KINDS = {0: "int", 1: "uint", 2: "float"}


def constants_of(text: str, name: str, line: int = 1) -> Mapping[str, list[np.ndarray]]:
    """The arrays of a metadata section, which begins in ``line``, by the type that ``meta[...]`` names.

    Raises
    ------
    ModelError
        If the section is damaged.
    """
    if not text.strip():
        return {}
    # Lines are counted from that of the heading.
    try:
        graph = json.loads(text)
        nodes = graph["nodes"]
        arrays = [base64.b64decode(a, validate=True) for a in graph.get("b64ndarrays", [])]
        found: dict[str, list[np.ndarray]] = {}
        for key, index in zip(nodes[graph["root"]]["keys"], nodes[graph["root"]]["data"], strict=True):
            if key != "relay.Constant":
                continue
            items = nodes[index]["data"]
            found[key] = [array_of(arrays[int(nodes[item]["attrs"]["data"])])[0] for item in items]
    except json.JSONDecodeError as error:
        place = Place(line + error.lineno - 1, error.colno)
        raise ModelError(f"{place}: the metadata section is damaged: {error.msg}", where=name) from error
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise ModelError(f"{Place(line, 1)}: the metadata section is damaged: {error}", where=name) from error
    return found


def array_of(data: bytes, start: int = 0) -> tuple[np.ndarray, int]:
    """The array at ``start`` and the place behind it."""
    magic, _, _, _, rank, code, bits, lanes = struct.unpack_from("<QQiiiBBH", data, start)
    if magic != _ARRAY or not 0 <= rank <= 32 or lanes != 1 or code not in _KINDS:
        raise ValueError("not an array of numbers in TVM's form")
    place = start + struct.calcsize("<QQiiiBBH")
    shape = struct.unpack_from(f"<{rank}q", data, place)
    place += 8 * rank
    (size,) = struct.unpack_from("<q", data, place)
    place += 8
    dtype = np.dtype("bool" if (code, bits) == (1, 1) else f"{_KINDS[code]}{bits}")
    count = int(np.prod(shape, dtype=np.int64))
    if min(shape, default=1) < 0 or size != count * dtype.itemsize or place + size > len(data):
        raise ValueError(f"an array of the shape {shape} is cut off")
    return np.frombuffer(data, dtype, count, place).reshape(shape), place + size


def parameters_of(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of a ``.params`` file, by name.

    Raises
    ------
    ModelError
        If it is none, or damaged.
    """
    try:
        magic, _, count = struct.unpack_from("<QQQ", data)
        if magic != _PARAMETERS:
            raise ValueError("it does not begin as such a file does")
        place, names = 24, []
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", data, place)
            names.append(data[place + 8 : place + 8 + length].decode())
            place += 8 + length
        (count,) = struct.unpack_from("<Q", data, place)
        place += 8
        found = {}
        for key in names:
            found[key], place = array_of(data, place)
    except (ValueError, struct.error, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise ModelError(f"not a file of TVM's parameters: {error}", where=name) from error
    return found
