"""Chains that take fewer multiplications and more time are not taken where time is what counts."""

from __future__ import annotations

import math

import pytest
from test_lowrank import NETWORKS, convolution, subject

import dlcomp
from dlcomp.compress.lowrank.choose import all_ranks
from dlcomp.compress.lowrank.speed import chain_cycles, dense_cycles, is_known
from dlcomp.errors import UsageError
from dlcomp.target import Target

ZEN = "x86_64-linux-gnu:znver4"


def small_and_large() -> tuple[dlcomp.Model, dlcomp.Model]:
    """An image of few pixels and channels, and one of many, where chains save more than their calls take."""
    shapes = (((5, 5), 16, 16), ((28, 28), 128, 128))
    return tuple(dlcomp.load(convolution(*shape, (3, 3), pads=[1] * 4)) for shape in shapes)  # type: ignore


@pytest.mark.parametrize("method", ["tucker2", "svd", "cp"])
def test_a_chain_that_is_not_faster_needs_size_as_its_purpose(method: str) -> None:
    model, _ = small_and_large()
    asked = {"method": method, "target": 0.6, "data": False, "processor": ZEN}
    effect = model.compress(dlcomp.LowRank(**asked)).history[-1].effect
    assert effect["layers"] == 0
    assert effect["no_faster"] == ["layer"]
    assert effect["macs"][0] == effect["macs"][1]
    effect = model.compress(dlcomp.LowRank(**asked, of="parameters")).history[-1].effect
    (layer,) = effect["by_layer"].values()
    assert "no_faster" not in effect
    assert layer["cycles"][1] >= layer["cycles"][0]
    assert layer["parameters"][1] <= 0.6 * layer["parameters"][0]


def test_a_layer_with_its_own_target_is_not_asked() -> None:
    model, _ = small_and_large()
    pass_ = dlcomp.LowRank(method="tucker2", targets={"layer": 0.6}, data=False, processor=ZEN)
    assert model.compress(pass_).history[-1].effect["layers"] == 1


def test_a_chain_that_is_faster_is_taken() -> None:
    _, model = small_and_large()
    pass_ = dlcomp.LowRank(method="tucker2", target=0.3, data=False, processor=ZEN)
    (layer,) = model.compress(pass_).history[-1].effect["by_layer"].values()
    assert layer["cycles"][1] < 0.7 * layer["cycles"][0]


@pytest.mark.parametrize("rule", ["energy", "evbmf"])
def test_other_rules_ask_too(rule: str) -> None:
    model, _ = small_and_large()
    pass_ = dlcomp.LowRank(method="tucker2", rule=rule, energy=0.5, data=False, processor=ZEN)
    assert model.compress(pass_).history[-1].effect["layers"] == 0


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("LSTM", "GRU")])
@pytest.mark.parametrize("target", [ZEN, "x86_64-linux-gnu:haswell", "aarch64-linux-gnu:cortex-a72"])
def test_every_form_has_an_estimate(name: str, target: str) -> None:
    _, layer = subject(NETWORKS[name](), None)
    if name in ("pointwise", "square", "dilated"):
        # A subject without the shapes of the network: of images of unknown size nothing is said.
        assert not is_known(layer)
        return
    assert is_known(layer)
    resolved = Target.parse(target)
    assert 0 < dense_cycles(layer, resolved) < math.inf
    for candidate in all_ranks(layer, "svd"):
        assert 0 < chain_cycles(layer, candidate.shapes(layer), resolved) < math.inf


@pytest.mark.parametrize("method", ["svd", "tucker2", "spatial", "cp"])
def test_estimates_of_convolutions_grow_with_the_image(method: str) -> None:
    """With strides, pads and dilations, each stage on the image that it reads."""
    found = []
    for size in (12, 24, 48):
        network = convolution((size, size + 2), 24, 32, (3, 3), pads=[1, 0, 1, 2], strides=[2, 1])
        pass_ = dlcomp.LowRank(method=method, target=0.5, of="parameters", data=False, processor=ZEN)
        (layer,) = dlcomp.load(network).compress(pass_).history[-1].effect["by_layer"].values()
        assert all(0 < one < math.inf for one in layer["cycles"])
        found.append(layer["cycles"][1])
    assert found[0] < found[1] / 2 < found[2] / 5


def test_times_are_those_of_cpus() -> None:
    with pytest.raises(UsageError, match="not for cuda"):
        dlcomp.LowRank(processor="cuda:sm_90")
