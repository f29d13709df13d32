"""The passes left out for kernels that a template wrote change no numbers; nothing else leaves any out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax, te, tirx, topi

from dlcomp.codegen.passes import by_passes, unneeded
from dlcomp.schedules import schedule, templates
from dlcomp.schedules.workload import Gemm
from dlcomp.target import Target

HOST = Target.host()
K, N = 24, 40


def product(rows: int | None) -> tuple[Any, Any]:
    """The kernel of ``rows`` (None: open) by a constant (K, N), and the weights as it reads them."""
    workload = Gemm(rows or 0, N, K)
    template = next(t for t in templates() if t.accepts(workload, HOST))
    knobs = template.choose(workload, HOST)
    packed = template.pack(workload, knobs, weights())
    size = tirx.Var("m", "int64") if rows is None else rows
    data, stored = te.placeholder((size, K), "float32"), te.placeholder(packed.shape, "float32")
    result = template.compute(workload, knobs, data, stored)
    scheduled = schedule(te.create_prim_func([data, stored, result]), HOST)
    assert scheduled.label.startswith(template.name)
    return scheduled.schedule.mod["main"], packed


def weights() -> Any:
    return np.random.default_rng(0).standard_normal((K, N), dtype=np.float32)


def built(func: Any, without: tuple[str, ...]) -> Any:
    named = IRModule({"main": func.with_attr("global_symbol", "main")})
    with tvm.transform.PassContext(opt_level=3, disabled_pass=list(without)):
        return tirx.build(named, target=HOST.to_tvm())


def softmax() -> Any:
    data = te.placeholder((tirx.Var("m", "int64"), 20), "float32")
    return schedule(te.create_prim_func([data, topi.nn.softmax(data)]), HOST).schedule.mod["main"]


@pytest.mark.parametrize("rows", [None, 9])
def test_a_product_is_the_same_without_them(rows: int | None) -> None:
    kernel, packed = product(rows)
    assert unneeded(kernel)
    runs = [built(kernel, without)["main"] for without in ((), unneeded(kernel))]
    for m in [rows] if rows else [1, 2, 5, 16, 37]:
        data = np.random.default_rng(m).standard_normal((m, K), dtype=np.float32)
        results = []
        for run in runs:
            result = tvm.runtime.tensor(np.full((m, N), np.nan, "float32"))
            run(tvm.runtime.tensor(data), tvm.runtime.tensor(packed), result)
            results.append(result.numpy())
        np.testing.assert_array_equal(*results)
        np.testing.assert_allclose(results[0], data @ weights(), rtol=1e-4, atol=1e-4)


def test_a_kernel_of_fixed_size_is_the_same_code_without_them() -> None:
    kernel, _ = product(9)
    assembly = [built(kernel, w).inspect_source("asm") for w in ((), unneeded(kernel))]
    assert assembly[0] == assembly[1]


def test_only_open_kernels_keep_names_of_places() -> None:
    left_out = [set(unneeded(product(rows)[0])) for rows in (None, 9)]
    assert left_out[0] - left_out[1] >= {"s_tir.StmtSimplify"}
    assert left_out[1] < left_out[0]


def test_blocks_of_the_default_schedule_get_all_passes() -> None:
    assert unneeded(softmax()) == ()


def test_every_name_is_a_pass_of_the_pipeline() -> None:
    """TVM says nothing about a pass to leave out that it does not have."""
    seen: set[str] = set()

    @tvm.ir.instrument.pass_instrument
    class Names:
        def run_before_pass(self, _: Any, info: Any) -> None:
            seen.add(str(info.name))

    kernel, _ = product(None)
    named = IRModule({"main": kernel.with_attr("global_symbol", "main")})
    with tvm.transform.PassContext(opt_level=3, instruments=[Names()]):
        tirx.build(named, target=HOST.to_tvm())
    assert set(unneeded(kernel)) <= seen


def test_functions_are_grouped_by_what_they_need() -> None:
    kernels = {relax.GlobalVar(str(i)): f for i, f in enumerate((product(None)[0], product(9)[0], softmax()))}
    groups = by_passes(kernels)
    assert sorted(len(group) for group in groups.values()) == [1, 1, 1]
    assert all(unneeded(func) == key for key, group in groups.items() for func in group.values())
