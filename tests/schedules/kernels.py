"""A template's kernel, built for given knobs and run: without a network around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import te

from dlcomp.schedules import TEMPLATES, schedule
from dlcomp.schedules.template import Knobs, Template
from dlcomp.schedules.workload import Workload
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
