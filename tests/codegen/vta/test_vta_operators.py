"""Sums, means, pooling and several layers in one program, bit-equal to the integer reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import PIPELINED, check, conv

from dlcomp.codegen.vta import build_region, region_cycles
from dlcomp.codegen.vta.operators import (
    AveragePool,
    Concat,
    MaxPool,
    Mean,
    Requantize,
    Sum,
    Tensor,
    output_size,
)
from dlcomp.codegen.vta.reference import run_operator
from dlcomp.errors import UsageError
from dlcomp.vta import functional, isa
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.program import Program
from dlcomp.vta_targets import load

TARGETS = ("pynq", "batch4x8", "block32", "block64")
SHAPES = [(1, 64, 7, 7), (3, 20, 13, 9), (5, 70, 1, 1), (2, 130, 30, 31)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("left", "right", "shift"), [(0, 3, 4), (2, 0, -1), (0, 0, 0)])
def test_sum(target: str, shape: tuple[int, int, int, int], left: int, right: int, shift: int) -> None:
    a, b, c = (Tensor(name, shape) for name in "abc")
    check(
        [Sum("sum", a, b, c, left, right, Requantize(shift, -100, 120))],
        load(target),
        np.random.default_rng(0),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("multiplier", "shift"), [(16319, 20), (8256, 13), (1, 1), (64, 6)])
def test_mean(target: str, shape: tuple[int, int, int, int], multiplier: int, shift: int) -> None:
    one = Mean("mean", Tensor("a", shape), Tensor("b", (*shape[:2], 1, 1)), multiplier, Requantize(shift))
    check([one], load(target), np.random.default_rng(1))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 1), (1, 1)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 0, 1)])
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool(target: str, kernel: tuple[int, int], pads: tuple[int, int, int, int], ceil: bool) -> None:
    if any(pads[a] >= kernel[a] or pads[a + 2] >= kernel[a] for a in (0, 1)):
        pads = (0, 0, 0, 0)
    shape = (3, 20, 30, 31)
    size = [output_size(shape[2 + a], kernel[a], 2, (pads[a], pads[a + 2]), ceil=ceil) for a in (0, 1)]
    result = Tensor("b", (3, 20, size[0], size[1]))
    check(
        [MaxPool("pool", Tensor("a", shape), result, kernel, (2, 2), pads)],
        load(target),
        np.random.default_rng(2),
    )


def test_the_reference_of_max_pooling_never_lets_padding_win() -> None:
    one = MaxPool("pool", Tensor("a", (1, 1, 2, 2)), Tensor("b", (1, 1, 2, 2)), (2, 2), (1, 1), (0, 0, 1, 1))
    data = np.array([[[[-5, -7], [-100, -128]]]], np.int8)
    np.testing.assert_array_equal(run_operator(one, {"a": data}), [[[[-5, -7], [-100, -128]]]])


def average(
    shape: tuple[int, int, int, int], kernel: tuple[int, int], strides: tuple[int, int],
    pads: tuple[int, int, int, int], padding_counts: bool, shift: int = 14,
) -> AveragePool | None:  # fmt: skip
    """A pool whose multipliers are those of a true mean; None if a window would have nothing in it."""
    size = [output_size(shape[2 + a], kernel[a], strides[a], (pads[a], pads[a + 2])) for a in (0, 1)]
    if min(size) < 1 or any(max(pads[a], pads[a + 2]) >= kernel[a] for a in (0, 1)):
        return None
    result = Tensor("b", (*shape[:2], size[0], size[1]))
    one = AveragePool(
        "pool", Tensor("a", shape), result, kernel, strides, pads, (), Requantize(shift), padding_counts
    )
    counts = sorted({int(c) for c in one.counts().ravel()})
    pairs = tuple((count, min(16319, round(2**shift / count))) for count in counts)
    return dataclasses.replace(one, multipliers=pairs)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), target=st.sampled_from(TARGETS), batch=st.sampled_from([1, 2, 4]),
    channels=st.sampled_from([1, 16, 40]), size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)), pads=st.tuples(*[st.integers(0, 2)] * 4),
    padding_counts=st.booleans(),
)  # fmt: skip
def test_average_pool(
    seed: int, target: str, batch: int, channels: int, size: tuple[int, int], kernel: tuple[int, int],
    strides: tuple[int, int], pads: tuple[int, int, int, int], padding_counts: bool,
) -> None:  # fmt: skip
    if any(size[a] + pads[a] + pads[a + 2] < kernel[a] for a in (0, 1)):
        return
    one = average((batch, channels, *size), kernel, strides, pads, padding_counts)
    if one is not None:
        check([one], load(target), np.random.default_rng(seed))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("size", "kernel"), [((2, 900), (3, 3)), ((35, 35), (3, 3)), ((21, 22), (11, 13))], ids=str
)
def test_average_pools_that_must_be_cut(target: str, size: tuple[int, int], kernel: tuple[int, int]) -> None:
    one = average((1, 20, *size), kernel, (1, 1), (1, 1, 1, 1), False)
    assert one is not None
    check([one], load(target), np.random.default_rng(0))


def test_the_reference_of_average_pooling_is_the_mean_of_what_is_inside() -> None:
    one = average((1, 1, 2, 2), (2, 2), (1, 1), (1, 1, 0, 0), False)
    assert one is not None
    data = np.array([[[[10, 21], [30, 40]]]], np.int8)
    # Windows of one, two, two and four elements; halves up.
    np.testing.assert_array_equal(run_operator(one, {"a": data}), [[[[10, 16], [20, 25]]]])


def test_an_average_of_a_window_that_fits_nowhere_is_named() -> None:
    one = average((1, 16, 60, 60), (50, 50), (1, 1), (0, 0, 0, 0), False, 20)
    assert one is not None
    with pytest.raises(UsageError, match="pool: a window of 50x50 needs more than 2048 elements"):
        build_region([one], ["b"], load("pynq"), PIPELINED)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), target=st.sampled_from(TARGETS), batch=st.sampled_from([1, 2, 4]),
    channels=st.lists(st.integers(1, 40), min_size=1, max_size=4), shift=st.integers(-2, 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
def test_concat(
    seed: int, target: str, batch: int, channels: list[int], shift: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    sources = tuple(Tensor(f"in{n}", (batch, c, *size)) for n, c in enumerate(channels))
    result = Tensor("out", (batch, sum(channels), *size))
    shifts = tuple(int(s) for s in rng.integers(0, 7, len(channels)))
    check([Concat("join", sources, result, shifts, Requantize(shift, -100, 120))], load(target), rng)


def test_a_tensor_joined_with_itself_on_a_large_picture() -> None:
    rng = np.random.default_rng(0)
    one = Tensor("in", (1, 24, 60, 61))
    join = Concat("join", (one, one), Tensor("out", (1, 48, 60, 61)), (0, 1), Requantize(1))
    check([join], load("pynq"), rng)


def test_a_pool_that_fits_nowhere_is_named() -> None:
    one = MaxPool(
        "wide", Tensor("a", (1, 16, 4, 900)), Tensor("b", (1, 16, 3, 899)), (2, 2), (1, 1), (0,) * 4
    )
    with pytest.raises(UsageError, match=r"wide: one row of outputs needs 2 rows of 900 accumulators"):
        build_region([one], ["b"], load("pynq"), PIPELINED)


def network(rng: np.random.Generator, batch: int) -> list:
    """A residual block, pooling, a mean and a dense layer: everything reads what another layer stored."""
    a, b, c = (Tensor(name, (batch, 24, 8, 8)) for name in "abc")
    pads = (1, 1, 1, 1)
    first = conv(rng, (batch, 5, 8, 8), 24, pads=pads, name="first", result=a)
    second = conv(rng, a.shape, 24, pads=pads, name="second", data=a, result=b)
    both = Sum("sum", a, b, c, 0, 1, Requantize(1, 0, 127))
    d, e = Tensor("d", (batch, 24, 4, 4)), Tensor("e", (batch, 24, 1, 1))
    pool = MaxPool("pool", c, d, (2, 2), (2, 2), (0, 0, 0, 0))
    mean = Mean("mean", d, e, 8192, Requantize(16))
    last = conv(
        rng, e.shape, 10, (1, 1), name="last", data=e, result=Tensor("f", (batch, 10, 1, 1)), wide=True
    )
    return [first, second, both, pool, mean, last]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("contexts", [1, 2])
def test_layers_of_one_program(target: str, contexts: int) -> None:
    rng = np.random.default_rng(7)
    check(network(rng, 3), load(target), rng, contexts=contexts)


def test_two_layers_of_one_name_are_refused() -> None:
    rng = np.random.default_rng(0)
    a, b = Tensor("a", (1, 24, 1, 1)), Tensor("b", (1, 16, 1, 1))
    first = conv(rng, (1, 8, 1, 1), 24, (1, 1), result=a)
    second = conv(rng, a.shape, 16, (1, 1), data=a, result=b)
    with pytest.raises(UsageError, match=r"two buffers are called 'layer\.bias'"):
        build_region([first, second], ["b"], load("pynq"), PIPELINED)


def test_cycles_of_layers_add_up() -> None:
    from dlcomp.vta.cycles import simulate

    config = load("pynq")
    region = build_region(network(np.random.default_rng(7), 1), ["f"], config, PIPELINED)
    rows = region_cycles(region, config, PIPELINED)
    assert [row.name for row in rows] == ["first", "second", "sum", "pool", "mean", "last"]
    assert sum(row.cycles for row in rows) == simulate(region.program, config, PIPELINED).cycles
    assert all(row.cycles > row.gemm_cycles > 0 for row in rows)


@pytest.mark.parametrize("token", ["push_next", "push_prev"])
def test_no_token_is_for_nothing(token: str) -> None:
    """Without any one of them, and the pop that it meets, the program is wrong and the simulator says so."""
    config = load("pynq")
    region = build_region(network(np.random.default_rng(7), 1), ["f"], config, PIPELINED)
    code = list(region.program.instructions(config))
    values = {"data": np.zeros(8 * 8 * 16, np.int8)}
    functional.run(region.program, config, values)
    pushing = [index for index, one in enumerate(code) if getattr(one, token)]
    for index in pushing[:: max(1, len(pushing) // 12)]:
        changed = list(code)
        changed[index] = dataclasses.replace(code[index], **{token: False})
        with pytest.raises(ProgramFault):
            functional.run(Program.of(config, changed, region.program.buffers), config, values)


def test_results_stay_on_the_device_between_layers() -> None:
    """Only inputs and outputs of the region are the host's; int8 in between is scratch memory."""
    config = load("pynq")
    region = build_region(network(np.random.default_rng(7), 1), ["f"], config, PIPELINED)
    kinds = {buffer.name: buffer.kind for buffer in region.program.buffers}
    assert {name: kinds[name] for name in ("data", "a", "b", "c", "d", "e", "f")} == {
        "data": "input", "a": "scratch", "b": "scratch", "c": "scratch", "d": "scratch", "e": "scratch",
        "f": "output",
    }  # fmt: skip
    assert any(isinstance(one, isa.Store) for one in region.program.instructions(config))
