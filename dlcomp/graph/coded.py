"""Products by weights that are stored as integers: kept so, where a kernel reads them so.

They are integers with scales, or floats of few values (:mod:`dlcomp.graph.shared`). The product becomes one
call between the passes that would fold the weight to floats and the choice of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import IRModule, relax
from tvm.ir import StringImm

from dlcomp.frontend.symbolic import is_open, product
from dlcomp.graph.fold import evaluate
from dlcomp.graph.shared import pays, shared_of, shared_operands
from dlcomp.graph.walk import array_of, constant, dtype_of, op_name, rebuild, shape_of
from dlcomp.schedules.coding import NIBBLES, Codebook, Coded, Coding, Shared, coding_of
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target

Expr = Any
_CALL = "dlcomp.coded_product"
_SMALL = (np.int8, np.uint8)
# A scale for fewer weights is no longer small beside them.
_LEAST_GROUP = 16
# An element costs more than it saves where few share what a kernel does once.
_LEAST_WEIGHTS = 1024


@dataclass(frozen=True)
class _Parts:
    """``(integers - zeros) * scales`` of a constant expression, all of the same shape."""

    integers: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> _Parts:
        return _Parts(function(self.integers), function(self.zeros), function(self.scales))


def keep_coded(module: IRModule) -> IRModule:
    """``module`` with one call for each float product by a weight of 8 bits or less.

    A convolution of single pixels (n, c, h, w) is such a product, of its channels.
    """

    def step(builder: relax.BlockBuilder, call: Expr) -> Expr:
        if op_name(call) == "relax.matmul":
            left, right = (shape_of(arg) for arg in call.args)
            if left is None or right is None or len(right) != 2 or len(left) < 2:
                return call
            made = _product(builder, call.args[0], _parts(builder, call.args[1]))
            if made is None:
                made = _shared_product(builder, call.args[0], call.args[1])
            return call if made is None else made
        if op_name(call) == "relax.nn.conv2d" and _is_pointwise(call):
            parts = _parts(builder, call.args[1])
            if parts is None:
                return call
            pixels = builder.normalize(relax.op.permute_dims(call.args[0], [0, 2, 3, 1]))
            made = _product(builder, pixels, parts.each(lambda a: a.reshape(a.shape[:2]).T))
            return call if made is None else relax.op.permute_dims(builder.emit(made), [0, 3, 1, 2])
        return call

    return rebuild(module, step)


def _is_pointwise(call: Expr) -> bool:
    attrs, kernel = call.attrs, shape_of(call.args[1])
    numbers = [*attrs.strides, attrs.groups]
    plain = all(int(number) == 1 for number in numbers) and not any(int(pad) for pad in attrs.padding)
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout))
    return plain and kernel is not None and kernel[2:] == (1, 1) and layouts == ("NCHW", "OIHW")


def _product(builder: relax.BlockBuilder, data: Expr, parts: _Parts | None) -> Expr | None:
    """The call of (..., k) by a weight (k, n); None if that is not stored so, or of open size."""
    if parts is None or not _is_known(data) or parts.integers.size < _LEAST_WEIGHTS:
        return None
    coded = _coded(parts)
    if coded is None:
        return None
    return _call(builder, data, [constant(coded.integers), constant(coded.scales)], coded.coding.text)


def _is_known(data: Expr) -> bool:
    shape = shape_of(data)
    return shape is not None and not is_open(shape) and 0 not in shape and dtype_of(data) == "float32"


def _shared_product(builder: relax.BlockBuilder, data: Expr, weight: Expr) -> Expr | None:
    """The call of (..., k) by a weight (k, n) of few values."""
    shape = shape_of(weight)
    if shape is None or is_open(shape) or not _is_known(data) or product(shape) < _LEAST_WEIGHTS:
        return None
    value = _value(builder, weight)
    found = None if value is None else shared_operands(value)
    return None if found is None else _call(builder, data, *found)


def _call(builder: relax.BlockBuilder, data: Expr, operands: list[Expr], text: str) -> Expr:
    data = data if isinstance(data, relax.Var) else builder.emit(data)
    columns, shape = shape_of(operands[0]), shape_of(data)
    assert columns is not None
    assert shape is not None
    made = relax.TensorType((*shape[:-1], columns[1]), "float32")
    return relax.call_pure_packed(_CALL, data, *operands, StringImm(text), ty_args=[made])


def with_coded_kernels(module: IRModule, choose: Callable[[Workload], Any], target: Target) -> IRModule:
    """``module`` with the definition of a template for each such call; floats again without a template.

    Weights of few values are also floats again where those are faster: nobody said that they be kept so.
    """

    def step(builder: relax.BlockBuilder, call: Expr) -> Expr:
        if op_name(call) != "relax.call_pure_packed" or str(call.args[0].global_symbol) != _CALL:
            return call
        _, data, integers, scales, text = call.args
        coding = coding_of(str(text.value))
        weight: Coded | Shared
        if isinstance(coding, Codebook):
            weight = shared_of(integers, scales)
        else:
            weight = Coded(_array(integers), _array(scales), coding)
        shape = shape_of(data)
        assert shape is not None
        k, n = _array(integers).shape
        workload = Gemm(product(shape[:-1]), n, k, coding.text)
        chosen = choose(workload)
        if chosen is not None and isinstance(weight, Shared):
            chosen = chosen if pays(weight, workload, chosen, choose, target) else None
        if chosen is None:
            return relax.op.matmul(data, constant(weight.reals()))
        template, knobs = chosen
        packed = [constant(part) for part in template.pack(workload, knobs, weight)]

        def define(*tensors: Any) -> Any:
            return template.compute(workload, knobs, *tensors)

        return builder.call_te(
            define, data, *packed, primfunc_name_hint="gemm", primfunc_attrs={"op_pattern": 4}
        )

    return rebuild(module, step)


def _array(expr: Expr) -> np.ndarray:
    array = array_of(expr)
    assert array is not None
    return array


def _parts(builder: relax.BlockBuilder, expr: Expr) -> _Parts | None:
    """What a weight is made of, through what moves elements."""
    call: Any = builder.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    name = op_name(call)
    if name == "relax.astype":
        array = array_of(call.args[0])
        if array is None or array.dtype not in _SMALL or str(call.attrs.dtype) != "float32":
            return None
        nothing, one = np.zeros((), np.float32), np.ones((), np.float32)
        return _Parts(array, np.broadcast_to(nothing, array.shape), np.broadcast_to(one, array.shape))
    if name not in ("relax.subtract", "relax.multiply", "relax.permute_dims", "relax.reshape"):
        return None
    found = _parts(builder, call.args[0])
    if found is None:
        return None
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        return found.each(lambda a: np.transpose(a, None if axes is None else [int(x) for x in axes]))
    if name == "relax.reshape":
        shape = shape_of(builder.normalize(call))
        return None if shape is None else found.each(lambda a: a.reshape(shape))
    other = _value(builder, call.args[1])
    if other is None or np.broadcast_shapes(other.shape, found.integers.shape) != found.integers.shape:
        return None
    wide = np.broadcast_to(other, found.integers.shape)
    if name == "relax.multiply":
        return _Parts(found.integers, found.zeros, wide) if (found.scales == 1).all() else None
    whole = (other == np.rint(other)).all() and (np.abs(other) <= 255).all()
    plain = (found.scales == 1).all() and not found.zeros.any()
    return _Parts(found.integers, wide, found.scales) if whole and plain else None


def _value(builder: relax.BlockBuilder, expr: Expr) -> np.ndarray | None:
    """The value of what depends on constants alone."""
    call = builder.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    if not isinstance(call, relax.Call):
        return array_of(expr)
    values = [_value(builder, arg) for arg in call.args]
    args = [arg if value is None else constant(value) for arg, value in zip(call.args, values, strict=True)]
    return evaluate(builder, relax.Call(call.op, args, call.attrs, call.ty_args))


def _coded(parts: _Parts) -> Coded | None:
    """The weight with the fewest scales and bits that say the same; None if 8 bits do not."""
    whole = parts.integers.astype(np.int16) - parts.zeros.astype(np.int16)
    low, high = int(whole.min()), int(whole.max())
    if low < -128 or high > 127:
        return None
    group = _group(parts.scales)
    if group is None:
        return None
    bits = 4 if low >= -8 and high <= 7 and group % NIBBLES == 0 else 8
    scales = parts.scales[:: group or len(whole)]
    return Coded(whole.astype(np.int8), np.ascontiguousarray(scales, np.float32), Coding(bits, group))


def _group(scales: np.ndarray) -> int | None:
    """How many neighbours of a column of ``(k, n)`` have one scale, 0 for all; None for too few."""
    changes = np.flatnonzero((scales[1:] != scales[:-1]).any(axis=1)) + 1
    if not len(changes):
        return 0
    found = int(np.gcd.reduce(changes))
    return found if found >= _LEAST_GROUP else None
