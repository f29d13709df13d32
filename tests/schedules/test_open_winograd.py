"""Minimal filtering of images whose size only the run knows, against onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import TARGETS, Net, compare, reference, schedules

import dlcomp
import dlcomp.schedules
from dlcomp.schedules.cpu.open_winograd import OpenWinogradConv2d
from dlcomp.schedules.workload import Conv2d
from dlcomp.target import Target

# F(4x4) loses about three bits of a float's 24 against the direct method, relative to the output's range.
TOLERANCE = 2e-5
NAME = OpenWinogradConv2d.name
# Channels before and behind, and the padding (top, left, bottom, right).
FORMS = {
    "vectors": (32, 32, (1, 1, 1, 1)),
    "tails": (17, 43, (2, 1, 0, 3)),
    "no padding": (16, 40, (0, 0, 0, 0)),
}


@pytest.fixture(autouse=True, scope="module")
def nothing_else_for_convolutions() -> Iterator[None]:
    """Which processor prefers which algorithm is not the subject here."""
    left = tuple(t for t in dlcomp.schedules.TEMPLATES if t.name != "conv2d.open")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlcomp.schedules.TEMPLATES", left)
        yield


def network(form: str, whole: bool = False) -> Net:
    """A convolution; behind it a sum with another image, and a function of both."""
    ci, co, pads = FORMS[form]
    net = Net()
    x: Any = net.input("N", ci, "H", "W")  # type: ignore[arg-type]
    weight = net.weight(co, ci, 3, 3)
    if whole:
        weight = net.constant(net.rng.integers(-3, 4, (co, ci, 3, 3)).astype("float32"))
    y = net.op("Conv", x, weight, net.weight(co, scale=0.1), pads=list(pads))
    net.output(net.op("HardSwish", net.op("Add", y, net.weight(1, co, 1, 1))))
    return net


@functools.cache
def compiled(form: str, target: str) -> Any:
    return dlcomp.load(network(form).model()).compile(target)


def equals_onnxruntime(form: str, n: int, h: int, w: int) -> None:
    x = np.random.default_rng(h * 71 + w).standard_normal((n, FORMS[form][0], h, w)).astype("float32")
    want = reference(network(form).model(), {"x0": x})
    for target in TARGETS:
        artifact = compiled(form, target)
        assert schedules(artifact, "conv2d") == [NAME]
        compare(artifact, {"x0": x}, want, TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(1, 3, 3), (1, 3, 60), (2, 40, 5), (1, 56, 56), (5, 4, 4), (1, 33, 3)])
def test_some_sizes(form: str, size: tuple[int, int, int]) -> None:
    equals_onnxruntime(form, *size)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 3), st.integers(3, 40), st.integers(3, 40))
def test_any_size(form: str, n: int, h: int, w: int) -> None:
    equals_onnxruntime(form, n, h, w)


def test_a_pixel_does_not_depend_on_the_number_of_threads() -> None:
    x = np.random.default_rng(0).standard_normal((1, 32, 37, 50)).astype("float32")
    artifact = compiled("vectors", "host")
    one, two = (artifact.run({"x0": x}, threads=count) for count in (1, 2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])


def test_an_infinity_stays_in_the_tile_that_sees_it() -> None:
    x = np.random.default_rng(0).standard_normal((1, 16, 21, 21)).astype("float32")
    x[0, 0, 0, 0] = np.inf
    (found,) = compiled("no padding", "host").run({"x0": x}).values()
    assert not np.isfinite(found[:, :, 0, 0]).any()
    assert np.isfinite(found[:, :, 4:, :]).all()
    assert np.isfinite(found[:, :, :, 4:]).all()


def test_the_definition_is_the_convolution() -> None:
    """What fusion works on, and what would run if no epilogue could be taken apart."""
    import tvm
    from tvm import te, tirx

    template, target = OpenWinogradConv2d(), Target.host()
    workload = Conv2d(0, 0, 0, 16, 0, 0, 16, 3, 3, 1, 1, 1, 1, 0, 0, 1)
    rng = np.random.default_rng(1)
    image, weight = (rng.standard_normal(s).astype("float32") for s in ((1, 8, 7, 16), (16, 3, 3, 16)))
    n, h, w = (tirx.Var(name, "int64") for name in "nhw")
    want = np.zeros((6, 5, 16))
    for ky in range(3):
        for kx in range(3):
            want += image[0, ky : ky + 6, kx : kx + 5] @ weight[:, ky, kx].T.astype("float64")
    for m in (2, 4):
        knobs = {"m": m, "tiles": 2, "rows": 2, "width": 16}
        operands = [image, *template.pack(workload, knobs, weight)]
        tensors = [te.placeholder((n, h, w, 16), "float32")]
        tensors += [te.placeholder(o.shape, "float32") for o in operands[1:]]
        result = template.compute(workload, knobs, *tensors, shape=(n, h - 2, w - 2, 16))
        run = tvm.tirx.build(te.create_prim_func([*tensors, result]), target=target.to_tvm())
        found = tvm.runtime.tensor(np.zeros((1, 6, 5, 16), "float32"))
        run["main"](*(tvm.runtime.tensor(o) for o in operands), found)
        np.testing.assert_allclose(found.numpy()[0], want, rtol=0, atol=TOLERANCE * np.ptp(want))


def test_it_can_be_refused_and_is_not_for_whole_weights() -> None:
    """Sums of integers in float32 are exact, and stay so."""
    assert schedules(dlcomp.load(network("vectors").model()).compile(winograd=False), "conv2d") == ["default"]
    assert schedules(dlcomp.load(network("vectors", whole=True).model()).compile(), "conv2d") == ["default"]
