"""A TFLite network, operator by operator, into an ONNX network.

Integers that stand for numbers become numbers before an operator computes with them and integers again
behind it (QDQ); an operator that only moves them takes the integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dlcomp.errors import ModelError
from dlcomp.frontend.builder import OPEN, OPSET, Tensor
from dlcomp.frontend.tflite.builder import Builder
from dlcomp.frontend.tflite.call import Call
from dlcomp.frontend.tflite.network import Info, Network, Operation, Quantization
from dlcomp.frontend.tflite.operators import ALWAYS_MOVING, CUSTOM, MOVING, OPERATORS
from dlcomp.frontend.tflite.variables import KINDS, Variables, initial

PRODUCER = "TFLite"
# What a converter, NumPy or ONNX says of operands and options that do not fit.
_UNFIT = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, AssertionError)


def convert(network: Network, name: str) -> onnx.ModelProto:
    """The ONNX network of ``network``; see :func:`dlcomp.frontend.tflite.to_onnx`."""
    unknown: dict[str, int] = {}
    for op in network.operations:
        if _converter(op.kind) is None and op.kind not in KINDS:
            unknown.setdefault(op.kind, op.place)
    if unknown:
        found = ", ".join(f"{kind} (op {place})" for kind, place in sorted(unknown.items()))
        raise ModelError(
            f"unsupported TFLite operators: {found}",
            where=name,
            hint="export the model with other operators, or cut it before them",
        )
    return _Conversion(network, name).written()


def _converter(kind: str) -> Callable[[Call], Any] | None:
    for table in (OPERATORS, MOVING, ALWAYS_MOVING, CUSTOM):
        if kind in table:
            return table[kind]
    return None


class _Conversion:
    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name
        self.b = Builder()
        self.values: dict[int, Tensor] = {}
        # The numbers behind a tensor of integers, made once.
        self.numbers: dict[int, Tensor] = {}
        self.variables = Variables(self.b)

    def written(self) -> onnx.ModelProto:
        b = self.b
        for name, place in self.network.inputs:
            self._input(name, self.network.tensors[place])
        for op in self.network.operations:
            self._operation(op)
        outputs = []
        taken = {name for name, _ in self.network.inputs}
        for name, place in self.network.outputs:
            try:
                value = self._value(place)
            except _UNFIT as error:
                raise ModelError(f"the output {name!r}: {error}", where=self.name) from error
            # A network may give back its input; both have the name of one tensor.
            outputs.append(self._output(f"{name}_output" if name in taken else name, value))
        outputs += [self._output(name, value) for name, value in self.variables.outputs()]
        nodes, stored = _needed(b, [value.name for value in outputs])
        graph = helper.make_graph(nodes, self.name, b.inputs, outputs, stored)
        network = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,
            producer_name=PRODUCER,
        )
        helper.set_model_props(network, self._initial())
        return network

    def _output(self, name: str, value: Tensor) -> onnx.ValueInfoProto:
        self.b.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        return helper.make_tensor_value_info(name, _kind(value.dtype), self._named(name, value.shape))

    def _initial(self) -> dict[str, str]:
        try:
            found = [initial(graph) for graph in self.network.before]
        except _UNFIT as error:
            raise ModelError(f"a graph that CALL_ONCE runs: {error}", where=self.name) from error
        if None in found:
            raise ModelError(
                "CALL_ONCE runs a graph that does more than set variables to constants",
                where=self.name,
                hint="export the model with its variables' values as constants",
            )
        return {f"initial {name}": value for values in found for name, value in (values or {}).items()}

    def _input(self, name: str, info: Info) -> None:
        try:
            self.values[info.index] = self.b.input(name, info.shape, info.dtype)
        except _UNFIT as error:
            raise ModelError(f"the input {name!r}: {error}", where=self.name) from error
        if OPEN in info.shape:
            dims = self._named(name, info.shape)
            self.b.inputs[-1] = helper.make_tensor_value_info(name, _kind(info.dtype), dims)

    def _named(self, name: str, shape: Sequence[int]) -> list[int | str]:
        """Open dimensions by name; the first is the batch, which all inputs share."""
        return [d if d != OPEN else f"{name}_dim{axis}" if axis else "batch" for axis, d in enumerate(shape)]

    # -- operators -------------------------------------------------------------------------------------------

    def _operation(self, op: Operation) -> None:
        tensors = self.network.tensors
        first = tensors[op.outputs[0]].name if op.outputs else ""
        self.b.label = f"{op.kind}_{op.place}"
        args: list[Tensor | None] = []
        try:
            results = [tensors[place] for place in op.outputs]
            if op.kind in KINDS:
                self._variable(op, results)
                return
            raw = self._moves(op)
            args = [None if i < 0 else self._value(i) if raw else self._number(i) for i in op.inputs]
            meaning = self._meaning([*op.inputs, *op.outputs])
            call = Call(self.b, args, op.options, results, meaning[0] if raw and meaning else None)
            converter = _converter(op.kind)
            assert converter is not None
            made = converter(call)
            made = made if isinstance(made, list) else [made]
            for info, value in zip(results, made, strict=True):
                self.values[info.index] = self._as_declared(info, value, raw)
        except _UNFIT as error:
            shapes = ", ".join(f"{a.dtype}{list(a.shape)}" if a is not None else "none" for a in args)
            text = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ModelError(
                f"op {op.place} {op.kind} {first!r} of {shapes or 'its operands'}: {text}", where=self.name
            ) from error

    def _variable(self, op: Operation, results: list[Info]) -> None:
        if op.kind == "VAR_HANDLE":
            self.variables.handle(op)
        elif op.kind == "READ_VARIABLE":
            self.values[results[0].index] = self.variables.read(op, results[0])
        elif op.kind == "ASSIGN_VARIABLE":
            self.variables.assign(op, self._value(op.inputs[1]))

    def _moves(self, op: Operation) -> bool:
        """Whether the operator takes the integers as they are; few ONNX operators take those of 16 bits."""
        if op.kind in ALWAYS_MOVING:
            return True
        if any(_is_quantized(self.network.tensors[i]) for i in op.inputs if i >= 0) and any(
            self.network.tensors[i].dtype == "int16" for i in op.inputs if i >= 0
        ):
            return False
        meaning = self._meaning([*op.inputs, *op.outputs])
        return op.kind in MOVING and all(q.same(meaning[0]) for q in meaning)

    def _meaning(self, places: Sequence[int]) -> list[Quantization]:
        found = [self.network.tensors[place] for place in places if place >= 0]
        return [t.quantization for t in found if t.quantization is not None and _is_quantized(t)]

    def _as_declared(self, info: Info, value: Tensor, raw: bool) -> Tensor:
        if not raw and _is_quantized(info) and info.quantization is not None:
            return self.b.quantize(self.b.cast(value, "float32"), info.quantization, info.dtype)
        return self.b.cast(value, info.dtype)

    def _value(self, place: int) -> Tensor:
        if place not in self.values:
            info = self.network.tensors[place]
            if info.data is None and (info.variable or 0 in info.shape) and OPEN not in info.shape:
                self.values[place] = self.b.constant(np.zeros(info.shape), info.dtype)
            elif info.data is None:
                raise ValueError(f"nothing writes its operand, tensor {place} {info.name!r}")
            else:
                self.values[place] = self.b.constant(info.data, info.dtype, self._fresh(info.name))
        return self.values[place]

    def _fresh(self, name: str) -> str:
        taken = {n for n, _ in (*self.network.inputs, *self.network.outputs)}
        return "" if name in taken or name in self.b.arrays else name

    def _number(self, place: int) -> Tensor:
        """The numbers behind a tensor; one that is no integers is what it is."""
        info = self.network.tensors[place]
        if not _is_quantized(info) or info.quantization is None:
            return self._value(place)
        if place not in self.numbers:
            self.numbers[place] = self.b.dequantize(self._value(place), info.quantization)
        return self.numbers[place]


def _is_quantized(info: Info) -> bool:
    return info.quantization is not None and info.dtype in ("int8", "uint8", "int16", "int32", "int64")


def _kind(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _needed(b: Builder, outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """What the outputs are made of: weights were stored once more in another order."""
    wanted, nodes = set(outputs), []
    for node in reversed(b.nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1], [tensor for tensor in b.stored if tensor.name in wanted]
