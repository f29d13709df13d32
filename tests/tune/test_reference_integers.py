"""What the tuner compares kernels on integers with is what they compute, to the bit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tvm

sys.path.insert(0, str(Path(__file__).parents[1] / "schedules"))

from kernels import prepared

from dlcomp.schedules import select
from dlcomp.schedules.cpu.arithmetic import integer_arithmetic
from dlcomp.schedules.workload import Window2d
from dlcomp.target import Target
from dlcomp.tune import reference

ARITHMETIC = integer_arithmetic(Target.host(), "int8")


@pytest.mark.parametrize(
    "workload",
    [
        Window2d("depthwise", 1, 9, 9, 40, 5, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, ARITHMETIC, 200),
        Window2d("max", 1, 9, 9, 40, 5, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, "uint8"),
        Window2d("max", 2, 9, 9, 72, 9, 9, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, "int8"),
    ],
)
def test_candidates_are_judged_by_exact_integers(workload: Window2d) -> None:
    target = Target.host()
    found = select(workload, target)
    assert found is not None
    chosen, knobs = found
    given, constant = reference.operands(workload)
    assert constant
    wanted = reference.expected(workload, given)
    module, packed = prepared(chosen.name, workload, knobs, given, target)
    built = tvm.tirx.build(module, target=target.to_tvm())
    kind = "int32" if workload.kind == "depthwise" else workload.arithmetic
    result = tvm.runtime.tensor(np.full(wanted.shape, 99, kind))
    built["main"](*(tvm.runtime.tensor(value) for value in packed), result)
    np.testing.assert_array_equal(result.numpy(), wanted)
