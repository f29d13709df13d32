"""Small .tflite files written with the schema's own functions, and both readers run on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import onnxruntime
import tflite

import dlcomp
from dlcomp.frontend.read import read

Scales = tuple[Any, Any] | tuple[Any, Any, int]
_TYPES = {name.lower(): number for name, number in vars(tflite.TensorType).items() if isinstance(number, int)}


class File:
    """A network written tensor by tensor; a tensor is known by its number."""

    def __init__(self, within: File | None = None) -> None:
        """``within``: another file, of which this is a further graph."""
        self.b = flatbuffers.Builder(1024) if within is None else within.b
        self.tensors: list[int] = []
        self.buffers: list[bytes] = [b""] if within is None else within.buffers
        self.codes: list[tuple[int, str, int]] = [] if within is None else within.codes
        self.others: list[File] = []
        # Whether kinds of operators are written into the older field too.
        self.older = True
        if within is not None:
            within.others.append(self)
        self.ops: list[int] = []
        self.inputs: list[int] = []
        self.feeds: list[np.ndarray] = []

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        q: Scales | None = None,
        data: bytes = b"",
        name: str | None = None,
        sparsity: int | None = None,
        variable: bool = False,
    ) -> int:
        """A tensor; -1 in the shape is open, and 1 in the file's example. ``q``: scale(s), zero(s), axis."""
        b = self.b
        place = b.CreateString(f"t{len(self.tensors)}" if name is None else name)
        sizes = self._vector([1 if d < 0 else d for d in shape], "int32")
        signature = self._vector(list(shape), "int32") if min(shape, default=0) < 0 else None
        quantized = None if q is None else self._quantization(*q)
        if data:
            self.buffers.append(data)
        tflite.TensorStart(b)
        tflite.TensorAddName(b, place)
        tflite.TensorAddShape(b, sizes)
        tflite.TensorAddType(b, _TYPES[dtype])
        tflite.TensorAddIsVariable(b, variable)
        tflite.TensorAddBuffer(b, len(self.buffers) - 1 if data else 0)
        if quantized is not None:
            tflite.TensorAddQuantization(b, quantized)
        if signature is not None:
            tflite.TensorAddShapeSignature(b, signature)
        if sparsity is not None:
            tflite.TensorAddSparsity(b, sparsity)
        self.tensors.append(tflite.TensorEnd(b))
        return len(self.tensors) - 1

    def input(self, value: np.ndarray, q: Scales | None = None, shape: Sequence[int] | None = None) -> int:
        place = self.tensor(value.shape if shape is None else shape, str(value.dtype), q)
        self.inputs.append(place)
        self.feeds.append(value)
        return place

    def constant(self, value: Any, dtype: str | None = None, q: Scales | None = None) -> int:
        array = np.ascontiguousarray(np.asarray(value, dtype))
        # What has no data is no constant.
        data = array.tobytes() or b"\0"
        return self.tensor(np.shape(value), str(array.dtype), q, data)

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        *results: int,
        options: str = "",
        custom: bytes = b"",
        version: int = 1,
        **fields: Any,
    ) -> int:
        """An operator that writes ``results``; its options as the schema names them."""
        b = self.b
        name = kind if not custom else "CUSTOM"
        code = (getattr(tflite.BuiltinOperator, name), kind if custom else "", version)
        if code not in self.codes:
            self.codes.append(code)
        table = self._options(options, fields) if options else None
        rest = b.CreateByteVector(custom) if custom else None
        operands, made = self._vector(list(inputs), "int32"), self._vector(list(results), "int32")
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, self.codes.index(code))
        tflite.OperatorAddInputs(b, operands)
        tflite.OperatorAddOutputs(b, made)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, options))
            tflite.OperatorAddBuiltinOptions(b, table)
        if rest is not None:
            tflite.OperatorAddCustomOptions(b, rest)
        self.ops.append(tflite.OperatorEnd(b))
        return results[0] if results else -1

    def bytes(self, *outputs: int, names: dict[str, int] | None = None) -> bytes:
        """The whole file; with ``names`` for a signature of its inputs and outputs."""
        b = self.b
        signature = None if names is None else self._signature(names, list(outputs))
        graphs = self.offsets([self._graph(outputs), *(other._graph(()) for other in self.others)])
        codes = self.offsets([self._code(*code) for code in self.codes])
        buffers = self.offsets([self._buffer(data) for data in self.buffers])
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, codes)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffers)
        if signature is not None:
            tflite.ModelAddSignatureDefs(b, signature)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _graph(self, outputs: Sequence[int]) -> int:
        b = self.b
        tensors, ops = self.offsets(self.tensors), self.offsets(self.ops)
        ins, outs = self._vector(self.inputs, "int32"), self._vector(list(outputs), "int32")
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddInputs(b, ins)
        tflite.SubGraphAddOutputs(b, outs)
        tflite.SubGraphAddOperators(b, ops)
        return int(tflite.SubGraphEnd(b))

    def _code(self, number: int, custom: str, version: int) -> int:
        b = self.b
        name = b.CreateString(custom) if custom else None
        tflite.OperatorCodeStart(b)
        if self.older:
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
        tflite.OperatorCodeAddBuiltinCode(b, number)
        tflite.OperatorCodeAddVersion(b, version)
        if name is not None:
            tflite.OperatorCodeAddCustomCode(b, name)
        return int(tflite.OperatorCodeEnd(b))

    def _buffer(self, data: bytes) -> int:
        stored = self.b.CreateByteVector(data) if data else None
        tflite.BufferStart(self.b)
        if stored is not None:
            tflite.BufferAddData(self.b, stored)
        return int(tflite.BufferEnd(self.b))

    def _quantization(self, scales: Any, zeros: Any, axis: int = 0) -> int:
        b = self.b
        scale = self._vector(np.reshape(scales, -1), "float32")
        zero = self._vector(np.broadcast_to(np.asarray(zeros), np.size(scales)), "int64")
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scale)
        tflite.QuantizationParametersAddZeroPoint(b, zero)
        tflite.QuantizationParametersAddQuantizedDimension(b, axis)
        return int(tflite.QuantizationParametersEnd(b))

    def _signature(self, names: dict[str, int], outputs: list[int]) -> int:
        b = self.b
        maps = {}
        for side in (self.inputs, outputs):
            made = []
            for name, place in names.items():
                if place in side:
                    text = b.CreateString(name)
                    tflite.TensorMapStart(b)
                    tflite.TensorMapAddName(b, text)
                    tflite.TensorMapAddTensorIndex(b, place)
                    made.append(tflite.TensorMapEnd(b))
            maps[side is outputs] = self.offsets(made)
        key = b.CreateString("serving_default")
        tflite.SignatureDefStart(b)
        tflite.SignatureDefAddInputs(b, maps[False])
        tflite.SignatureDefAddOutputs(b, maps[True])
        tflite.SignatureDefAddSignatureKey(b, key)
        return self.offsets([tflite.SignatureDefEnd(b)])

    def _options(self, kind: str, fields: dict[str, Any]) -> int:
        made = {name: self._field(value) for name, value in fields.items()}
        getattr(tflite, f"{kind}Start")(self.b)
        for name, value in made.items():
            getattr(tflite, f"{kind}Add{name}")(self.b, value)
        return int(getattr(tflite, f"{kind}End")(self.b))

    def _field(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.b.CreateString(value)
        return self._vector(value, "int32") if isinstance(value, list) else value

    def _vector(self, values: Any, dtype: str) -> int:
        return int(self.b.CreateNumpyVector(np.asarray(values, dtype)))

    def offsets(self, places: Sequence[int]) -> int:
        self.b.StartVector(4, len(places), 4)
        for place in reversed(places):
            self.b.PrependUOffsetTRelative(place)
        return int(self.b.EndVector())


def interpreted(data: bytes, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What TensorFlow Lite's own plain kernels make of ``feeds``."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=plain)
    for detail, feed in zip(interpreter.get_input_details(), feeds, strict=True):
        if tuple(detail["shape"]) != feed.shape:
            interpreter.resize_tensor_input(detail["index"], feed.shape)
    interpreter.allocate_tensors()
    for detail, feed in zip(interpreter.get_input_details(), feeds, strict=True):
        interpreter.set_tensor(detail["index"], feed)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def translated(data: bytes, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime makes of the network's translation."""
    network, _ = read(data)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its integer kernels saturate on some processors.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.SerializeToString(), options)
    names = [value.name for value in network.graph.input]
    return [np.asarray(v) for v in session.run(None, dict(zip(names, feeds, strict=True)))]


def compiled(source: str | os.PathLike[str] | bytes, *feeds: np.ndarray) -> list[np.ndarray]:
    """What the compiled network makes of ``feeds``."""
    model = dlcomp.load(source)
    names = [spec.name for spec in model.signature.inputs]
    return list(model.compile().run(dict(zip(names, feeds, strict=True))).values())


def agree(file: File, *outputs: int, tolerance: float = 1e-5, steps: int = 0) -> None:
    """Both give the same: numbers within ``tolerance`` of the largest, integers within ``steps``."""
    data = file.bytes(*outputs)
    expected, found = interpreted(data, file.feeds), translated(data, file.feeds)
    assert len(expected) == len(found)
    for want, have in zip(expected, found, strict=True):
        assert (want.shape, want.dtype) == (have.shape, have.dtype)
        if want.dtype.kind == "f":
            most = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
            np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance * most)
        else:
            apart = np.abs(have.astype(np.int64) - want.astype(np.int64))
            assert apart.max(initial=0) <= steps, f"{apart.max()} steps apart"
