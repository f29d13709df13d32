"""``print(model)``: signature, parameters, MACs, operators and history, from the Relax module."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcomp.model import Model, Step

# Constants of these types are shapes, axes and flags, not weights.
_NOT_WEIGHTS = ("int64", "bool")


@dataclass(frozen=True)
class Counts:
    """Sizes of a Relax module.

    Attributes
    ----------
    parameters, parameter_bytes : int
        Elements and bytes of the constants that are not int64 or bool; a shared constant counts once.
    macs : int
        Multiply-accumulates of the convolutions and matrix products.
    ops : mapping of str to int
        Calls of each operator or function, most frequent first.
    """

    parameters: int
    parameter_bytes: int
    macs: int
    ops: dict[str, int]


def describe(model: Model) -> str:
    """A few lines about ``model`` for people."""
    counts = count(model.module)
    lines = [f"Model {model.name}"]
    lines += [f"  input   {spec}" for spec in model.signature.inputs]
    lines += [f"  output  {spec}" for spec in model.signature.outputs]
    lines.append(
        f"  weights {scaled(counts.parameters, '')}parameters, {scaled(counts.parameter_bytes, 'B')}"
    )
    lines.append(f"  work    {scaled(counts.macs, 'MACs')}")
    lines.append("  ops     " + (", ".join(f"{n} {op}" for op, n in counts.ops.items()) or "none"))
    for index, step in enumerate(model.history):
        lines.append(f"  {'history' if index == 0 else '       '} {_step(step)}")
    return "\n".join(lines)


def count(module: Any) -> Counts:
    """Parameters, MACs and operator calls of all Relax functions in ``module``."""
    from tvm import ir, relax

    ops: Counter[str] = Counter()
    weights: list[Any] = []
    macs = 0

    def visit(expr: Any) -> None:
        nonlocal macs
        if isinstance(expr, ir.GenericConst):
            if isinstance(expr.ty, relax.TensorType) and str(expr.value.dtype) not in _NOT_WEIGHTS:
                weights.append(expr)
        elif isinstance(expr, relax.Call):
            name = _callee(expr)
            ops[name] += 1
            rule = _MACS.get(name)
            macs += rule(expr) if rule else 0

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    unique = {hash(weight.value): weight.value for weight in weights}.values()
    elements = [math.prod(value.shape) for value in unique]
    sizes = [n * _bits(str(value.dtype)) // 8 for n, value in zip(elements, unique, strict=True)]
    return Counts(sum(elements), sum(sizes), macs, dict(ops.most_common()))


def scaled(number: int, unit: str) -> str:
    """``scaled(1234567, "B")`` is ``1.23 MB``; below a thousand there is no prefix."""
    value = float(number)
    for prefix in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}" if prefix else f"{number} {unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"


def _callee(call: Any) -> str:
    """``nn.conv2d`` for an operator, the function's name for a call_tir or a call of a function."""
    name = str(getattr(call.op, "name", None) or getattr(call.op, "name_hint", "call"))
    if name in ("relax.call_tir", "relax.call_tir_inplace") and call.args:
        return str(getattr(call.args[0], "name_hint", name))
    return name.removeprefix("relax.")


def _shape(expr: Any) -> list[int] | None:
    """Static shape of a tensor, or None."""
    shape = getattr(expr.ty, "shape", None)
    try:
        return None if shape is None else [int(dim) for dim in shape]
    except TypeError:
        return None


def _conv(call: Any) -> int:
    """Any convolution and layout: outputs times the weights of one output channel."""
    out, weight = _shape(call), _shape(call.args[1])
    if out is None or weight is None:
        return 0
    channels = weight[str(call.attrs.kernel_layout).index("O")]
    return math.prod(out) * math.prod(weight) // max(channels, 1)


def _conv_transpose(call: Any) -> int:
    """Inputs times the weights of one input channel."""
    data, weight = _shape(call.args[0]), _shape(call.args[1])
    if data is None or weight is None:
        return 0
    channels = weight[str(call.attrs.kernel_layout).index("I")]
    return math.prod(data) * math.prod(weight) // max(channels, 1)


def _matmul(call: Any) -> int:
    out, left = _shape(call), _shape(call.args[0])
    return math.prod(out) * left[-1] if out is not None and left else 0


_MACS = {
    **{f"nn.conv{n}d": _conv for n in (1, 2, 3)},
    **{f"nn.conv{n}d_transpose": _conv_transpose for n in (1, 2, 3)},
    "matmul": _matmul,
}


def _bits(dtype: str) -> int:
    digits = "".join(c if c.isdigit() else " " for c in dtype).split()
    return int(digits[0]) if digits else 8


def _step(step: Step) -> str:
    options = ", ".join(f"{key}={value}" for key, value in step.options.items())
    effect = ", ".join(f"{key}: {value}" for key, value in step.effect.items())
    return f"{step.name}({options})" + (f"  {effect}" if effect else "")
