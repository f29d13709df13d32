"""A Relay module, evaluated function by function into an ONNX network.

Functions are inlined where they are called; a branch must be decided by a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dlcomp.errors import ModelError
from dlcomp.frontend.relay import syntax
from dlcomp.frontend.relay.builder import OPSET, Builder, Tensor
from dlcomp.frontend.relay.operators import OPERATORS, PLAIN

# Calls inside calls; a recursive function goes on for ever.
_DEEPEST = 64
Value = Any  # a Tensor, a tuple of values, or a function with what it sees


def convert(
    module: syntax.Module,
    constants: Mapping[str, list[np.ndarray]],
    values: Mapping[str, np.ndarray],
    name: str,
) -> onnx.ModelProto:
    """The ONNX network of ``module.functions['main']``; see :func:`dlcomp.frontend.relay.to_onnx`."""
    unknown = sorted(
        {op.name for op in _operators(module) if op.name not in OPERATORS and op.name not in PLAIN}
    )
    if unknown:
        raise ModelError(
            f"unsupported Relay operators: {', '.join(unknown)}",
            where=name,
            hint="simplify the module in TVM first, or replace them",
        )
    return _Conversion(module, constants, values, name).network()


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
        name: str,
    ) -> None:
        self.module, self.constants, self.values, self.name = module, constants, values, name
        self.builder = Builder()
        self.seen: dict[tuple[str, int], Tensor] = {}

    def network(self) -> onnx.ModelProto:
        main = self.module.functions["main"]
        unused = sorted(set(self.values) - {name for name, _ in main.parameters})
        if unused:
            raise ModelError(f"@main has no parameter {', '.join(map(repr, unused))}", where=self.name)
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
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(field.dtype))
            outputs.append(helper.make_tensor_value_info(name, kind, field.shape))
        b = self.builder
        graph = helper.make_graph(b.nodes, self.name, b.inputs, outputs, b.stored)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,
            producer_name="Relay",
        )

    def _parameter(self, name: str, ty: Any, place: syntax.Place) -> Tensor:
        given = self.values.get(name)
        if given is not None:
            if isinstance(ty, syntax.TensorType) and (given.shape, str(given.dtype)) != (ty.shape, ty.dtype):
                raise ModelError(
                    f"parameter {name!r} is {ty.dtype}{list(ty.shape)}, "
                    f"its value is {given.dtype}{list(given.shape)}",
                    where=self.name,
                )
            return self.builder.constant(given, name=name)
        if not isinstance(ty, syntax.TensorType) or None in ty.shape:
            raise ModelError(
                f"{place}: parameter {name!r} has no type with known dimensions",
                where=self.name,
                hint="print the module after InferType, or give its value",
            )
        return self.builder.input(name, tuple(d for d in ty.shape if d is not None), ty.dtype)

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
            return self.builder.constant(node.value, node.dtype)
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
        taken = node.then if bool(self.builder.arrays[condition.name]) else node.other
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
        try:
            if name in PLAIN:
                return self.builder.op(PLAIN[name], arguments)
            return OPERATORS[name](self.builder, arguments, node.attributes)
        except ModelError:
            raise
        except KeyError as error:
            raise self._error(node, f"{name}: it has no attribute {error}") from error
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            shapes = ", ".join(
                f"{a.dtype}{list(a.shape)}" if isinstance(a, Tensor) else "(...)" for a in arguments
            )
            raise self._error(node, f"{name} of {shapes or 'nothing'}: {error}") from error
