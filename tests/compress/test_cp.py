"""Convolutions as sums of products of three vectors: the factors, and the layers that they become."""

from __future__ import annotations

from itertools import pairwise

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lowrank import NETWORKS, convolution, outputs, samples, subject

import dlcomp
from dlcomp.compress.lowrank import cp
from dlcomp.compress.lowrank.choose import Candidate, all_ranks
from dlcomp.compress.lowrank.cp import composed, most_rank, parallel_factors
from dlcomp.compress.lowrank.write import write
from dlcomp.compress.recipe import parse
from dlcomp.errors import UsageError


def loss(tensor: np.ndarray, factors: list[np.ndarray]) -> float:
    return float(((tensor - composed(factors)) ** 2).sum() / (tensor**2).sum())


@given(st.integers(1, 4), st.integers(6, 14), st.integers(5, 12), st.integers(4, 9), st.integers(0, 1000))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_a_sum_of_few_products_is_found(rank: int, o: int, i: int, t: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = composed([rng.standard_normal((size, rank)) for size in (o, i, t)])
    # Twice the rank: there alternating least squares seldom ends beside the solution.
    assert loss(made, parallel_factors(made, 2 * rank)) < 1e-4


def test_no_sweep_makes_the_error_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = np.random.default_rng(0).standard_normal((12, 10, 9))
    errors = []
    for sweeps in range(1, 25, 3):
        monkeypatch.setattr(cp, "_SWEEPS", sweeps)
        errors.append(loss(tensor, parallel_factors(tensor, 14)))
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_factors_do_not_grow_against_each_other() -> None:
    """A limit of sums of two products that is none itself: its best factors of rank 2 would be infinite."""
    x, y = np.eye(4)[:2]
    one = (
        np.einsum("a,b,c->abc", x, x, y) + np.einsum("a,b,c->abc", x, y, x) + np.einsum("a,b,c->abc", y, x, x)
    )
    factors = parallel_factors(one, 2)
    assert loss(one, factors) < 0.05
    assert max(np.abs(factor).max() for factor in factors) < 100


def test_more_rank_is_nearer() -> None:
    tensor = np.random.default_rng(1).standard_normal((16, 12, 9))
    errors = [
        loss(tensor, parallel_factors(tensor, rank)) for rank in (8, 16, 32, 64, most_rank(tensor.shape))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("name", ["square", "dilated"])
@pytest.mark.parametrize("data", [False, True])
def test_the_layers_compute_the_composed_weight(name: str, data: bool) -> None:
    """1x1, each channel alone, 1x1; strides, pads and dilations stay with the middle one, in onnxruntime."""
    network = NETWORKS[name]()
    inputs = samples(network)
    copy, layer = subject(network, inputs if data else None)
    stages, made = Candidate("cp", (16,), 0, 0, 0.0).stages(layer)
    assert [stage.groups for stage in stages] == [1, 16, 1]
    write(copy, layer, stages, made)
    copy.drop_unread()
    onnx.checker.check_model(copy.proto, full_check=True)
    found = outputs(copy.proto, inputs)
    # The same convolution with the composed weight and the bias that the pass wrote.
    whole = onnx.ModelProto()
    whole.CopyFrom(network)
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}
    written = {t.name: networks.numpy_helper.to_array(t) for t in copy.proto.graph.initializer}
    last = copy.proto.graph.node[-1]
    stored["w"].CopyFrom(networks.constant("w", made.reshape(layer.weight.shape), "float32"))
    stored["bias"].CopyFrom(networks.constant("bias", written[last.input[2]], "float32"))
    right = outputs(whole, inputs)
    np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(right).max())


def test_data_make_the_outputs_nearer() -> None:
    network = NETWORKS["square"]()
    inputs = samples(network)
    right = outputs(network, inputs)
    errors = []
    for given_ in (None, inputs):
        copy, layer = subject(network, given_)
        stages, made = Candidate("cp", (16,), 0, 0, 0.0).stages(layer)
        write(copy, layer, stages, made)
        errors.append(float(((outputs(copy.proto, inputs) - right) ** 2).mean()))
    assert errors[1] < errors[0]


def test_every_candidate_is_smaller_and_the_largest_is_the_best() -> None:
    _, layer = subject(convolution((8, 8), 24, 32, (3, 3), pads=[1] * 4), None)
    found = sorted(all_ranks(layer, "cp"), key=lambda one: one.ranks)
    assert len(found) >= 4
    assert all(one.macs < layer.own_macs for one in found)
    # More ranks than outputs, which a matrix does not have.
    assert found[-1].ranks[0] > 32
    assert [one.error for one in found] == sorted((one.error for one in found), reverse=True)


def test_a_network_of_such_layers() -> None:
    network = convolution((8, 8), 24, 32, (3, 3), pads=[1] * 4)
    model = dlcomp.load(network)
    inputs = samples(network)
    small = model.compress(parse("lowrank:method=cp,of=parameters,target=0.4"), calibration=inputs)
    (account,) = small.history[-1].effect["by_layer"].values()
    assert account["method"] == "cp"
    assert account["parameters"][1] <= 0.4 * account["parameters"][0]
    found = small.compile().run({"x": inputs[:1]})["y"]
    (right,) = outputs(small.source, inputs[:1])
    np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize("rule", ["energy", "evbmf"])
def test_ranks_without_singular_values(rule: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be chosen by {rule}"):
        dlcomp.LowRank(method="cp", rule=rule)
    assert dlcomp.LowRank(method="cp", rule=rule, targets={"layer": 0.5}).targets
