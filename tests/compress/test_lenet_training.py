"""The retraining of ``benchmarks/lenet.py``: the same network in PyTorch, as few weights as asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'dlcomp[torch]'")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import lenet_torch
import torch
from lenet_net import SHAPES, fresh


@pytest.fixture(params=tuple(SHAPES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((64, 1, 28, 28), np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 10, 64)


def test_both_compute_the_same(kind: str, images: np.ndarray) -> None:
    net = fresh(kind, 3)
    weights, biases = ([torch.from_numpy(value) for value in some] for some in (net.weights, net.biases))
    made = lenet_torch.logits(torch.from_numpy(images), weights, biases).numpy()
    np.testing.assert_allclose(made, net.logits(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("density", [0.5, 0.05, 1e-9])
def test_as_many_weights_stay_as_asked_for(
    kind: str, density: float, images: np.ndarray, labels: np.ndarray
) -> None:
    net = fresh(kind, 4)
    made = lenet_torch.pruned(net, images, labels, density, 1, 0)
    total = sum(weight.size for weight in net.weights)
    assert sum(int(np.count_nonzero(weight)) for weight in made.weights) <= max(1, round(density * total))


def test_scores_do_not_see_the_scale_of_a_layer() -> None:
    random = np.random.default_rng(5)
    first, second = (torch.from_numpy(random.standard_normal((20, 30))) for _ in range(2))
    plain = lenet_torch.lamp_masks([first, second], 0.3)
    scaled = lenet_torch.lamp_masks([first * 1000, second / 1000], 0.3)
    assert all(torch.equal(one, other) for one, other in zip(plain, scaled, strict=True))


def test_trained_codebooks_keep_zeros_and_clusters(kind: str, images: np.ndarray, labels: np.ndarray) -> None:
    teacher = fresh(kind, 6)
    net = teacher.copy()
    net.weights = [np.round(weight * 20).clip(-3, 3).astype(np.float32) / 20 for weight in net.weights]
    made = lenet_torch.with_trained_codebooks(net, teacher, images, labels, 4, 0)
    for before, after in zip(net.weights, made.weights, strict=True):
        assert not after[before == 0].any()
        for value in np.unique(before):
            assert len(np.unique(after[before == value])) == 1
    assert any((before != after).any() for before, after in zip(net.weights, made.weights, strict=True))
