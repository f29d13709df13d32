"""The bytes of a TFLite file to a :class:`Network`; every length and offset is checked on the way."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import tflite
from flatbuffers.number_types import Int32Flags

from dlcomp.errors import ModelError
from dlcomp.frontend.tflite import is_tflite
from dlcomp.frontend.tflite.network import Info, Network, Operation, Options, Quantization
from dlcomp.frontend.tflite.sparse import densified

# What FlatBuffers' reader and NumPy say of numbers that lead outside the file.
_DAMAGED = (
    struct.error, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError
)  # fmt: skip
_MOST = 2**31 - 1
# The place of the field in the table of an OperatorCode.
_BUILTIN_CODE = 10


def _names(of: type) -> dict[int, str]:
    return {number: name for name, number in vars(of).items() if isinstance(number, int)}


_OPERATORS = _names(tflite.BuiltinOperator)
_OPTIONS = _names(tflite.BuiltinOptions)
_TYPES = {number: name.lower() for number, name in _names(tflite.TensorType).items()}


def parse(data: bytes, name: str) -> Network:
    """The network in ``data``; ``name`` names it in messages.

    Raises
    ------
    ModelError
        A damaged file, or one whose model is empty.
    """
    if not is_tflite(data):
        raise ModelError("this is no TFLite file: the identifier TFL3 is missing", where=name)
    try:
        return _File(data).network()
    except _DAMAGED as error:
        text = str(error) if isinstance(error, _Told) else f"what it points to is not there ({error})"
        raise ModelError(
            f"a damaged TFLite file ({len(data)} bytes): {text}",
            where=name,
            hint="fetch or export the model again and compare its size or checksum",
        ) from error


class _Told(ValueError):
    """Damage that was found by looking for it."""


class _File:
    def __init__(self, data: bytes) -> None:
        self.data, self.model = data, tflite.Model.GetRootAs(data, 0)

    def network(self) -> Network:
        graph = self._subgraph(0)
        tensors, operations = self._parts(graph)
        ends = []
        for found, names, kind in (
            (graph.InputsAsNumpy(), self._names_of("Inputs"), "input"),
            (graph.OutputsAsNumpy(), self._names_of("Outputs"), "output"),
        ):
            places = self._places(found, len(tensors), f"an {kind} of the graph")
            given = [names.get(place) or tensors[place].name for place in places]
            ends.append(tuple(zip(_unlike(given, kind), places, strict=True)))
        before = [
            self._parts(self._subgraph(op.options.whole("InitSubgraphIndex")))
            for op in operations
            if op.kind == "CALL_ONCE"
        ]
        return Network(tensors, operations, ends[0], ends[1], tuple(before))

    def _subgraph(self, place: int) -> Any:
        if not 0 <= place < self.model.SubgraphsLength():
            raise _Told(f"there is no graph {place}")
        return self.model.Subgraphs(place)

    def _parts(self, graph: Any) -> tuple[tuple[Info, ...], tuple[Operation, ...]]:
        """The tensors and the operators of a graph."""
        tensors = tuple(
            self._tensor(i, t) for i, t in enumerate(self._items(graph.TensorsLength(), graph.Tensors))
        )
        codes = [
            self._kind(code)
            for code in self._items(self.model.OperatorCodesLength(), self.model.OperatorCodes)
        ]
        operations = tuple(
            self._operation(i, op, codes, len(tensors))
            for i, op in enumerate(self._items(graph.OperatorsLength(), graph.Operators))
        )
        return tensors, operations

    def _items(self, count: int, item: Callable[[int], Any]) -> list[Any]:
        """A vector of tables, each of which takes four bytes at least."""
        if count > len(self.data) // 4:
            raise _Told(f"a list of {count} items")
        return [item(place) for place in range(count)]

    def _places(self, found: Any, count: int, what: str, least: int = 0) -> tuple[int, ...]:
        places = () if isinstance(found, int) else tuple(int(v) for v in found)
        if any(not least <= place < count for place in places):
            raise _Told(f"{what} is tensor {max(places)} of {count}")
        return places

    def _names_of(self, side: str) -> dict[int, str]:
        """The names in the only signature, without the decorations that a tensor's name has."""
        if self.model.SignatureDefsLength() != 1 or self.model.SignatureDefs(0).SubgraphIndex():
            return {}
        signature = self.model.SignatureDefs(0)
        maps = self._items(getattr(signature, f"{side}Length")(), getattr(signature, side))
        return {int(m.TensorIndex()): (m.Name() or b"").decode() for m in maps}

    def _kind(self, code: Any) -> str:
        # Older files have the older field alone, and some writers the newer one, where the schema's class
        # looks only for numbers over 127.
        place = code._tab.Offset(_BUILTIN_CODE)
        newer = code._tab.Get(Int32Flags, place + code._tab.Pos) if place else 0
        number = max(newer, code.DeprecatedBuiltinCode())
        kind = _OPERATORS.get(number, f"operator number {number}")
        return f"CUSTOM {(code.CustomCode() or b'').decode()}" if kind == "CUSTOM" else kind

    def _operation(self, place: int, op: Any, codes: list[str], tensors: int) -> Operation:
        index = op.OpcodeIndex()
        if not 0 <= index < len(codes):
            raise _Told(f"op {place} is of kind {index} of {len(codes)}")
        what = f"an operand of op {place} {codes[index]}"
        return Operation(
            place,
            codes[index],
            self._places(op.InputsAsNumpy(), tensors, what, least=-1),
            self._places(op.OutputsAsNumpy(), tensors, what),
            self._options(op),
        )

    def _options(self, op: Any) -> Options:
        custom = op.CustomOptionsAsNumpy()
        rest = b"" if isinstance(custom, int) else bytes(custom)
        kind, stored = _OPTIONS.get(op.BuiltinOptionsType(), "NONE"), op.BuiltinOptions()
        if kind == "NONE" or stored is None:
            return Options(custom=rest)
        table = getattr(tflite, kind)()
        table.Init(stored.Bytes, stored.Pos)
        return Options(table, rest)

    def _tensor(self, index: int, tensor: Any) -> Info:
        name = (tensor.Name() or b"").decode()
        given, open_dims = tensor.ShapeAsNumpy(), tensor.ShapeSignatureAsNumpy()
        shape = [] if isinstance(given, int) else [int(v) for v in given]
        if min(shape, default=0) < 0 or math.prod(shape) > _MOST:
            raise _Told(f"tensor {index} {name!r} has the shape {shape}")
        dtype = _TYPES.get(tensor.Type(), f"type number {tensor.Type()}")
        data = self._stored(tensor, shape, dtype, f"tensor {index} {name!r}")
        if data is None and not isinstance(open_dims, int) and len(open_dims) == len(shape):
            shape = [-1 if int(v) < 0 else d for v, d in zip(open_dims, shape, strict=True)]
        dtype = "int8" if dtype == "int4" else dtype
        quantization = _quantization(tensor.Quantization(), index)
        return Info(index, name, tuple(shape), dtype, quantization, data, bool(tensor.IsVariable()))

    def _stored(self, tensor: Any, shape: list[int], dtype: str, what: str) -> np.ndarray | None:
        if not 0 <= tensor.Buffer() < self.model.BuffersLength():
            raise _Told(f"the data of {what} are in buffer {tensor.Buffer()}")
        buffer = self.model.Buffers(tensor.Buffer())
        raw: Any = buffer.DataAsNumpy()
        if buffer.Offset() > 1:  # Of files over 2 GiB the data lie behind the tables.
            raw = np.frombuffer(self.data, np.uint8, buffer.Size(), buffer.Offset())
        if isinstance(raw, int) or not raw.size or dtype in ("string", "resource", "variant"):
            return None
        sparsity = tensor.Sparsity()
        if dtype == "int4":
            # Two a byte, the lower half first.
            halves = np.stack([raw << 4, raw], -1).reshape(-1).view(np.int8) >> 4
            values = halves[: math.prod(shape)]
        else:
            values = raw.view(np.dtype(dtype).newbyteorder("<"))
        if sparsity is not None:
            return densified(sparsity, values, shape, what)
        if values.size != math.prod(shape):
            raise _Told(f"{what} has {raw.size} bytes for {dtype}{shape}")
        return values.reshape(shape)


def _quantization(given: Any, index: int) -> Quantization | None:
    scales = 0 if given is None else given.ScaleAsNumpy()
    if isinstance(scales, int) or not scales.size or not scales.any():
        return None
    zeros = given.ZeroPointAsNumpy()
    zeros = np.zeros(scales.size, np.int64) if isinstance(zeros, int) else zeros.astype(np.int64)
    if not np.isfinite(scales).all() or scales.min() <= 0 or zeros.size not in (1, scales.size):
        raise _Told(f"tensor {index} has scales or zero points that are none")
    return Quantization(
        scales.astype(np.float32), np.broadcast_to(zeros, scales.shape), int(given.QuantizedDimension())
    )


def _unlike(names: list[str], kind: str) -> list[str]:
    """Every name once."""
    made: list[str] = []
    for place, name in enumerate(names):
        name = name or f"{kind}{place}"
        made.append(f"{name}_{place}" if name in made else name)
    return made
