"""Blocked matrix products against NumPy: every kind of tail, several depths, copies and epilogues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run
from nets import Net, check, schedules

import dlcomp.schedules
from dlcomp.schedules.workload import BatchMatmul

TARGETS = ("host", "x86_64-linux-gnu:haswell")


def operands(batch: int, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * n + k)
    a = rng.standard_normal((batch, m, k), dtype=np.float32)
    b = rng.standard_normal((batch, k, n), dtype=np.float32)
    return a, b, a.astype("float64") @ b.astype("float64")


def compare(found: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.ptp(want) + 1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("copy_left", [0, 1])
@pytest.mark.parametrize(
    ("m", "n", "k", "rows", "width", "depth", "group"),
    [
        (12, 48, 40, 4, 16, 40, 3),  # nothing left over
        (13, 50, 41, 4, 16, 17, 2),  # something left over everywhere, the last depth shorter
        (7, 5, 33, 4, 8, 16, 1),  # fewer columns than a tile
        (2, 70, 64, 2, 24, 64, 1),  # half vectors
        (31, 16, 1, 6, 16, 1, 3),  # one product deep
    ],
)
def test_two_operands(
    m: int, n: int, k: int, rows: int, width: int, depth: int, group: int, copy_left: int, target: str
) -> None:
    knobs = {"rows": rows, "width": width, "depth": depth, "group": group, "copy_left": copy_left}
    for batch in (1, 3):
        a, b, want = operands(batch, m, n, k)
        workload = BatchMatmul(batch, m, n, k)
        found = run("matmul.blocked", workload, knobs, [a, b], want.shape, target, constant=False)
        compare(found, want)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(*[st.integers(2, 70)] * 3, st.integers(1, 6), st.sampled_from([8, 16, 24, 32]), st.integers(1, 70))
def test_any_size(m: int, n: int, k: int, rows: int, width: int, depth: int) -> None:
    knobs = {"rows": min(rows, m), "width": width, "depth": min(depth, k), "group": 2, "copy_left": k % 2}
    a, b, want = operands(1, m, n, k)
    compare(run("matmul.blocked", BatchMatmul(1, m, n, k), knobs, [a, b], want.shape, constant=False), want)


def test_the_epilogue_runs_after_the_last_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tuple(t for t in dlcomp.schedules.TEMPLATES if t.name.endswith(".blocked"))
    monkeypatch.setattr("dlcomp.schedules.TEMPLATES", blocked)
    network = Net()
    x, y, z = network.input(128, 3072), network.input(3072, 768), network.input(128, 768)
    network.output(network.op("Relu", network.op("Add", network.op("MatMul", x, y), z)))
    (artifact,) = check(network, targets=("host",))
    assert set(schedules(artifact, "matmul")) == {"matmul.blocked"}
