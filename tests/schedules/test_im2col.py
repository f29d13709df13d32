"""Convolution by im2col against ONNX's reference: tails, borders, strides, and chunks of patches."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import convolved, run, template
from nets import Net, schedules

import dlcomp
from dlcomp.schedules import ON_REQUEST, select
from dlcomp.schedules.workload import Conv2d
from dlcomp.target import Target

HOST = Target.host()


def check(workload: Conv2d, seed: int, pick: int) -> None:
    rng = np.random.default_rng(seed)
    wl = workload
    data = rng.standard_normal((wl.n, wl.h, wl.w, wl.ci), dtype=np.float32)
    weight = rng.standard_normal((wl.co, wl.kh, wl.kw, wl.ci), dtype=np.float32)
    space = template("conv2d.im2col").space(wl, HOST)
    wanted = convolved(data, weight, wl)
    found = run("conv2d.im2col", wl, space[pick % len(space)], [data, weight], wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    channels=st.tuples(st.sampled_from([1, 3, 16, 21]), st.sampled_from([1, 16, 33])),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    pad=st.integers(0, 2),
    batch=st.integers(1, 2),
)
def test_any_convolution(
    seed: int, size: tuple[int, int], channels: tuple[int, int], kernel: tuple[int, int], stride: int,
    pad: int, batch: int,
) -> None:  # fmt: skip
    out = [(s + 2 * pad - k) // stride + 1 for s, k in zip(size, kernel, strict=True)]
    ci, co = channels
    check(Conv2d(batch, *size, ci, *out, co, *kernel, stride, stride, 1, 1, pad, pad, 1), seed, seed)


def test_more_patches_than_the_cache_holds() -> None:
    check(Conv2d(1, 40, 41, 64, 40, 41, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1), 0, 0)


def test_only_on_request() -> None:
    workload = Conv2d(1, 14, 14, 64, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1)
    chosen = select(workload, HOST)
    assert chosen is not None
    assert chosen[0].name not in ON_REQUEST


def test_no_compilation_takes_it() -> None:
    network = Net()
    network.output(network.conv(network.input(1, 32, 12, 12), 32, 32, (3, 3), pads=(1, 1, 1, 1)))
    model = dlcomp.load(network.model())
    for options in ({}, {"winograd": False}, {"winograd": False, "strassen": True, "sparse": False}):
        assert schedules(model.compile(**options), "conv2d")[0] in (
            "default",
            "conv2d.direct",
            "conv2d.winograd",
        )
