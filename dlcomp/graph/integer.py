"""Products of 8-bit integers with stored weights, in the arithmetic that the processor is fastest in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from dlcomp.graph.legalize import default
from dlcomp.graph.walk import array_of, dtype_of, op_name, shape_of
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.target import Target

Expr = Any
# To be fused with nothing (TVM's kOpaque).
_ALONE = {"op_pattern": 8}


@dataclass(frozen=True)
class Integers:
    """Operands in the types of an arithmetic, the reduction a multiple of its group.

    Attributes
    ----------
    data : Relax expression
        (..., depth).
    weight : numpy.ndarray
        The depth along the axis that it had.
    arithmetic : str
    offset : numpy.ndarray or None
        What is to be added to the result, by column.
    """

    data: Expr
    weight: np.ndarray
    arithmetic: str
    offset: np.ndarray | None

    @property
    def group(self) -> int:
        """Neighbours along the reduction that one step takes."""
        return int(arithmetic_of(self.arithmetic).group)


def is_integer(data: Expr, weight: Expr) -> bool:
    """Whether 8-bit data meet a stored weight of integers."""
    array = array_of(weight)
    return array is not None and dtype_of(data) in ("uint8", "int8") and array.dtype in (np.int8, np.int16)


def integers(
    bb: relax.BlockBuilder, target: Target, data: Expr, weight: np.ndarray, depth: int, columns: int
) -> Integers:
    """The operands of a product on ``target``; ``depth`` and ``columns`` are axes of ``weight``.

    Unsigned data that the instruction wants and that are signed become so by adding 128 to all of them.
    """
    name = integer_arithmetic(target, str(weight.dtype))
    kinds = arithmetic_of(name)
    signed = dtype_of(data) == "int8"
    offset = None
    if kinds.data == "uint8" and signed:
        others = tuple(d for d in range(weight.ndim) if d != columns % weight.ndim)
        offset = (-128 * weight.sum(axis=others, dtype=np.int64)).astype(np.int32)
        data = bb.emit_te(unsigned, data, primfunc_name_hint="unsigned")
    elif kinds.data != dtype_of(data):
        data = bb.emit_te(topi.cast, data, kinds.data, primfunc_name_hint="cast")
    missing = -weight.shape[depth] % kinds.group
    if missing:
        widths = [(0, missing if d == depth % weight.ndim else 0) for d in range(weight.ndim)]
        weight = np.pad(weight, widths)
        after = [0] * (len(shape_of(data) or ()) - 1) + [missing]
        none = [0] * len(after)
        data = bb.emit_te(topi.nn.pad, data, none, after, tirx.const(0, kinds.data), primfunc_name_hint="pad")
    return Integers(data, weight.astype(kinds.weight), name, offset)


def copied(bb: relax.BlockBuilder, call: Any) -> Any:
    """``concat`` and ``pad``: of bytes as kernels of their own, which nothing is computed in.

    What is fused into them is computed behind a choice for every element, and for each of their readers.
    """
    if dtype_of(call) not in ("uint8", "int8"):
        return default(bb, call)
    if op_name(call) == "relax.concat":
        operands, axis = list(call.args[0].fields), int(call.attrs.axis)
        return bb.call_te(
            lambda *parts: topi.concatenate(parts, axis),
            *operands,
            primfunc_name_hint="concat",
            primfunc_attrs=_ALONE,
        )
    if str(call.attrs.pad_mode) != "constant":
        return default(bb, call)
    widths = [int(width) for width in call.attrs.pad_width]
    filling = tirx.const(int(call.attrs.pad_value), dtype_of(call))
    return bb.call_te(
        lambda x: topi.nn.pad(x, widths[::2], widths[1::2], filling),
        call.args[0],
        primfunc_name_hint="pad",
        primfunc_attrs=_ALONE,
    )


def unsigned(x: Any) -> Any:
    """Signed 8-bit integers with 128 added to each."""

    def at(*i: Any) -> Any:
        return tirx.Cast("uint8", tirx.Cast("int16", x(*i)) + tirx.const(128, "int16"))

    return te.compute(x.shape, at, name="unsigned")
