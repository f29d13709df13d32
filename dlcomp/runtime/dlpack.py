"""NumPy arrays of the types that NumPy does not know itself (bfloat16, float8), to TVM's tensors and back.

NumPy's own DLPack export refuses what ``ml_dtypes`` registers. The structures are those of DLPack 0.8, which
``from_dlpack`` takes in a capsule named ``dltensor``; the bytes are shared, not copied.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

# The types, by name, with their DLDataTypeCode of DLPack 1.1.
FOREIGN = {
    "bfloat16": 4,
    "float8_e3m4": 7,
    "float8_e4m3": 8,
    "float8_e4m3b11fnuz": 9,
    "float8_e4m3fn": 10,
    "float8_e4m3fnuz": 11,
    "float8_e5m2": 12,
    "float8_e5m2fnuz": 13,
    "float8_e8m0fnu": 14,
}
_PLAIN = {"i": 0, "u": 1, "f": 2, "b": 6}
_CPU = 1


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("rank", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)

# What an exported tensor needs until its last reader lets go of it.
_ALIVE: dict[int, Any] = {}


def _forget(managed: Any) -> None:
    _ALIVE.pop(ctypes.addressof(managed.contents), None)


_delete = _Deleter(_forget)


def is_foreign(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is one that NumPy cannot export."""
    return dtype.name in FOREIGN


class Export:
    """A contiguous array, as an object that ``from_dlpack`` takes.

    It names no strides, so that an empty array, whose strides mean nothing, counts as compact.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0

    def __dlpack__(self, **_: Any) -> Any:
        array, rank = self.array, self.array.ndim
        shape = (ctypes.c_int64 * max(rank, 1))(*array.shape)
        code = FOREIGN[array.dtype.name] if is_foreign(array.dtype) else _PLAIN[array.dtype.kind]
        kind = _DataType(code, 8 * array.itemsize, 1)
        tensor = _Tensor(array.ctypes.data, _Device(_CPU, 0), rank, kind, shape, None, 0)
        managed = _Managed(tensor, None, _delete)
        _ALIVE[ctypes.addressof(managed)] = (managed, shape, array)
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)


def imported(tensor: Any, dtype: str) -> np.ndarray:
    """A copy of a tensor of a foreign type, which ``dtype`` names."""
    import ml_dtypes

    capsule = tensor.__dlpack__()
    managed = ctypes.cast(_pointer(capsule, b"dltensor"), ctypes.POINTER(_Managed)).contents
    found, kind = managed.tensor, np.dtype(getattr(ml_dtypes, dtype))
    shape = tuple(found.shape[axis] for axis in range(found.rank))
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    data = ctypes.string_at(found.data + found.byte_offset, size) if size else b""
    array: np.ndarray = np.frombuffer(data, kind).reshape(shape).copy()
    return array
