"""Tensor trains: the error that was asked for, the ranks that are needed, and where they win."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcomp.compress.lowrank.tensor_train import (
    _even,
    low_rank_parameters,
    smallest_train,
    tensor_train,
)

sides = st.lists(st.integers(1, 4), min_size=2, max_size=4)


@given(sides, st.data(), st.sampled_from([0.0, 0.01, 0.1, 0.5]), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_the_error_is_kept(rows: list[int], data: st.DataObject, error: float, seed: int) -> None:
    columns = data.draw(st.lists(st.integers(1, 4), min_size=len(rows), max_size=len(rows)))
    matrix = np.random.default_rng(seed).standard_normal((int(np.prod(rows)), int(np.prod(columns))))
    train = tensor_train(matrix, rows, columns, error)
    lost = float(((train.matrix() - matrix) ** 2).sum())
    assert lost <= (error + 1e-12) * float((matrix**2).sum())
    assert [core.shape[1:3] for core in train.cores] == list(zip(rows, columns, strict=True))
    assert train.parameters == sum(core.size for core in train.cores)


@given(st.integers(1, 3), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_sums_of_kronecker_products_need_as_many_ranks(terms: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = sum(np.kron(rng.standard_normal((4, 3)), rng.standard_normal((3, 5))) for _ in range(terms))
    assert tensor_train(np.asarray(matrix), (4, 3), (3, 5), 1e-20).ranks == (terms,)


@pytest.mark.parametrize(
    ("number", "count", "right"), [(784, 2, (28, 28)), (300, 3, (5, 6, 10)), (7, 2, (1, 7))]
)
def test_even_factors(number: int, count: int, right: tuple[int, ...]) -> None:
    assert _even(number, count) == right


def test_where_trains_win_and_where_they_do_not() -> None:
    """A blur along both axes, which has full rank, against noise of low rank."""
    place = np.arange(12)
    along = np.exp(-((place[:, None] - place) ** 2) / 8)
    blur = np.kron(along, along) + 0.1 * np.kron(along @ along, np.eye(12))
    assert smallest_train(blur, 1e-3).parameters < 0.2 * low_rank_parameters(blur, 1e-3)
    rng = np.random.default_rng(0)
    low = rng.standard_normal((96, 4)) @ rng.standard_normal((4, 144))
    assert low_rank_parameters(low, 1e-6) == 4 * (96 + 144)
    assert smallest_train(low, 1e-6).parameters > 2 * low_rank_parameters(low, 1e-6)
