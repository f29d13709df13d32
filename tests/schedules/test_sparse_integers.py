"""Integer products by weights of which whole vectors are zeros: to the bit, in every arithmetic and form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run, template

from dlcomp.schedules import select
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.cpu.word_rows import Turned
from dlcomp.schedules.sparsity import counts, groups, left_in_groups, vectors
from dlcomp.schedules.workload import Gemm
from dlcomp.target import Target

NAME = "gemm.block_sparse_integers"
HASWELL = "x86_64-linux-gnu:haswell"
# The arithmetics that the machine of the test can compute with, and a target that each is for.
HERE = [("s16", "host"), ("s16x2", HASWELL), ("s16x2", "host")]
if integer_arithmetic(Target.host(), "int8") == "u8s8x4":
    HERE.append(("u8s8x4", "host"))


def sparse(
    rng: np.random.Generator, k: int, n: int, density: float, width: int = 16, group: int = 1
) -> np.ndarray:
    """(k, n) of 8 bits and both extremes, ``density`` of the blocks of ``width`` by ``group`` left."""
    kept = rng.random((-(-k // group), -(-n // width))) < density
    mask = np.repeat(np.repeat(kept, width, axis=1)[:, :n], group, axis=0)[:k]
    return rng.choice([-128, 127, 1, *range(-90, 90, 7)], (k, n)) * mask


def stored(weight: np.ndarray, width: int, group: int) -> str:
    """As :func:`left_in_groups` says it, however much is left."""
    parts = [f"{width}:{int(vectors(weight, width).sum())}"]
    if group > 1:
        parts.append(f"{width}x{group}:{int(vectors(weight, width, group).sum())}")
    return " ".join(parts)


@pytest.mark.parametrize(("name", "target"), HERE)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_extents_densities_and_forms(name: str, target: str, data: st.DataObject) -> None:
    kinds = arithmetic_of(name)
    m, n = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    k = data.draw(st.integers(1, 30)) * kinds.group
    density = data.draw(st.sampled_from([0.0, 0.02, 0.2, 0.5, 1.0]))
    width = data.draw(st.sampled_from([8, 16, 32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    weight = sparse(rng, k, n, density, width, data.draw(st.sampled_from([1, kinds.group])))
    x = rng.integers(0, 256, (m, k)) if kinds.data == "uint8" else rng.integers(-128, 256, (m, k))
    workload = Gemm(m, n, k, name, stored(weight, width, kinds.group))
    space = list(template(NAME).space(workload, Target.parse(target)))
    assert {knobs["group"] for knobs in space} == {1, kinds.group}
    knobs = data.draw(st.sampled_from(space))
    operands = [x.astype(kinds.data), weight.astype(kinds.weight)]
    found = run(NAME, workload, knobs, operands, (m, n), target)
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))


@pytest.mark.parametrize(("name", "target"), HERE)
def test_deep_products_do_not_saturate(name: str, target: str) -> None:
    """All inputs and weights at an extreme, so many that offsets need more than 16 bits."""
    kinds = arithmetic_of(name)
    k = 60_000
    low, high = (0, 255) if kinds.data == "uint8" else (-128, 255)
    kept = np.arange(k) % 5 != 1
    for extreme, size in ((high, -128), (high, 127), (low, -128)):
        x = np.full((4, k), extreme)
        weight = np.where(kept[:, None], size, 0) * np.ones((1, 16), int)
        workload = Gemm(4, 16, k, name, stored(weight, 16, kinds.group))
        for knobs in ({"rows": 4, "group": 1}, {"rows": 1, "group": 1}, {"rows": 4, "group": kinds.group}):
            operands = [x.astype(kinds.data), weight.astype(kinds.weight)]
            found = run(NAME, workload, {**knobs, "width": 16, "shares": 1}, operands, (4, 16), target)
            np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))


@given(st.integers(1, 40), st.integers(1, 200), st.sampled_from(["uint8", "int16"]))
@settings(deadline=None)
def test_places_of_turned_rows_are_apart_and_can_be_inverted(rows: int, depth: int, kind: str) -> None:
    turned = Turned(rows, depth, kind)
    assert rows % turned.band == 0
    places = turned.places()
    taken = places[:, None] + np.arange(turned.band)
    assert len(np.unique(taken)) == taken.size
    assert taken.max() < turned.size
    for column in {0, depth // 2, depth - 1}:
        assert int(turned.column(_index(places[column]))) == column


def _index(value: int) -> object:
    from dlcomp.schedules.cpu.emit import const

    return const(int(value))


def test_what_is_left_counts_vectors_and_groups() -> None:
    rng = np.random.default_rng(0)
    assert left_in_groups(sparse(rng, 64, 64, 1.0), 4) == ""
    assert left_in_groups(sparse(rng, 64, 64, 0.3, width=1), 4) == ""  # zeros anywhere
    apart, together = sparse(rng, 256, 64, 0.4), sparse(rng, 256, 64, 0.4, group=4)
    assert groups(left_in_groups(apart, 4)) == {}
    found = left_in_groups(together, 4)
    assert groups(found)[16, 4] * 4 == counts(found)[16] == np.count_nonzero(together) // 16
    # With one input a step a vector is a group.
    assert groups(left_in_groups(together, 1)) == {}


def test_zeros_are_skipped_where_that_is_faster() -> None:
    rng = np.random.default_rng(0)
    target = Target.host()
    name = integer_arithmetic(target, "int8")
    group = arithmetic_of(name).group
    for m in (1, 4, 64):
        for density, expected in ((0.2, NAME), (0.95, "gemm.packed")):
            text = left_in_groups(sparse(rng, 512, 256, density), group)
            found = select(Gemm(m, 256, 512, name, text), target)
            assert found is not None
            assert found[0].name == expected


def test_neighbours_that_are_zeros_together_are_read_as_they_are() -> None:
    """Blocks of 16x4 need no words of their own, and the estimate knows."""
    target = Target.host()
    name = integer_arithmetic(target, "int8")
    group = arithmetic_of(name).group
    weight = sparse(np.random.default_rng(0), 512, 256, 0.2, group=group)
    for m in (1, 64):
        found = select(Gemm(m, 256, 512, name, left_in_groups(weight, group)), target)
        assert found is not None
        assert found[1]["group"] == group
