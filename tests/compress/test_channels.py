"""Networks of fewer channels, against onnxruntime on the network as it was with those channels silenced."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Collection
from typing import Any

import networks
import numpy as np
import onnx
import pytest
import shrinkable
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import dlcomp
from dlcomp.compress import reconstruct
from dlcomp.compress.channels.budget import widths_for
from dlcomp.compress.channels.cells import cells_of, costs_of
from dlcomp.compress.channels.choose import CHOICES, Reader
from dlcomp.compress.channels.shrink import keeps, shrink
from dlcomp.compress.channels.trace import Trace, trace
from dlcomp.compress.layers import weight_of
from dlcomp.compress.network import Network
from dlcomp.compress.recipe import parse
from dlcomp.compress.refit import error_of
from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import count_macs
from dlcomp.runtime import peer

RNG = np.random.default_rng(0)


@functools.cache
def loaded(name: str) -> dlcomp.Model:
    return dlcomp.load(shrinkable.FAMILY[name]())


def outputs(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(peer.session(proto.SerializeToString(), 1, optimize=False).run(None, {"x": x})[0])


def silenced(traced: Trace, gone: Collection[int]) -> onnx.ModelProto:
    """The network with zeros for the weights that read the channels ``gone``, and all its channels."""
    network = traced.network.copy()
    for linked in traced.layers:
        if linked.inputs is None or linked.depthwise:
            continue
        layer = linked.layer
        array = weight_of(network, layer).copy()
        stays = keeps(traced, linked.inputs, gone).reshape(layer.groups, -1)
        rows = len(array) // layer.groups if layer.groups > 1 else len(array)
        for group, mask in enumerate(stays):
            part = array[group * rows : (group + 1) * rows]
            shape = [1] * part.ndim
            shape[1 - layer.axis] = len(mask)
            part *= mask.reshape(shape)
        network.set_weight(layer.node.input[layer.weight], array)
    return network.proto


@pytest.mark.parametrize("name", shrinkable.FAMILY)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_shrunk_network_is_the_silenced_one(name: str, data: st.DataObject) -> None:
    """Any channels of any cells, as long as one of each is left."""
    model = loaded(name)
    network = Network(model)
    traced = trace(network)
    gone: set[int] = set()
    for cell in cells_of(traced):
        roots = cell.roots.tolist()
        gone |= data.draw(st.sets(st.sampled_from(roots), max_size=len(roots) - 1))
    x = RNG.standard_normal([int(n) for n in model.signature.inputs[0].shape]).astype("float32")
    right = outputs(silenced(traced, gone), x)
    before = sum(array.size for array in network.weights.values())
    shrink(traced, gone)
    network.drop_unread()
    found = outputs(network.proto, x)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-3)
    assert not gone or sum(array.size for array in network.weights.values()) < before


def sizes(proto: onnx.ModelProto) -> dict[str, int]:
    return {cell.name: len(cell.roots) for cell in cells_of(trace(Network(dlcomp.load(proto))))}


def test_which_channels_go_together() -> None:
    assert {n: sizes(make()) for n, make in shrinkable.FAMILY.items()} == {
        "residual": {"a + e + h": 8, "c": 16},
        # The input is joined as well, which fixes nothing else.
        "joined": {"a + d": 4, "b + d": 8, "h": 6},
        "depthwise": {"a + c + g + j": 8, "e": 4, "k": 8},
        # Two groups of 4 inputs and 6 outputs each.
        "grouped": {"a": 4, "c": 6, "e": 8},
        "flattened": {"a": 8, "first": 10, "i": 8},
        "stored": {"a": 8, "g": 8},
        "sequence": {"widen": 16, "narrow": 8, "conv": 8},
    }


@pytest.mark.parametrize(("kind", "attributes"), [
    ("LRN", {"size": 3}), ("Softmax", {"axis": 1}), ("DepthToSpace", {"blocksize": 2}),
    ("LpNormalization", {"axis": 1}),
])  # fmt: skip
def test_channels_that_others_see_stay(kind: str, attributes: dict[str, Any]) -> None:
    """Operators that mix channels fix those that they read, and no others."""
    inputs = 2 if kind == "DepthToSpace" else 8
    proto = shrinkable.net(
        shrinkable.conv("x", "a", 8, 3), shrinkable.conv("a", "b", 8, 8),
        helper.make_node(kind, ["b"], ["c"], **attributes), shrinkable.conv("c", "d", 8, inputs),
        shrinkable.head("d", 8),
    )  # fmt: skip
    assert sizes(proto) == {"a": 8, "d": 8}


def test_outputs_stay() -> None:
    """Also where they are read inside, and whatever is added to them."""
    proto = shrinkable.net(
        shrinkable.conv("x", "a", 8, 3), shrinkable.conv("a", "b", 8, 8), shrinkable.conv("b", "c", 8, 8),
        helper.make_node("Add", ["a", "c"], ["y"]), outputs=2,
    )  # fmt: skip
    assert sizes(proto) == {"b": 8}


def test_layers_that_are_kept() -> None:
    traced = trace(Network(loaded("residual")))
    assert [cell.name for cell in cells_of(traced, ("^e$",))] == ["c"]


@pytest.mark.parametrize("name", shrinkable.FAMILY)
def test_macs_are_those_of_the_network(name: str) -> None:
    """What a width is said to cost is what the shrunk network costs."""
    network = Network(loaded(name))
    traced = trace(network)
    cells = cells_of(traced)
    costs, rest = costs_of(traced, cells)
    assert rest == 0
    widths = [max(1, len(cell.roots) // 2) for cell in cells]
    said = [sum(c.macs(w) for c in costs) for w in ([len(cell.roots) for cell in cells], widths)]
    found = [count_macs(inferred(network.proto))]
    gone = {int(root) for cell, width in zip(cells, widths, strict=True) for root in cell.roots[width:]}
    shrink(traced, gone)
    found.append(count_macs(inferred(network.proto)))
    assert found == [pytest.approx(one) for one in said]


def reader(channels: int, taps: int, seed: int) -> Reader:
    rng = np.random.default_rng(seed)
    count = channels * taps
    mixed = rng.standard_normal((3 * count, count)) @ rng.standard_normal((count, count))
    hessian = mixed.T @ mixed / len(mixed) + 1e-3 * np.eye(count)
    columns = [np.arange(count)[channel::channels] for channel in range(channels)]
    return Reader(rng.standard_normal((4, count)), hessian, columns)


def best_error(one: Reader, gone: Collection[int]) -> float:
    """Without the columns of the channels ``gone`` and with the others fitted again, by equations."""
    left = np.setdiff1d(np.arange(len(one.hessian)), np.concatenate([one.columns[c] for c in gone]))
    made = np.zeros_like(one.weights)
    made[:, left] = np.linalg.solve(one.hessian[np.ix_(left, left)], (one.weights @ one.hessian)[:, left].T).T
    return error_of(made - one.weights, one.hessian)


@pytest.mark.parametrize("taps", [1, 4])
def test_obs_takes_the_channel_that_is_missed_least(taps: int) -> None:
    """Each step against all channels tried, and its cost against the least squares fit, for two readers."""
    readers = [reader(6, taps, 1), reader(6, taps, 2)]
    order, costs = CHOICES["obs"](readers, np.ones(6))

    def loss(gone: Collection[int]) -> float:
        return sum(best_error(one, gone) / one.energy for one in readers)

    for step in range(5):
        before = order[:step].tolist()
        tried = {c: loss([*before, c]) for c in range(6) if c not in before}
        assert order[step] == min(tried, key=lambda c: tried[c])
        assert costs[step] == pytest.approx(min(tried.values()), rel=1e-6)


def test_lasso_takes_what_adds_nothing_first() -> None:
    """A channel that nobody weighs, then one that is small; the cost is that of leaving them out."""
    one = reader(5, 2, 3)
    weights = one.weights.copy()
    weights[:, one.columns[3]] = 0.0
    weights[:, one.columns[1]] *= 0.01
    one = Reader(weights, one.hessian, one.columns)
    order, costs = CHOICES["lasso"]([one], np.ones(5))
    assert order[:2].tolist() == [3, 1]
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    lost = weights.copy()
    lost[:, np.setdiff1d(np.arange(10), np.concatenate([one.columns[c] for c in order[:2]]))] = 0.0
    assert costs[1] == pytest.approx(error_of(lost, one.hessian) / one.energy)
    assert costs[-1] == pytest.approx(1.0)


def test_magnitude_takes_the_smallest_filters() -> None:
    order, costs = CHOICES["magnitude"]([], np.array([3.0, 1.0, 4.0, 2.0]))
    assert order.tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(costs, [0.1, 0.3, 0.6, 1.0])


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 1.0), st.sampled_from([1, 2, 4, 8]), st.integers(0, 99))
def test_widths_fit_the_budget(target: float, multiple: int, seed: int) -> None:
    """Within it, multiples or as they were, and no cell could be a step wider."""
    traced = trace(Network(loaded("residual")))
    cells = cells_of(traced)
    costs, rest = costs_of(traced, cells)
    rng = np.random.default_rng(seed)
    curves = [np.cumsum(np.sort(rng.random(len(cell.roots)))) for cell in cells]
    full = [len(cell.roots) for cell in cells]

    def macs(widths: list[int]) -> float:
        return rest + sum(cost.macs(widths) for cost in costs)

    most = target * macs(full)
    least = [multiple if n > multiple else n for n in full]
    if macs(least) > most:
        with pytest.raises(UsageError, match="MACs cannot fall to"):
            widths_for(cells, curves, costs, rest, target, multiple)
        return
    widths = widths_for(cells, curves, costs, rest, target, multiple)
    assert macs(widths) <= most
    assert all(w == n or (w % multiple == 0 and w >= multiple) for w, n in zip(widths, full, strict=True))
    for place, (width, size) in enumerate(zip(widths, full, strict=True)):
        if width < size:
            assert macs([*widths[:place], min(size, width + multiple), *widths[place + 1 :]]) > most


@pytest.mark.parametrize(("name", "macs"), [("residual", 0.7), ("joined", 0.8)])
def test_repair_helps(name: str, macs: float) -> None:
    """Nearer to the network as it was, at the same widths; the account is that of the network."""
    model = loaded(name)
    x = RNG.standard_normal((64, 3, 8, 8)).astype("float32")

    def answers(one: Any) -> np.ndarray:
        return np.concatenate([outputs(one.source, x[i : i + 2]) for i in range(0, len(x), 2)])

    right, errors = answers(model), []
    for repair in (False, True):
        pass_ = dlcomp.PruneChannels(macs=macs, method="magnitude", multiple=2, repair=repair)
        small = model.compress(pass_, calibration=x)
        effect = small.history[-1].effect
        assert json.loads(json.dumps(effect)) == effect
        assert effect["macs"][1] <= macs * effect["macs"][0]
        assert effect["macs"][1] == count_macs(inferred(small.source))
        assert effect["channels"]
        assert [spec.shape for spec in small.signature.inputs] == [(2, 3, 8, 8)]
        errors.append(float(((answers(small) - right) ** 2).mean()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("method", ["lasso", "obs"])
def test_a_shrunk_network_takes_further_passes(method: str) -> None:
    """Chosen on data, then sparse, then of integers, compiled and run."""
    x = RNG.standard_normal((16, 3, 8, 8)).astype("float32")
    passes = [
        dlcomp.PruneChannels(macs=0.6, method=method, multiple=4, repair=False),
        dlcomp.Sparsify("magnitude", 0.3),
        dlcomp.Quantize(),
    ]
    small = loaded("depthwise").compress(*passes, calibration=x)
    assert [step.name for step in small.history[-3:]] == ["channels", "sparsify", "quantize"]
    found = small.compile().run({"x": x[:2]})["y"]
    right = outputs(small.source, x[:2])
    assert np.abs(found - right).max() < 0.05 * np.ptp(right)


@pytest.mark.parametrize(("text", "options"), [
    ("channels", {}),
    ("channels:macs=0.5,method=lasso,multiple=16,repair=no,keep=head|stem",
     {"macs": 0.5, "method": "lasso", "multiple": 16, "repair": False, "keep": ("head", "stem")}),
])  # fmt: skip
def test_passes_as_text(text: str, options: dict[str, Any]) -> None:
    assert parse(text) == dlcomp.PruneChannels(**options)


@pytest.mark.parametrize(("text", "reason"), [
    ("channels:macs=0", "above 0 and at most 1, not 0"),
    ("channels:macs=1.5", "not 1.5"),
    ("channels:method=best", "no method 'best'"),
    ("channels:multiple=0", "not of 0"),
    ("channels:damping=2", "not 2"),
    ("channels:keep=(", "cannot read the expression"),
])  # fmt: skip
def test_passes_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


def test_networks_that_are_refused() -> None:
    with pytest.raises(UsageError, match="needs inputs to observe"):
        loaded("residual").compress(dlcomp.PruneChannels())
    alone = dlcomp.PruneChannels(method="magnitude", repair=False)
    with pytest.raises(ModelError, match="no 9 channels that only layers inside it see"):
        dlcomp.load(networks.relu()).compress(alone)
    low = dlcomp.PruneChannels(macs=0.01, method="magnitude", repair=False, multiple=4)
    with pytest.raises(UsageError, match=r"cannot fall to 0\.01 of what they are, only to 0\.\d+"):
        loaded("residual").compress(low)


def test_every_choice_is_an_order_of_all() -> None:
    readers = [reader(7, 3, 5)]
    for choose, count in itertools.product(CHOICES.values(), [7]):
        order, costs = choose(readers, np.arange(1.0, count + 1))
        assert sorted(order.tolist()) == list(range(count))
        assert (np.diff(costs) >= -1e-9).all()


@pytest.mark.parametrize("name", ["residual", "grouped", "depthwise"])
def test_repair_in_bounded_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for the outputs of one layer at a time the repaired weights are the same."""
    samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype("float32")
    pass_ = dlcomp.PruneChannels(macs=0.8, multiple=2, method="magnitude")
    made = []
    for budget in (1 << 30, 1):
        monkeypatch.setattr(reconstruct, "_BUDGET", budget)
        made.append(Network(loaded(name).compress(pass_, calibration=samples)).weights)
    assert made[0].keys() == made[1].keys()
    for key, array in made[0].items():
        np.testing.assert_array_equal(made[1][key], array)
