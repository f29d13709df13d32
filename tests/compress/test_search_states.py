"""Searches that choose ranks of what recurrent layers multiply their states with."""

from __future__ import annotations

import logging
import sys
from typing import Any

import networks
import numpy as np
import onnx
import pytest
from test_lowrank import low, node, value, weight
from test_lowrank_states import HIDDEN, recurrent, samples

import dlcomp
from dlcomp.compress import progress
from dlcomp.compress.data import Calibration
from dlcomp.compress.judge import Score
from dlcomp.compress.lowrank.states import state_layers
from dlcomp.compress.network import Network
from dlcomp.compress.search.levels import family
from dlcomp.compress.search.sensitivity import sensitivities

PASS = dlcomp.LowRank(method="whitened", of="parameters")


def last_states(name: str) -> onnx.ModelProto:
    """An LSTM of whose outputs the last state alone is read."""
    stored = [weight("w", 1, 4 * HIDDEN, 8), low("r", 4 * HIDDEN, HIDDEN)]
    array = onnx.numpy_helper.to_array(stored[1])[None]
    stored[1] = networks.constant("r", array * 0.2, "float32")
    # Biases that are stored take what factors leave out, and no new ones are needed.
    stored.append(weight("b", 1, 8 * HIDDEN))
    made = node("LSTM", ["x", "w", "r", "b"], ["", "y"], name=name, hidden_size=HIDDEN)
    return networks.model([made], [value("x", [10, 1, 8])], [value("y", [1, 1, HIDDEN])], stored)


def stored_sizes(network: Network) -> dict[str, int]:
    """Weights of the recurrent layer: of its inputs, and of its states whole or in factors."""
    (layer,) = (n for n in network.nodes if n.op_type in ("LSTM", "GRU", "RNN"))
    makers = {n.output[0]: n for n in network.nodes}
    found = {}
    for part, place in (("inputs", 1), ("states", 2)):
        name = layer.input[place]
        names = [name] if name in network.weights else makers[name].input
        found[part] = sum(network.weights[one].size for one in names)
    return found


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "options"), [("LSTM", {}), ("GRU", {"linear_before_reset": 1})])
def test_levels_of_the_states_change_them_alone(kind: str, options: Any, direction: str) -> None:
    model = dlcomp.load(recurrent(kind, direction, **options))
    before = Network(model)
    chosen = family(PASS, before, "size")
    levels = chosen.levels["layer_states"]
    sizes = []
    for level in (levels[0], levels[-1]):
        made = Network(model.compress(chosen.of({"layer_states": level}), calibration=samples(8)))
        assert stored_sizes(made)["inputs"] == stored_sizes(before)["inputs"]
        sizes.append(stored_sizes(made)["states"])
        # No rank is below 8.
        whole = stored_sizes(before)["states"]
        least = 8 * (whole // HIDDEN + HIDDEN * (2 if direction == "bidirectional" else 1))
        assert sizes[-1] <= max(level.value * whole, least)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("name", ["layer", ""])
def test_layers_whose_states_nobody_reads_are_timed(name: str) -> None:
    """With and without a name of their own; what a level saves is counted in bytes, MACs and time."""
    model = dlcomp.load(last_states(name))
    base = Network(model)
    chosen = family(PASS, base, "speed")
    (layer,) = state_layers(base)
    assert layer.name in chosen.levels
    data = Calibration(samples(8), model.signature)

    def evaluate(network: Network) -> Score:
        return Score(1, None, 1.0, 0.5, 0.5)

    trials = sensitivities(base, chosen, data, evaluate, lambda score: score.kl, "speed")[layer.name]
    assert len(trials) == len(chosen.levels[layer.name])
    for trial in trials:
        made = Network(model.compress(chosen.of({layer.name: trial.level}), calibration=samples(8)))
        spared = stored_sizes(base)["states"] - stored_sizes(made)["states"]
        assert trial.timing is not None
        assert trial.saved_macs == 10 * spared
        assert trial.saved_bytes == 4 * spared


def test_states_that_cannot_be_factored_are_no_choice() -> None:
    """A GRU that resets its state before the product, a layer to keep, and states=no."""
    plain = recurrent("LSTM", "forward")
    for network, options in (
        (recurrent("GRU", "forward"), {}),
        (recurrent("LSTM", "forward", clip=3.0), {}),
        (plain, {"states": False}),
        (plain, {"keep": ("^layer$",)}),
    ):
        found = family(dlcomp.LowRank(**options), Network(dlcomp.load(network)), "size")
        assert "layer_states" not in found.levels
    assert "layer_states" in family(PASS, Network(dlcomp.load(plain)), "size").levels


def test_a_search_factors_states_within_its_limit() -> None:
    network = recurrent("LSTM", "forward")
    limit = 0.05
    budget = dlcomp.Budget(max_error=limit, goal="size")
    found = dlcomp.search(dlcomp.load(network), PASS, budget, calibration=samples(60))
    assert "layer_states" in found.choice
    (chosen,) = (one for one in found.curve if one.choice == found.choice)
    assert chosen.score.error <= limit
    # No network is made twice.
    made = [frozenset((layer, level.name) for layer, level in one.choice.items()) for one in found.curve]
    assert len(made) == len(set(made))
    assert found.bytes[1] < found.bytes[0]
    before, after = (stored_sizes(Network(m)) for m in (dlcomp.load(network), found.model))
    assert after["states"] < before["states"]
    # The steps' product has nearly rank 6, so most of it goes.
    assert found.macs[0] - found.macs[1] == 10 * (before["states"] - after["states"]) + 10 * (
        before["inputs"] - after["inputs"]
    )


def test_a_search_says_how_long_it_will_take(caplog: pytest.LogCaptureFixture) -> None:
    model = dlcomp.load(recurrent("LSTM", "forward"))
    with caplog.at_level(logging.INFO, logger="dlcomp"):
        dlcomp.search(model, PASS, dlcomp.Budget(max_error=0.5, goal="size"), calibration=samples(30))
    count = len(family(PASS, Network(model), "size").levels)
    said = [r.getMessage() for r in caplog.records if "layers tried" in r.getMessage()]
    assert [text.split(" layers")[0] for text in said] == [f"{n + 1} of {count}" for n in range(count)]
    assert said[-1].split("about ")[1].startswith("0 s")


def test_of_two_bars_the_outer_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    pairs = [(a, b) for a in progress.shown(range(3), "outer") for b in progress.shown(range(2), "inner")]
    assert pairs == [(a, b) for a in range(3) for b in range(2)]
    # One that is left early is over, too.
    for _ in progress.shown(range(3), "outer"):
        break
    assert list(progress.shown(np.arange(2), "again")) == [0, 1]
