"""Depthwise convolutions of 8-bit integers as kernels that pad by themselves.

Other convolutions of integers take an image that was padded with the zero point of its data by a kernel of
its own; a depthwise one has so little to compute that copying the image would cost as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import IRModule, relax, topi

from dlcomp.graph.integer import is_integer, unsigned
from dlcomp.graph.walk import array_of, constant, dtype_of, op_name, rebuild, static_shape_of
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.workload import Window2d, Workload
from dlcomp.target import Target

Expr = Any


def with_depthwise_kernels(module: IRModule, target: Target, choose: Callable[[Workload], Any]) -> IRModule:
    """``module`` with every depthwise convolution of integers, NHWC, by the template that is chosen.

    A kernel for signed data does not exist: they become unsigned by adding 128 to all of them.
    """

    def step(builder: relax.BlockBuilder, value: Any) -> Any:
        if op_name(value) != "relax.nn.conv2d" or not _is_depthwise(value):
            return value
        weight, out = array_of(value.args[1]), static_shape_of(builder.normalize(value))
        data, (top, bottom, left, right), filling = _unpadded(builder, value.args[0])
        shape = static_shape_of(data)
        if weight is None or out is None or shape is None or 0 in out:
            return value
        n, h, w, channels = shape
        co, kh, kw, _ = weight.shape
        (sh, sw), (dh, dw) = ([int(v) for v in a] for a in (value.attrs.strides, value.attrs.dilation))
        signed = dtype_of(data) == "int8"
        name = integer_arithmetic(target, str(weight.dtype))
        workload = Window2d(
            "depthwise", n, h, w, co, out[1], out[2], kh, kw, sh, sw, dh, dw, top, left, bottom, right,
            name, filling + 128 * signed,
        )  # fmt: skip
        chosen = choose(workload)
        if chosen is None:
            return value
        template, knobs = chosen
        if signed:
            data = builder.emit_te(unsigned, data, primfunc_name_hint="unsigned")
        if co != channels:
            data = builder.emit_te(topi.repeat, data, co // channels, 3, primfunc_name_hint="repeat")
        packed = template.pack(workload, knobs, weight.astype(arithmetic_of(name).weight))

        def define(*tensors: Any) -> Any:
            return template.compute(workload, knobs, *tensors)

        total = builder.call_te(
            define, data, constant(packed), primfunc_name_hint="depthwise", primfunc_attrs={"op_pattern": 4}
        )
        if not signed:
            return total
        sums = (-128 * weight.sum(axis=(1, 2, 3), dtype=np.int64)).astype(np.int32)
        return builder.call_te(topi.add, builder.emit(total), constant(sums), primfunc_name_hint="add")

    return rebuild(module, step)


def _is_depthwise(conv: Any) -> bool:
    """Whether every group of a convolution has one channel of data, of 8 bits, and stored weights."""
    weight, shape = array_of(conv.args[1]), static_shape_of(conv.args[0])
    return (
        weight is not None
        and shape is not None
        and is_integer(*conv.args)
        and weight.size > 0
        and str(conv.attrs.data_layout) == "NHWC"
        and str(conv.attrs.kernel_layout) == "OHWI"
        and weight.shape[3] == 1
        and int(conv.attrs.groups) == shape[3]
        and not any(int(p) for p in conv.attrs.padding)
    )


def _unpadded(builder: relax.BlockBuilder, data: Expr) -> tuple[Expr, tuple[int, int, int, int], int]:
    """What ``data`` are before they are padded with one number, how far they are, and the number."""
    call: Any = builder.lookup_binding(data) if isinstance(data, relax.Var) else None
    if op_name(call) == "relax.nn.pad" and str(call.attrs.pad_mode) == "constant":
        widths = [int(w) for w in call.attrs.pad_width]
        top, bottom, left, right = widths[2:6]
        if not any((*widths[:2], *widths[6:])) and min(widths) >= 0:
            return call.args[0], (top, bottom, left, right), int(call.attrs.pad_value)
    return data, (0, 0, 0, 0), 0
