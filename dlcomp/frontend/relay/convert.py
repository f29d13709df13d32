"""A Relay module, evaluated function by function into an ONNX network.

Functions are inlined where they are called; a branch must be decided by a constant.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dlcomp.errors import ModelError
from dlcomp.frontend.builder import OPSET, Builder, Tensor
from dlcomp.frontend.relay import PRODUCER, syntax
from dlcomp.frontend.relay.attributes import Attributes
from dlcomp.frontend.relay.operators import OPERATORS, PLAIN
from dlcomp.frontend.relay.parse import DEEP
from dlcomp.frontend.values import Stored

_LOG = logging.getLogger(__name__)
# Calls inside calls; a recursive function goes on for ever.
_DEEPEST = 64
# What a converter, NumPy or ONNX says of operands and attributes that do not fit.
_UNFIT = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, AssertionError
)  # fmt: skip
Value = Any  # a Tensor, a tuple of values, or a function with what it sees


def convert(
    module: syntax.Module,
    constants: Mapping[str, list[np.ndarray]],
    values: Mapping[str, np.ndarray],
    shapes: Mapping[str, Sequence[Any]],
    name: str,
) -> onnx.ModelProto:
    """The ONNX network of ``module.functions['main']``; see :func:`dlcomp.frontend.relay.to_onnx`."""
    try:
        unknown: dict[str, syntax.Place] = {}
        for op in _operators(module):
            if op.name not in OPERATORS and op.name not in PLAIN:
                unknown.setdefault(op.name, op.place)
        if unknown:
            raise ModelError(
                f"{min(unknown.values())}: unsupported Relay operators: {', '.join(sorted(unknown))}",
                where=name,
                hint="simplify the module in TVM first, or replace them",
            )
        return _Conversion(module, constants, values, shapes, name).network()
    except RecursionError as error:
        raise ModelError(f"{module.functions['main'].place}: {DEEP}", where=name) from error


def _operators(part: Any) -> Iterator[syntax.Operator]:
    if isinstance(part, syntax.Operator):
        yield part
    elif isinstance(part, syntax.Module):
        for function in part.functions.values():
            yield from _operators(function)
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _operators(item)
    elif isinstance(part, syntax.Node):
        for item in vars(part).values():
            yield from _operators(item)


class _Conversion:
    def __init__(
        self,
        module: syntax.Module,
        constants: Mapping[str, list[np.ndarray]],
        values: Mapping[str, np.ndarray],
        shapes: Mapping[str, Sequence[Any]],
        name: str,
    ) -> None:
        self.module, self.constants, self.values, self.name = module, constants, dict(values), name
        self.shapes, self.from_file = shapes, isinstance(values, Stored)
        self.builder = Builder()
        self.seen: dict[tuple[str, int], Tensor] = {}

    def network(self) -> onnx.ModelProto:
        main = self.module.functions["main"]
        names = {name for name, _ in main.parameters}
        # Names that do not begin with a letter were printed behind a v.
        self.values = {
            f"v{k}" if k not in names and f"v{k}" in names else k: v for k, v in self.values.items()
        }
        unused = sorted(set(self.values) - names)
        if unused and self.from_file and set(self.values) & names:
            _LOG.info("parameters that @main does not have: %s", ", ".join(unused))
        elif unused:
            raise ModelError(
                f"{main.place}: @main has no parameter {', '.join(map(repr, unused))}",
                where=self.name,
                hint=f"it has {', '.join(map(repr, sorted(names)[:8])) or 'none'}",
            )
        scope = {name: self._parameter(name, ty, main.place) for name, ty in main.parameters}
        result = self._value(main.body, scope, 0)
        fields = result if isinstance(result, tuple) else (result,)
        if not fields or not all(isinstance(field, Tensor) for field in fields):
            raise self._error(main.body.value, "@main must return a tensor or a tuple of tensors")
        outputs = []
        for place, field in enumerate(fields):
            # Names of their own: a result may be an input, a constant, or there twice.
            name = "output" if len(fields) == 1 else f"output{place}"
            self.builder.nodes.append(helper.make_node("Identity", [field.name], [name], name=name))
            kind = int(helper.np_dtype_to_tensor_dtype(np.dtype(field.dtype)))
            outputs.append(helper.make_tensor_value_info(name, kind, field.shape))
        b = self.builder
        graph = helper.make_graph(b.nodes, self.name, b.inputs, outputs, b.stored)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,
            producer_name=PRODUCER,
        )

    def _parameter(self, name: str, ty: Any, place: syntax.Place) -> Tensor:
        given = self.values.get(name)
        declared = ty if isinstance(ty, syntax.TensorType) else None
        try:
            if given is not None:
                self._check_value(name, np.asarray(given), declared, place)
                return self.builder.constant(given, name=name)
            if declared is not None:
                shape = self._shape(name, declared)
                if shape is not None:
                    return self.builder.input(name, shape, declared.dtype)
        except _UNFIT as error:
            raise ModelError(f"{place}: parameter {name!r}: {error}", where=self.name) from error
        raise ModelError(
            f"{place}: parameter {name!r} has no type with known dimensions",
            where=self.name,
            hint="print the module after InferType, or give its shape or its value",
        )

    def _check_value(
        self, name: str, given: np.ndarray, declared: syntax.TensorType | None, place: syntax.Place
    ) -> None:
        if declared is None:
            return
        fits = len(given.shape) == len(declared.shape) and all(
            want in (None, have) for want, have in zip(declared.shape, given.shape, strict=True)
        )
        if not fits or str(given.dtype) != declared.dtype:
            shape = ["?" if d is None else d for d in declared.shape]
            raise ModelError(
                f"{place}: parameter {name!r} is {declared.dtype}{shape}, "
                f"its value is {given.dtype}{list(given.shape)}",
                where=self.name,
            )

    def _shape(self, name: str, declared: syntax.TensorType) -> tuple[int, ...] | None:
        """The dimensions, those that are open taken from the shape that the caller gave."""
        given = list(self.shapes.get(name, ()))
        if len(given) != len(declared.shape):
            given = [None] * len(declared.shape)
        whole = [have if want is None else want for want, have in zip(declared.shape, given, strict=True)]
        known = tuple(d for d in whole if isinstance(d, int))
        return known if len(known) == len(whole) else None

    def _error(self, node: Any, text: str) -> ModelError:
        return ModelError(f"{node.place}: {text}", where=self.name)

    # -- expressions -----------------------------------------------------------------------------------------

    def _value(self, node: Any, scope: Mapping[str, Value], depth: int) -> Value:
        if depth > _DEEPEST:
            raise self._error(node, "functions call each other too deep; recursion is not supported")
        if isinstance(node, syntax.Block):
            inner = dict(scope)
            for name, bound in node.bindings:
                inner[name] = self._value(bound, inner, depth)
            return self._value(node.value, inner, depth)
        if isinstance(node, syntax.Variable):
            return self._variable(node, scope)
        if isinstance(node, syntax.Number):
            return self._number(node)
        if isinstance(node, syntax.Constant):
            return self._constant(node)
        if isinstance(node, syntax.TupleOf):
            return tuple(self._value(item, scope, depth) for item in node.fields)
        if isinstance(node, syntax.Projection):
            fields = self._value(node.value, scope, depth)
            if not isinstance(fields, tuple) or node.index >= len(fields):
                raise self._error(node, f"there is no field {node.index}")
            return fields[node.index]
        if isinstance(node, syntax.Function):
            return (node, scope)
        if isinstance(node, syntax.Global):
            if node.name not in self.module.functions:
                raise self._error(node, f"there is no function @{node.name}")
            return (self.module.functions[node.name], {})
        if isinstance(node, syntax.Branch):
            return self._branch(node, scope, depth)
        if isinstance(node, syntax.Call):
            return self._call(node, scope, depth)
        raise self._error(node, "an operator stands where a value must")

    def _variable(self, node: syntax.Variable, scope: Mapping[str, Value]) -> Value:
        name, fields = node.name, []
        # ``%x.0`` may be a name with a dot, or the first field of %x.
        while name not in scope:
            name, dot, last = name.rpartition(".")
            if not dot or not last.isdigit():
                raise self._error(node, f"%{node.name} is not bound")
            fields.append(int(last))
        value = scope[name]
        for field in reversed(fields):
            if not isinstance(value, tuple) or field >= len(value):
                raise self._error(node, f"%{name} has no field {field}")
            value = value[field]
        return value

    def _number(self, node: syntax.Number) -> Tensor:
        try:
            with np.errstate(over="ignore"):
                return self.builder.constant(node.value, node.dtype)
        except _UNFIT as error:
            raise self._error(node, f"{node.value} is no {node.dtype}") from error

    def _constant(self, node: syntax.Constant) -> Tensor:
        key = (node.kind, node.index)
        if key not in self.seen:
            arrays = self.constants.get(node.kind)
            if arrays is None or not 0 <= node.index < len(arrays):
                raise ModelError(
                    f"{node.place}: meta[{node.kind}][{node.index}] is not in the file",
                    where=self.name,
                    hint="save the text with its metadata: mod.astext(show_meta_data=True)",
                )
            self.seen[key] = self.builder.constant(arrays[node.index])
        return self.seen[key]

    def _branch(self, node: syntax.Branch, scope: Mapping[str, Value], depth: int) -> Value:
        condition = self._value(node.condition, scope, depth)
        if not isinstance(condition, Tensor) or condition.name not in self.builder.arrays:
            raise self._error(node, "a branch that the data decide is not supported")
        array = self.builder.arrays[condition.name]
        if array.size != 1:
            raise self._error(node, f"a condition of the shape {list(array.shape)}")
        taken = node.then if array.reshape(-1)[0] else node.other
        return self._value(taken, scope, depth)

    def _call(self, node: syntax.Call, scope: Mapping[str, Value], depth: int) -> Value:
        arguments = [self._value(item, scope, depth) for item in node.arguments]
        if isinstance(node.callee, syntax.Operator):
            return self._operator(node, node.callee.name, arguments)
        found = self._value(node.callee, scope, depth)
        if not isinstance(found, tuple) or not found or not isinstance(found[0], syntax.Function):
            raise self._error(node, "what is called is no function")
        function, outer = found
        if len(arguments) != len(function.parameters):
            raise self._error(
                node, f"the function takes {len(function.parameters)} arguments, not {len(arguments)}"
            )
        names = [name for name, _ in function.parameters]
        return self._value(function.body, {**outer, **dict(zip(names, arguments, strict=True))}, depth + 1)

    def _operator(self, node: syntax.Call, name: str, arguments: list[Value]) -> Value:
        attributes = Attributes(node.attributes)
        try:
            if name in PLAIN:
                result: Value = self.builder.op(PLAIN[name], arguments)
            else:
                result = OPERATORS[name](self.builder, arguments, attributes)
            unread = attributes.unread()
            if unread:
                raise ValueError(f"the attribute {', '.join(unread)} is not supported")
        except _UNFIT as error:
            shapes = ", ".join(
                f"{a.dtype}{list(a.shape)}" if isinstance(a, Tensor) else "(...)" for a in arguments
            )
            text = str(error)
            if isinstance(error, KeyError):
                text = f"there is no {error}"
            elif isinstance(error, AttributeError):
                text = "a tuple or a function is no operand"
            raise self._error(node, f"{name} of {shapes or 'nothing'}: {text}") from error
        return result
