"""Histograms of a stream: exact extremes, counts that no order of batches changes; and their ranges."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcomp.compress.observe import Histogram
from dlcomp.compress.quantize.grid import grid_of_range
from dlcomp.compress.quantize.ranges import METHODS, range_of

RNG = np.random.default_rng(0)


def seen(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array.astype("float32"))
    return histogram


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_order_and_batches_do_not_matter(values: list[float], random: object) -> None:
    whole = seen(np.array(values))
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = seen(*(np.array([v]) for v in shuffled))
    assert (whole.low, whole.high) == (min(values), max(values)) == (parts.low, parts.high)
    assert whole.counts.sum() == parts.counts.sum() == len(values)
    assert whole.limit == parts.limit
    # A value on the border of two bins may fall to either side after merging, no other moves.
    assert np.abs(np.cumsum(whole.counts) - np.cumsum(parts.counts)).max() <= len(values) // 2 + 1
    width = 2 * whole.limit / len(whole.counts)
    found = np.repeat(whole.centres, whole.counts)
    assert np.abs(found - np.sort(values)).max() <= width * 1.01


def test_what_is_not_finite_is_left_out() -> None:
    histogram = seen(np.array([1.0, np.nan, np.inf, -np.inf, -2.0]))
    assert (histogram.low, histogram.high, histogram.counts.sum()) == (-2.0, 1.0, 2)
    assert range_of(seen(np.array([np.nan])), "mse", 256, False) == (0.0, 1.0)


def test_memory_is_that_of_the_bins() -> None:
    """Ten thousand pictures would not fit; the histogram of ten is as large as that of one."""
    batch = RNG.standard_normal((1, 3, 224, 224)).astype("float32")
    histogram = Histogram()
    histogram.add(batch)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        histogram.add(batch)
    assert tracemalloc.get_traced_memory()[0] - before < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_hold_zero_and_lie_within_the_extremes(method: str, symmetric: bool) -> None:
    for values in (RNG.standard_normal(10_000), RNG.random(5000) + 3, -RNG.random(5000), np.full(10, 7.0)):
        histogram = seen(values)
        low, high = range_of(histogram, method, 256, symmetric)
        most = max(abs(values.min()), abs(values.max())) * 1.001 + 2 * histogram.limit / 4096
        assert -most <= low <= 0 <= high <= most
        assert high > low
        assert not symmetric or low == -high


def test_percentiles_are_those_of_numpy() -> None:
    values = RNG.standard_normal(200_000).astype("float32")
    histogram = seen(values)
    low, high = range_of(histogram, "percentile", 256, False)
    width = 2 * histogram.limit / 4096
    np.testing.assert_allclose([low, high], np.percentile(values, [0.005, 99.995]), atol=2 * width)


@pytest.mark.parametrize("levels", [4, 16, 64, 256])
def test_least_squares_is_no_worse_than_any_other(levels: int) -> None:
    values = np.concatenate([RNG.standard_normal(50_000), [30.0, -25.0]]).astype("float32")
    histogram = seen(values)

    def error(method: str) -> float:
        low, high = range_of(histogram, method, levels, False)
        step = (high - low) / (levels - 1)
        rounded = np.clip(np.rint((values - low) / step), 0, levels - 1) * step + low
        return float(((values - rounded) ** 2).mean())

    errors = {method: error(method) for method in METHODS}
    assert errors["mse"] <= 1.02 * min(errors.values())
    if levels <= 16:
        assert errors["mse"] < 0.2 * errors["minmax"]
        assert errors["entropy"] < errors["minmax"]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-(2.0**100), 0, width=32),
    st.floats(0, 2.0**100, width=32),
    st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    st.booleans(),
)
def test_zero_is_a_number_of_every_grid(low: float, high: float, dtype: str, symmetric: bool) -> None:
    grid = grid_of_range(low, high, dtype, symmetric)
    info = np.iinfo(dtype)
    assert info.min <= int(grid.zero) <= info.max
    assert np.isfinite(grid.scale)
    assert grid.scale > 0
    integers = grid.integers(np.zeros(3, "float32"), info.min, info.max)
    assert (grid.reals(integers) == 0).all()
