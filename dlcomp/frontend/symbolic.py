"""Integer tensors of a network whose elements are known as expressions of its open dimensions.

Exporters compute shapes in the graph (Shape, Gather, Concat, Reshape). With open dimensions such a value is
no constant, but each of its elements is an expression of the dimensions, and as such it decides about shapes.
Dimensions are not negative, so that ONNX's truncating division is the floor division of TVM.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from tvm import sym, tirx

from dlcomp.frontend.writer import attributes_of

Dim = Any  # an int or a tirx expression
# More elements than this are no shape.
_LARGEST = 64
_ENDLESS = 2**31 - 1
_ANALYZER = sym.Analyzer()


def dim_of(extent: Any) -> Dim:
    """An extent of a Relax shape: an int where it is known, else its expression."""
    return int(extent) if isinstance(extent, int | tirx.IntImm) else extent


def simplified(value: Dim) -> Dim:
    """``value`` in its simplest form; a number becomes an int."""
    if isinstance(value, int | float | np.generic | bool):
        return value.item() if isinstance(value, np.generic) else value
    return dim_of(_ANALYZER.simplify(value))


def product(dims: Sequence[Dim]) -> Dim:
    """The number of elements of a shape."""
    return simplified(functools.reduce(lambda a, b: a * b, dims, 1))


def divided(a: Dim, b: Dim) -> Dim:
    """``a // b`` of dimensions."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return simplified(tirx.floordiv(whole(a), whole(b)))


def surely_equal(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are the same whatever the open ones are."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(_ANALYZER.can_prove_equal(whole(a), whole(b)))


def least(dim: Dim, of_open: int = 0) -> int:
    """A lower bound of ``dim`` where no open dimension is less than ``of_open``."""
    if isinstance(dim, int):
        return dim
    analyzer = sym.Analyzer()
    for var in tirx.analysis.undefined_vars(dim):
        analyzer.update(var, sym.ConstIntBound(of_open, sym.ConstIntBound.POS_INF))
    return int(analyzer.const_int_bound(dim).min_value)


def not_negative(dim: Dim) -> Dim:
    """``dim``, or 0 where it is less."""
    return dim if least(dim) >= 0 else simplified(tirx.max(dim, whole(0)))


def measure(dim: Dim) -> int:
    """``dim`` where every open dimension has a size of its own, of the kind that images and texts have."""
    if isinstance(dim, int):
        return dim
    names = sorted(tirx.analysis.undefined_vars(dim), key=lambda var: str(var.name))
    analyzer = sym.Analyzer()
    for place, var in enumerate(names):
        analyzer.bind(var, tirx.IntImm("int64", _SAMPLES[place % len(_SAMPLES)]))
    return int(analyzer.simplify(dim))


_SAMPLES = (61, 67, 71, 73, 79, 83, 89, 97)


def size(dims: Sequence[Dim]) -> int:
    """About how many elements a shape has."""
    return math.prod(map(measure, dims))


def text_of(dim: Dim) -> str:
    """An expression as a reader would write it: ``(H + 1) // 2``."""
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(dim))


def is_open(dims: Sequence[Dim]) -> bool:
    """Whether a dimension is known only when the network runs."""
    return any(not isinstance(dim, int) for dim in dims)


def whole(value: Dim) -> Any:
    """A dimension as an expression of int64."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def array(values: Any, shape: Sequence[int] | None = None) -> np.ndarray:
    """``values`` as an object array, each element simplified."""
    flat = [simplified(v) for v in np.asarray(values, object).reshape(-1)]
    made = np.empty(len(flat), object)
    made[:] = flat
    return made.reshape(np.shape(values) if shape is None else shape)


def evaluate(
    node: onnx.NodeProto, operands: Sequence[np.ndarray | None], shape: Sequence[Dim] | None
) -> np.ndarray | None:
    """The result of ``node`` on known elements, or None if it cannot be told.

    ``operands`` are the elements of its inputs (None for a tensor of data or an absent input), ``shape``
    is the shape of the first input, if that is a tensor.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or node.domain not in ("", "ai.onnx"):
        return None
    attributes = attributes_of(node)
    if node.op_type in ("Shape", "Size"):
        if shape is None:
            return None
        if node.op_type == "Size":
            return array(product(shape), ())
        return array(list(shape)[attributes.get("start", 0) : attributes.get("end", len(shape))], None)
    given = [operand for operand, name in zip(operands, node.input, strict=True) if name]
    if any(operand is None or operand.size > _LARGEST for operand in given):
        return None
    try:
        result = rule(operands, attributes)
    except (_Unknown, ValueError, IndexError, TypeError, ZeroDivisionError):
        return None
    return None if result is None else array(result)


class _Unknown(Exception):
    """The open dimensions decide what the result is."""


Rule = Callable[[Sequence[Any], Mapping[str, Any]], Any]


def _ints(value: Any) -> list[int]:
    values = [v for v in np.asarray(value, object).reshape(-1)]
    if any(not isinstance(v, int) for v in values):
        raise _Unknown
    return values


def _elementwise(function: Callable[[Dim, Dim], Dim]) -> Rule:
    def rule(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        return np.frompyfunc(function, 2, 1)(operands[0], operands[1])

    return rule


def _divide(a: Dim, b: Dim) -> Dim:
    if isinstance(a, float) or isinstance(b, float):
        if isinstance(a, int | float) and isinstance(b, int | float):
            return a / b
        if isinstance(b, float) and b.is_integer():
            b = int(b)
        raise _Unknown
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return tirx.floordiv(whole(a), whole(b))


def _times(a: Dim, b: Dim) -> Dim:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    if not numbers and (isinstance(a, float) or isinstance(b, float)):
        fraction, other = (a, b) if isinstance(a, float) else (b, a)
        if not fraction.is_integer():
            raise _Unknown
        return other * int(fraction)
    return a * b


def _extreme(number: Callable[..., Any], expression: Callable[[Any, Any], Any]) -> Rule:
    def two(a: Dim, b: Dim) -> Dim:
        if isinstance(a, int | float) and isinstance(b, int | float):
            return number(a, b)
        return expression(whole(a), whole(b))

    def rule(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        return functools.reduce(np.frompyfunc(two, 2, 1), operands)

    return rule


def _equal(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if surely_equal(a, b):
        return True
    if any(isinstance(v, int) and v < 0 for v in (a, b)):
        return False  # a dimension is never negative
    raise _Unknown


def _cast(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(int(attributes["to"])))

    def one(value: Dim) -> Dim:
        if not isinstance(value, int | float):
            return value  # whole, whatever its type is called
        if wanted.kind in "iu":
            return int(value)
        if wanted.kind == "f":
            return float(value)
        return bool(value)

    if wanted.kind not in "iufb":
        raise _Unknown
    return np.frompyfunc(one, 1, 1)(operands[0])


def _slice(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    data = operands[0]
    if len(operands) > 1:
        starts, ends = _ints(operands[1]), _ints(operands[2])
        axes = _ints(operands[3]) if len(operands) > 3 and operands[3] is not None else range(len(starts))
        steps = _ints(operands[4]) if len(operands) > 4 and operands[4] is not None else [1] * len(starts)
    else:
        starts, ends = list(attributes["starts"]), list(attributes["ends"])
        axes, steps = attributes.get("axes", range(len(starts))), [1] * len(starts)
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step < 0 and end < -_ENDLESS else end
        cut[axis] = slice(start, last, step)
    return data[tuple(cut)]


def _axes(operands: Sequence[Any], attributes: Mapping[str, Any]) -> list[int] | None:
    if len(operands) > 1 and operands[1] is not None:
        return _ints(operands[1])
    found = attributes.get("axes")
    return None if found is None else list(found)


def _unsqueeze(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    axes = _axes(operands, attributes)
    return None if axes is None else np.expand_dims(operands[0], tuple(axes))


def _squeeze(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    axes = _axes(operands, attributes)
    return np.squeeze(operands[0], None if axes is None else tuple(axes))


def _reduce(function: Callable[[Dim, Dim], Dim]) -> Rule:
    def rule(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        axes = _axes(operands, attributes)
        data = operands[0]
        if data.ndim != 1 or axes not in (None, [0], [-1]):
            raise _Unknown
        total = functools.reduce(function, data.tolist())
        return array(total, (1,) if attributes.get("keepdims", 1) else ())

    return rule


def _where(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    condition, yes, no = np.broadcast_arrays(*operands)
    if any(not isinstance(c, bool) for c in condition.reshape(-1)):
        raise _Unknown
    return np.frompyfunc(lambda c, a, b: a if c else b, 3, 1)(condition, yes, no)


def _constant_of_shape(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    from onnx import numpy_helper

    shape = _ints(operands[0])
    if math.prod(shape) > _LARGEST:
        raise _Unknown
    value = numpy_helper.to_array(attributes["value"]).reshape(-1)[0].item() if "value" in attributes else 0.0
    return np.full(shape, value, object)


def _range(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return np.arange(*(_ints(o)[0] for o in operands)).astype(object)


_RULES: Mapping[str, Rule] = {
    "Shape": lambda o, a: None,
    "Size": lambda o, a: None,
    "Identity": lambda o, a: o[0],
    "Gather": lambda o, a: np.take(o[0], np.array(o[1].tolist(), np.int64), axis=int(a.get("axis", 0))),
    "Slice": _slice,
    "Concat": lambda o, a: np.concatenate([np.atleast_1d(x) for x in o], axis=int(a.get("axis", 0))),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": lambda o, a: np.reshape(o[0], _ints(o[1])),
    "Cast": _cast,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(_times),
    "Div": _elementwise(_divide),
    "Neg": lambda o, a: np.frompyfunc(lambda v: -v, 1, 1)(o[0]),
    "Floor": lambda o, a: np.frompyfunc(lambda v: math.floor(v) if isinstance(v, float) else v, 1, 1)(o[0]),
    "Ceil": lambda o, a: np.frompyfunc(lambda v: math.ceil(v) if isinstance(v, float) else v, 1, 1)(o[0]),
    "Max": _extreme(max, tirx.max),
    "Min": _extreme(min, tirx.min),
    "Equal": _elementwise(_equal),
    "Where": _where,
    "ReduceProd": _reduce(lambda a, b: a * b),
    "ReduceSum": _reduce(lambda a, b: a + b),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Expand": lambda o, a: np.broadcast_to(o[0], np.broadcast_shapes(o[0].shape, tuple(_ints(o[1])))),
    "Transpose": lambda o, a: np.transpose(o[0], a.get("perm")),
}
