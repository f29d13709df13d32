"""Depthwise convolutions of 8-bit integers against NumPy: every arithmetic, every tail, sums to the bit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import prepared, run, template
from test_assembly import loops
from test_integers import HERE

from dlcomp.schedules import select
from dlcomp.schedules.cpu.arithmetic import arithmetic_of
from dlcomp.schedules.workload import Window2d, from_text, to_text
from dlcomp.target import Target

NAME = "depthwise.integer"


def expected(data: np.ndarray, weight: np.ndarray, wl: Window2d) -> np.ndarray:
    """The sums, in 64 bits, of an image that is padded with the workload's number."""
    high, wide = (wl.oh - 1) * wl.sh + 1, (wl.ow - 1) * wl.sw + 1
    below = max(0, high + (wl.kh - 1) * wl.dh - wl.top - wl.h)
    right = max(0, wide + (wl.kw - 1) * wl.dw - wl.left - wl.w)
    widths = ((0, 0), (wl.top, below), (wl.left, right), (0, 0))
    padded = np.pad(data.astype(np.int64), widths, constant_values=wl.filling)
    total = np.zeros((wl.n, wl.oh, wl.ow, wl.c), np.int64)
    for ky in range(wl.kh):
        for kx in range(wl.kw):
            under = padded[:, ky * wl.dh :, kx * wl.dw :][:, : high : wl.sh, : wide : wl.sw]
            total += under * weight[:, ky, kx, 0].astype(np.int64)
    return total


# What data and weights are chosen from.
EXTREMES: dict[str, tuple[Any, Any]] = {
    "any": (np.arange(256), np.arange(-128, 128)),
    "least": ([255], [-128]),
    "largest": ([255], [127]),
    "ends": ([0, 255], [-128, 127]),
}


def operands(wl: Window2d, which: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    data, weight = EXTREMES[which]
    x = rng.choice(data, (wl.n, wl.h, wl.w, wl.c)).astype(np.uint8)
    w = rng.choice(weight, (wl.c, wl.kh, wl.kw, 1))
    return x, w.astype(arithmetic_of(wl.arithmetic).weight)


@st.composite
def windows(draw: st.DrawFn, arithmetic: str) -> Window2d:
    axes = {}
    for axis in "hw":
        k, d, s = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
        out = draw(st.integers(1, 21))
        span = (out - 1) * s + (k - 1) * d + 1
        before = draw(st.integers(0, min(span - 1, 4)))
        size = draw(st.integers(max(1, span - before - 4), span - before + 2))
        axes[axis] = (size, out, k, s, d, before)
    h, w = axes["h"], axes["w"]
    n = draw(st.integers(1, 2))
    c = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 48, 64, 65, 96]))
    filling = draw(st.sampled_from([0, 1, 128, 255]))
    return Window2d(
        "depthwise", n, h[0], w[0], c, h[1], w[1], h[2], w[2], h[3], w[3], h[4], w[4], h[5], w[5], 0, 0,
        arithmetic, filling,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "target"), HERE)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_depthwise_convolution(name: str, target: str, data: st.DataObject) -> None:
    workload = data.draw(windows(name))
    knobs = data.draw(st.sampled_from(list(template(NAME).space(workload, Target.parse(target)))))
    bands = data.draw(st.integers(1, min(3, workload.oh)))
    knobs = {**knobs, "bands": -(-workload.oh // -(-workload.oh // bands))}
    x, w = operands(workload, data.draw(st.sampled_from(list(EXTREMES))))
    shape = (workload.n, workload.oh, workload.ow, workload.c)
    found = run(NAME, workload, knobs, [x, w], shape, target)
    np.testing.assert_array_equal(found, expected(x, w, workload))


@pytest.mark.parametrize(("name", "target"), HERE)
@pytest.mark.parametrize("which", EXTREMES)
def test_sums_of_extremes_do_not_saturate(name: str, target: str, which: str) -> None:
    """Windows of 15 x 15, whose sums need 24 bits, and padding at either end of what 8 bits hold."""
    for filling in (0, 255):
        workload = Window2d("depthwise", 1, 20, 20, 40, 20, 20, 15, 15, 1, 1, 1, 1, 7, 7, 7, 7, name, filling)
        x, w = operands(workload, which)
        knobs = template(NAME).choose(workload, Target.parse(target))
        found = run(NAME, workload, knobs, [x, w], (1, 20, 20, 40), target)
        np.testing.assert_array_equal(found, expected(x, w, workload))


def test_images_wider_than_the_first_cache() -> None:
    """The words of a line are made for a run of outputs after the other."""
    workload = Window2d("depthwise", 1, 4, 700, 64, 4, 700, 3, 5, 1, 1, 1, 1, 1, 2, 1, 2, HERE[-1][0], 9)
    x, w = operands(workload, "any")
    knobs = template(NAME).choose(workload, Target.host())
    found = run(NAME, workload, knobs, [x, w], (1, 4, 700, 64))
    np.testing.assert_array_equal(found, expected(x, w, workload))


def test_a_workload_survives_its_text() -> None:
    workload = Window2d("depthwise", 1, 9, 9, 8, 9, 9, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, "s16x2", 5)
    assert from_text(to_text(workload)) == workload


# Of the target: its name, the register that tiles are in, and the instructions of one step.
CODE: dict[str, tuple[str, str, str]] = {
    "x86_64-linux-gnu:haswell": ("s16x2", "ymm", "vpmaddwd"),
    "x86_64-linux-gnu:znver4": ("u8s8x4", "[yz]mm", "vpdpbusd"),
    "aarch64-linux-gnu:cortex-a72": ("s16", r"v\d+\.4s", r"smlal2?|mla"),
}


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_tile_stays_in_registers(name: str, kernel: int) -> None:
    """A multiply-add for every tap of a row of the window, nothing on the stack, no element by itself."""
    arithmetic, register, multiply = CODE[name]
    target, p = Target.parse(name), kernel // 2
    workload: Any = Window2d(
        "depthwise", 1, 28, 28, 64, 28, 28, kernel, kernel, 1, 1, 1, 1, p, p, p, p, arithmetic, 7
    )
    found = select(workload, target)
    assert found is not None
    chosen, knobs = found
    assert chosen.name == NAME
    x, w = operands(workload, "any")
    module, _ = prepared(NAME, workload, knobs, [x, w], target)
    assembly = tvm.tirx.build(module, target=target.to_tvm()).inspect_source("asm")
    inner = [loop for loop in loops(assembly) if loop.count(f"(?:{multiply})")]
    assert inner
    best = max(inner, key=lambda loop: loop.count(f"(?:{multiply})"))
    assert best.count(f"(?:{multiply})") % kernel == 0
    assert best.count(f"(?:{multiply})") >= knobs["rows"] * kernel
    if target.vector_registers > 16:  # else weights that all tiles share are kept on the stack
        assert not best.on_stack
    used = [line for line in best.lines if re.match(rf"(?:{multiply})\b", line)]
    assert all(re.search(register, line) for line in used)
    assert not best.count("vp(?:insr|extr|gather).*|umov|ins")
