"""Products with open sizes: any of them, any length, against NumPy."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tvm import tirx

import dlcomp
from dlcomp.schedules import templates
from dlcomp.schedules.cpu.emit import const
from dlcomp.schedules.cpu.open_runs import heights, runs
from dlcomp.schedules.cpu.open_small import is_large
from dlcomp.schedules.workload import BatchMatmul
from dlcomp.target import Target

# Which sizes are open, of (batch, heads, m, k, n): letters are open.
FORMS = {
    "scores": ("N", 3, "S", 8, "S"),
    "mix": ("N", 3, "S", "S", 20),
    "texts of two": ("N", 1, "S", 32, "T"),
    "depth": (2, 1, 5, "K", 33),
    "rows": (1, 2, "M", 7, 40),
    "columns": (1, 1, 6, 9, "C"),
    "batch": ("N", 2, 17, 12, 19),
}


def network(form: str) -> Any:
    """A product, and what is fused behind it: a scale, a number for each row, and a long function."""
    n, heads, m, k, c = FORMS[form]
    one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (
        ("a", [n, heads, m, k]), ("b", [n, heads, k, c]), ("mask", [n, 1, m, 1]))]  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["p"]),
        helper.make_node("Mul", ["p", "scale"], ["q"]),
        helper.make_node("Add", ["q", "mask"], ["r"]),
        helper.make_node("Gelu", ["r"], ["y"]),
    ]
    scale = [helper.make_tensor("scale", TensorProto.FLOAT, [], [0.25])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "product", one, outputs, scale)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@functools.cache
def compiled(form: str) -> Any:
    return dlcomp.load(network(form)).compile()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_size(form: str, data: st.DataObject) -> None:
    letters = sorted({size for size in FORMS[form] if isinstance(size, str)})
    given_sizes = {letter: data.draw(st.integers(1, 70 if letter != "N" else 3)) for letter in letters}
    n, heads, m, k, c = (given_sizes.get(size, size) for size in FORMS[form])
    rng = np.random.default_rng(m * 71 + k * 7 + c)
    a, b, mask = (
        rng.standard_normal(shape).astype("float32")
        for shape in ((n, heads, m, k), (n, heads, k, c), (n, 1, m, 1))
    )
    x = (a.astype("float64") @ b) * 0.25 + mask
    wanted = x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    found = compiled(form).run({"a": a, "b": b, "mask": mask})["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * max(1, np.abs(x).max()))


@pytest.mark.parametrize("form", FORMS)
def test_the_template_computes_it(form: str) -> None:
    assert [k.schedule for k in compiled(form).kernels if k.schedule.startswith("matmul.open")]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 16), st.integers(1, 100))
def test_runs_cover_every_place_at_the_least_cost(rows: int, extent: int) -> None:
    """A run of a known extent takes the tiles that cost the least, and none reaches beyond it."""
    sizes = heights(rows)
    taken: list[tuple[Any, int]] = []

    def tile(start: Any, size: int) -> Any:
        taken.append((start, size))
        return tirx.Evaluate(const(0))

    runs(const(extent), sizes, lambda size: size + 2, tile)
    ((_, size),) = taken
    costs = {s: -(-extent // s) * (s + 2) for s in sizes if s <= extent}
    assert costs[size] == min(costs.values())


def test_other_templates_leave_open_sizes() -> None:
    for workload in (BatchMatmul(0, 0, 0, 32), BatchMatmul(12, 64, 0, 64), BatchMatmul(0, 8, 8, 8)):
        takers = [t.name for t in templates() if t.accepts(workload, Target.parse("host"))]
        assert takers == ["matmul.open"]


@pytest.mark.parametrize(
    ("shapes", "decided"),
    [([(4, 8)], False), ([(1024, 64)], True), ([(1024, 64), ("S", 3)], True), ([("S", 3), (4, 4)], None)],
)
def test_the_run_decides_only_what_fixed_sizes_leave_open(shapes: Any, decided: bool | None) -> None:
    size = tirx.Var("S", "int64")
    buffers = [tirx.decl_buffer([size if d == "S" else d for d in dims], "float32") for dims in shapes]
    found = is_large(buffers)
    assert (bool(int(found)) if isinstance(found, tirx.IntImm) else None) == decided


@pytest.mark.parametrize("cores", [1, 2])
def test_small_and_large_runs_of_one_kernel(cores: int) -> None:
    """Sums, means and functions of a few values and of many, by one artifact."""
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in (
        ("x", ["n", "s", 48]), ("y", None), ("z", None)))  # fmt: skip
    nodes = [
        helper.make_node("Softmax", ["x"], ["y"], axis=1),
        helper.make_node("ReduceMean", ["y"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["y", "m"], ["z"]),
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "rows", [x], [y, z]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=9,
    )
    artifact = dlcomp.load(made).compile()
    for n, s in ((1, 1), (1, 7), (2, 900), (3, 170), (1, 341), (1, 342)):
        value = np.random.default_rng(s).standard_normal((n, s, 48)).astype("float32")
        found = artifact.run({"x": value}, threads=cores)
        share = np.exp(value - value.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        np.testing.assert_allclose(found["y"], share, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(found["z"], share - share.mean(1, keepdims=True), rtol=1e-4, atol=1e-6)
