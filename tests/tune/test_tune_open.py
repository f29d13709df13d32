"""Tuning of kernels whose sizes are open: measured at several sizes, used by a compilation of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.schedules.cpu.arithmetic import integer_arithmetic
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload
from dlcomp.target import Target
from dlcomp.tune.candidates import candidates
from dlcomp.tune.samples import flops_of, is_open, samples

HOST = Target.host()
INTEGERS = integer_arithmetic(HOST, "int8")
OPEN: tuple[Workload, ...] = (
    Gemm(0, 40, 24),
    Gemm(0, 40, 24, INTEGERS),
    BatchMatmul(0, 0, 0, 8),
    BatchMatmul(3, 0, 20, 0),
    Conv2d(0, 0, 0, 6, 0, 0, 20, 3, 2, 2, 1, 1, 2, 0, 0, 2),
    Conv2d(0, 0, 0, 8, 0, 0, 20, 3, 3, 1, 1, 1, 1, 0, 0, 1, INTEGERS),
    Conv2d(0, 0, 0, 32, 0, 0, 32, 3, 3, 1, 1, 1, 1, 0, 0, 1),
    Window2d("depthwise", 0, 0, 0, 20, 0, 0, 3, 3, 2, 2, 1, 1, 0, 0),
    Window2d("max", 0, 0, 0, 20, 0, 0, 2, 3, 2, 1, 1, 1, 0, 0),
)


@pytest.mark.parametrize("workload", OPEN, ids=lambda w: type(w).__name__)
def test_candidates_are_built_checked_and_measured(workload: Workload, tmp_path: Path) -> None:
    (state,) = dlcomp.tune(workload, HOST, 3, db=tmp_path).states
    assert not state.failures, state.messages
    assert state.best_s > 0
    assert "?" in state.task.name


@pytest.mark.parametrize("workload", OPEN, ids=lambda w: type(w).__name__)
def test_samples_have_known_sizes(workload: Workload) -> None:
    found = samples(workload)
    assert len(found) == 3
    assert not any(is_open(sample) for sample in found)
    assert min(s.flops for s in found) < flops_of(workload) < max(s.flops for s in found)
    for sample in found:
        assert candidates(sample, HOST)


def test_a_known_size_stands_for_itself() -> None:
    workload = Gemm(7, 40, 24)
    assert samples(workload) == [workload]
    assert flops_of(workload) == workload.flops


def test_a_compilation_for_any_size_uses_what_was_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight: Any = numpy_helper.from_array(rng.standard_normal((24, 40)).astype("float32"), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "t"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "s", 24])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    network = helper.make_model(helper.make_graph(nodes, "texts", [x], [y], [weight]), ir_version=9)
    model = dlcomp.load(network)
    found = dlcomp.tune(model, HOST, 4, db=tmp_path)
    assert {type(state.task.workload) for state in found.states} == {Gemm, BatchMatmul}
    artifact = model.compile(HOST, db=tmp_path)
    labels = {kernel.schedule for kernel in artifact.manifest.kernels}
    assert {f"{state.best} tuned" for state in found.states} <= labels
    for n, s in ((1, 1), (2, 33)):
        value = rng.standard_normal((n, s, 24)).astype("float32")
        h = value @ numpy_helper.to_array(weight)
        np.testing.assert_allclose(
            artifact.run({"x": value})["y"], h @ h.swapaxes(1, 2), rtol=1e-4, atol=1e-4
        )
