"""Where zeros stand, and how many a layer gets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcomp.compress.sparsify.allocate import by_threshold, erk
from dlcomp.compress.sparsify.patterns import Pattern, lowest
from dlcomp.errors import UsageError

RNG = np.random.default_rng(0)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 17),
    st.integers(1, 9),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_blocks_go_as_a_whole(
    outputs: int, inputs: int, rows: int, columns: int, sparsity: float, seed: int
) -> None:
    """Exactly the share of blocks, partial ones at the edges included, and never one of more score."""
    scores = np.random.default_rng(seed).random((outputs, inputs))
    kept = Pattern(rows, columns).kept_mask(scores, sparsity)
    gone, least = [], []
    for row in range(0, outputs, rows):
        for column in range(0, inputs, columns):
            block = kept[row : row + rows, column : column + columns]
            assert block.all() or not block.any()
            total = scores[row : row + rows, column : column + columns].sum()
            (least if block.all() else gone).append(total)
    blocks = math.ceil(outputs / rows) * math.ceil(inputs / columns)
    assert len(gone) == round(sparsity * blocks)
    assert not gone or not least or max(gone) <= min(least) + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), st.data())
def test_of_every_m_neighbours_the_best_n_stay(outputs: int, groups: int, data: st.DataObject) -> None:
    of = data.draw(st.integers(2, 9))
    kept = data.draw(st.integers(1, of - 1))
    scores = RNG.random((outputs, groups * of))
    mask = Pattern.parse(f"{kept}:{of}").kept_mask(scores, 0.0).reshape(outputs, groups, of)
    assert (mask.sum(axis=-1) == kept).all()
    parts = scores.reshape(mask.shape)
    lost, left = np.where(mask, -np.inf, parts).max(axis=-1), np.where(mask, parts, np.inf).min(axis=-1)
    assert (lost <= left).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_equal_scores_go_in_order(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    mask = lowest(np.array(values), count)
    right = sorted(range(len(values)), key=lambda i: (values[i], i))[:count]
    assert np.flatnonzero(mask).tolist() == sorted(right)


@pytest.mark.parametrize(("text", "pattern"), [
    ("unstructured", Pattern()), ("2:4", Pattern(kept=2, of=4)),
    ("16x1", Pattern(16, 1)), ("1x8", Pattern(1, 8)),
])  # fmt: skip
def test_patterns_as_text(text: str, pattern: Pattern) -> None:
    assert Pattern.parse(text) == pattern


@pytest.mark.parametrize(
    "text", ["4:4", "0:4", "5:4", "0x1", "4x0", "2000x1", "16", "x", "2:", "rows", "-1x4"]
)
def test_patterns_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        Pattern.parse(text)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 5)), min_size=1, max_size=6),
    st.floats(0, 0.99),
)
def test_erk_has_the_target_over_all(shapes: list[tuple[int, int, int]], target: float) -> None:
    named = {str(i): shape for i, shape in enumerate(shapes)}
    found = erk(named, target)
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    assert all(-1e-9 <= share <= 1 for share in found.values())
    lost = sum(found[name] * sizes[name] for name in named)
    assert lost == pytest.approx(target * sum(sizes.values()), rel=1e-6, abs=1e-6)


def test_erk_is_that_of_the_paper() -> None:
    """Densities in the ratio of sum over product of the dimensions."""
    shapes = {"a": (64, 32, 3, 3), "b": (128, 64, 3, 3)}
    found = erk(shapes, 0.8)
    ratio = (1 - found["a"]) / (1 - found["b"])
    assert ratio == pytest.approx((102 / (64 * 32 * 9)) / (198 / (128 * 64 * 9)))


def test_one_threshold_for_all_layers() -> None:
    scores = {"a": RNG.random(1000), "b": 0.5 * RNG.random(500), "c": np.zeros(100)}
    found = by_threshold(scores, 1, 0.5)
    lost = {name: round(found[name] * scores[name].size) for name in scores}
    assert sum(lost.values()) == 800
    # A hundredth of a layer stays, even where all of it is worth nothing.
    assert lost["c"] == 99
    ranked = {name: np.sort(scores[name]) for name in ("a", "b")}
    below = max(ranked[name][lost[name] - 1] for name in ranked)
    assert below <= min(ranked[name][lost[name]] for name in ranked)
