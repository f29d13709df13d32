"""Minimal filtering: the algorithm in exact arithmetic, and the kernels against onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check, schedules

import dlcomp
import dlcomp.schedules
from dlcomp.schedules.cpu.cook_toom import apply, matrices
from dlcomp.schedules.cpu.winograd import WinogradConv2d
from dlcomp.schedules.workload import Conv2d
from dlcomp.target import Target


@pytest.fixture(autouse=True, scope="module")
def nothing_else_for_convolutions() -> Iterator[None]:
    """Which processor prefers which algorithm is not the subject here."""
    left = tuple(t for t in dlcomp.schedules.TEMPLATES if t.name != "conv2d.direct")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlcomp.schedules.TEMPLATES", left)
        yield


# F(4x4) loses about three bits of a float's 24 against the direct method, relative to the output's range.
TOLERANCE = 2e-5


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_filter(m: int) -> None:
    output, filters, data = matrices(m, 3)
    rng = np.random.default_rng(m)
    signal, taps = rng.standard_normal(m + 2), rng.standard_normal(3)
    found = output @ ((filters @ taps) * (data @ signal))
    np.testing.assert_allclose(found, np.correlate(signal, taps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [2, 4])
def test_shared_sums_are_the_product(m: int) -> None:
    held = []
    for matrix in (matrices(m, 3)[0], matrices(m, 3)[2]):
        x = np.random.default_rng(0).standard_normal(m + 2)
        found = apply(matrix, list(x), lambda value: held.append(value) or value)
        np.testing.assert_allclose(found, matrix @ x, rtol=1e-12, atol=1e-12)
    assert held


def net(n: int, c: int, h: int, w: int, o: int, pads: tuple[int, ...] = (1, 1, 1, 1)) -> Net:
    network = Net()
    x = network.input(n, c, h, w)
    network.output(network.conv(x, c, o, 3, pads=list(pads)))
    return network


@pytest.mark.parametrize(
    "shape",
    [
        (1, 16, 12, 12, 16),
        (1, 64, 56, 56, 64),
        (3, 33, 13, 7, 40),
        (2, 17, 5, 31, 67),
        (1, 96, 24, 20, 24),
        (1, 128, 7, 7, 256),
        (1, 16, 5, 33, 19, (0, 0, 0, 0)),
        (1, 24, 9, 9, 32, (2, 1, 0, 2)),
        (1, 20, 6, 6, 20, (3, 3, 3, 3)),
    ],
)
def test_equals_onnxruntime(shape: tuple) -> None:
    for artifact in check(net(*shape), tolerance=TOLERANCE):
        assert schedules(artifact, "conv2d") == ["conv2d.winograd"]


def test_the_epilogue_runs_on_every_pixel_once() -> None:
    network = Net()
    x = network.input(2, 32, 11, 14)
    y = network.op("Relu", network.conv(x, 32, 32, 3))
    z = network.op("Add", network.conv(y, 32, 32, 3), x)
    network.output(network.op("HardSwish", z))
    check(network, tolerance=TOLERANCE)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(16, 40),
    st.integers(3, 15),
    st.integers(3, 15),
    st.integers(16, 50),
    st.tuples(*[st.integers(0, 3)] * 4),
)
def test_any_geometry(n: int, c: int, h: int, w: int, o: int, pads: tuple[int, ...]) -> None:
    check(net(n, c, h, w, o, pads), tolerance=TOLERANCE)


def test_the_definition_is_the_convolution() -> None:
    """What fusion works on, and what would run if no epilogue could be taken apart."""
    import tvm
    from tvm import te

    template, target = WinogradConv2d(), Target.host()
    workload = Conv2d(1, 6, 5, 16, 6, 5, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1)
    rng = np.random.default_rng(1)
    image, weight = (rng.standard_normal(s).astype("float32") for s in ((1, 6, 5, 16), (16, 3, 3, 16)))
    for m in (2, 4):
        knobs = {"m": m, "tiles": 2, "rows": 2, "width": 16}
        operands = [image, *template.pack(workload, knobs, weight)]
        tensors = [te.placeholder(o.shape, "float32") for o in operands]
        function = te.create_prim_func([*tensors, template.compute(workload, knobs, *tensors)])
        run = tvm.tirx.build(function, target=target.to_tvm())
        found = tvm.runtime.tensor(np.zeros((1, 6, 5, 16), "float32"))
        run["main"](*(tvm.runtime.tensor(o) for o in operands), found)
        padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
        want = np.zeros((6, 5, 16))
        for ky in range(3):
            for kx in range(3):
                want += padded[ky : ky + 6, kx : kx + 5] @ weight[:, ky, kx].T.astype("float64")
        np.testing.assert_allclose(found.numpy()[0], want, rtol=0, atol=TOLERANCE * np.ptp(want))


def test_it_can_be_refused() -> None:
    model = dlcomp.load(net(1, 32, 12, 12, 32).model())
    assert schedules(model.compile(winograd=False), "conv2d") == ["default"]
    assert schedules(model.compile(), "conv2d") == ["conv2d.winograd"]
