"""A template's kernel, built for given knobs and run: without a network around it; and a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tvm import te

from dlcomp.schedules import TEMPLATES, schedule
from dlcomp.schedules.template import Knobs, Template
from dlcomp.schedules.workload import Conv2d, Window2d, Workload
from dlcomp.target import Target


def template(name: str) -> Template:
    return next(t for t in TEMPLATES if t.name == name)


def prepared(
    name: str,
    workload: Workload,
    knobs: Knobs,
    operands: Sequence[np.ndarray],
    target: Target,
    constant: bool = True,
) -> tuple[Any, list[np.ndarray]]:
    """The scheduled function, and its operands; those after the first are packed if they are ``constant``."""
    chosen = template(name)
    given = [operands[0]]
    for operand in operands[1:]:
        packed = chosen.pack(workload, knobs, operand) if constant else operand
        given += packed if isinstance(packed, tuple) else [packed]
    tensors = [te.placeholder(value.shape, str(value.dtype)) for value in given]
    function = te.create_prim_func([*tensors, chosen.compute(workload, knobs, *tensors)])
    scheduled = schedule(function, target)
    assert scheduled.label.startswith(name)
    return scheduled.schedule.mod, given


def run(
    name: str,
    workload: Workload,
    knobs: Knobs,
    operands: Sequence[np.ndarray],
    shape: tuple[int, ...],
    target: str = "host",
    constant: bool = True,
) -> np.ndarray:
    """The result of ``shape``: float32, and int32 for integers."""
    resolved = Target.parse(target)
    module, given = prepared(name, workload, knobs, operands, resolved, constant)
    built = tvm.tirx.build(module, target=resolved.to_tvm())
    # Whatever a kernel does not write is seen.
    whole = np.issubdtype(operands[0].dtype, np.integer)
    unset = np.full(shape, np.iinfo("int32").min, "int32") if whole else np.full(shape, np.nan, "float32")
    result = tvm.runtime.tensor(unset)
    built["main"](*(tvm.runtime.tensor(value) for value in given), result)
    return result.numpy()


def convolved(data: np.ndarray, weight: np.ndarray, workload: Conv2d | Window2d) -> np.ndarray:
    """NHWC data by (co, kh, kw, ci) weights, by ONNX's reference."""
    wl = workload
    groups = wl.groups if isinstance(wl, Conv2d) else wl.c
    attributes = {"strides": [wl.sh, wl.sw], "dilations": [wl.dh, wl.dw], "group": groups}
    bottom = (wl.oh - 1) * wl.sh + (wl.kh - 1) * wl.dh + 1 - wl.h - wl.top
    right = (wl.ow - 1) * wl.sw + (wl.kw - 1) * wl.dw + 1 - wl.w - wl.left
    attributes["pads"] = [wl.top, wl.left, max(bottom, 0), max(right, 0)]
    names = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "xwy"]
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph([node], "g", names[:2], names[2:])
    feed = {"x": data.transpose(0, 3, 1, 2), "w": weight.transpose(0, 3, 1, 2)}
    (found,) = ReferenceEvaluator(helper.make_model(graph)).run(None, feed)
    return found.transpose(0, 2, 3, 1)[:, : wl.oh, : wl.ow]
