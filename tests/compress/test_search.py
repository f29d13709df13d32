"""Searches under a budget: how losses are counted, in which order layers change, and that limits hold."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import dlcomp
from dlcomp.cli import main
from dlcomp.compress.channels import PruneChannels
from dlcomp.compress.compare import compare
from dlcomp.compress.data import Calibration
from dlcomp.compress.judge import Judge, split
from dlcomp.compress.memory import Memory
from dlcomp.compress.network import Network
from dlcomp.compress.recipe import parse
from dlcomp.compress.search.levels import Level, family
from dlcomp.compress.search.path import Trial, path
from dlcomp.compress.search.sensitivity import weight_bytes
from dlcomp.compress.search.stopwatch import Stopwatch, Timing
from dlcomp.errors import CheckFailed, UsageError
from dlcomp.report.search import save_search_plot

RNG = np.random.default_rng(0)
node, value, weight = helper.make_node, networks.value, networks.weight
SAMPLES = RNG.standard_normal((60, 3, 8, 8)).astype("float32")


def scaled(name: str, by: float, *shape: int) -> onnx.TensorProto:
    array = by * onnx.numpy_helper.to_array(weight(name, *shape))
    return onnx.numpy_helper.from_array(array.astype("float32"), name)


def network() -> onnx.ModelProto:
    """Two convolutions and a classifier; the first layer's scale makes it the one that matters most."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[1] * 4, name="first"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2", "b2"], ["c"], pads=[1] * 4, name="second"),
        node("Relu", ["c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["y"], transB=1, name="head"),
    ]
    stored = [
        weight("w1", 16, 3, 3, 3), weight("b1", 16), weight("w2", 32, 16, 3, 3), weight("b2", 32),
        scaled("w3", 0.02, 5, 32), scaled("b3", 0.02, 5),
    ]  # fmt: skip
    return networks.model(nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 5])], stored)


@pytest.fixture(scope="module")
def model() -> dlcomp.Model:
    return dlcomp.load(network())


@pytest.fixture(scope="module")
def labels(model: dlcomp.Model) -> np.ndarray:
    """What the network itself says, but for every fifth sample."""
    artifact = model.compile()
    found = np.array([int(artifact.run({"x": sample[None]})["y"].argmax()) for sample in SAMPLES])
    return np.where(np.arange(len(found)) % 5 == 0, (found + 1) % 5, found)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 10**6))
def test_scores_are_those_of_numpy(batches: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.standard_normal((2, batches, 3, classes))
    labels = rng.integers(0, classes, (batches, 3))
    feeds = [{"x": np.array([i])} for i in range(batches)]
    judge = Judge(lambda feed: [before[feed["x"][0]]], feeds, list(labels))
    score = judge.score(lambda feed: [after[feed["x"][0]]])
    p, q = (np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in (before, after))
    assert score.samples == 3 * batches
    assert score.accuracy == pytest.approx((after.argmax(-1) == labels).mean())
    assert score.agreement == pytest.approx((after.argmax(-1) == before.argmax(-1)).mean())
    assert score.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert judge.before.kl == 0
    assert judge.before.agreement == 1


def test_accepted_classes_count_as_right() -> None:
    answers = np.eye(4)[None]
    accepted = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    judge = Judge(lambda _: list(answers), [{"x": np.zeros(4)}], [accepted])
    assert judge.before.accuracy == 0.75


def test_what_is_not_finite_is_as_wrong_as_can_be() -> None:
    judge = Judge(lambda _: [np.eye(2)], [{"x": np.zeros(2)}], None)
    score = judge.score(lambda _: [np.full((2, 2), np.nan)])
    assert score.kl == np.inf
    assert score.error == np.inf
    assert json.loads(json.dumps(score.to_json()), parse_constant=pytest.fail)["kl"] is None


@given(st.integers(2, 40), st.integers(2, 3))
def test_parts_share_no_sample_and_keep_their_labels(count: int, parts: int) -> None:
    class Feeds(Calibration):
        def __init__(self) -> None: ...

        def __iter__(self) -> Any:
            return iter([{"x": np.array([i])} for i in range(count)])

    if count < parts:
        with pytest.raises(UsageError, match="too few"):
            split(Feeds(), None, parts)
        return
    found = split(Feeds(), np.arange(count) * 10, parts)
    assert sorted(int(feed["x"][0]) for feeds, _ in found for feed in feeds) == list(range(count))
    for feeds, labels in found:
        assert labels is not None
        assert [10 * int(feed["x"][0]) for feed in feeds] == [int(label[0]) for label in labels]
    sizes = [len(feeds) for feeds, _ in found]
    assert max(sizes) - min(sizes) <= 1


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), max_size=5), min_size=1, max_size=5)
)
def test_a_path_only_becomes_dearer(layers: list[list[tuple[float, int]]]) -> None:
    trials = {
        str(i): [
            Trial(str(i), Level(str(j), j), loss, saved, 0, None) for j, (loss, saved) in enumerate(some)
        ]
        for i, some in enumerate(layers)
    }
    steps = path(trials, "size")
    losses = np.array([0.0, *(step.loss for step in steps)])
    gains = np.array([0.0, *(step.gain for step in steps)])
    prices = np.diff(losses) / np.diff(gains)
    assert (np.diff(gains) > 0).all()
    assert (np.diff(prices) >= -1e-6 * (1 + prices[1:])).all()
    # At the end every layer saves the most that it can.
    assert gains[-1] == pytest.approx(sum(max([0, *(saved for _, saved in some)]) for some in layers))


def test_a_layer_that_is_not_faster_is_no_step() -> None:
    slow = Timing(1.0, 1.0, 1.0, 0.95, 1.05)
    fast = Timing(1.0, 0.5, 2.0, 1.9, 2.1)
    trials = {
        name: [Trial(name, Level("8 bits", 8), 0.1, 100, 0, timing)]
        for name, timing in (("slow", slow), ("fast", fast), ("unknown", None))
    }
    assert [step.layer for step in path(trials, "speed")] == ["fast"]
    assert {step.layer for step in path(trials, "size")} == {"slow", "fast", "unknown"}


def test_memory_changes_nothing(model: dlcomp.Model) -> None:
    """Every pass that observes gives the same network from what is remembered."""
    for text in ("quantize", "sparsify:method=obs", "lowrank:method=whitened", "channels:macs=0.7"):
        data = Calibration(SAMPLES[:8], model.signature)
        plain = model.compress(parse(text), calibration=SAMPLES[:8])
        data.memory = Memory()
        for _ in range(2):
            made = Network(model)
            parse(text).rewrite(made, data)
            assert made.proto.graph.initializer
            arrays = {t.name: onnx.numpy_helper.to_array(t) for t in plain.source.graph.initializer}
            for name, array in arrays.items():
                np.testing.assert_array_equal(made.weights[name], array)


def test_memory_ends_where_it_is_full() -> None:
    memory = Memory(most=10)
    assert memory.takes(8)
    assert not memory.takes(8)
    assert memory.takes(2)


@pytest.mark.parametrize("text", ["quantize", "sparsify", "lowrank", "channels"])
def test_every_family_changes_the_layer_that_it_names_alone(model: dlcomp.Model, text: str) -> None:
    base = Network(model)
    chosen = family(parse(text), base, "size")
    data = Calibration(SAMPLES[:8], model.signature)
    assert set(chosen.levels) <= {"first", "second", "head"}
    for layer, levels in chosen.levels.items():
        assert levels
        changed = base.copy()
        chosen.of({layer: levels[-1]}).rewrite(changed, data)
        changed.drop_unread()
        others = {"first": "w1", "second": "w2", "head": "w3"}
        if text != "channels":
            for other, name in others.items():
                if other != layer:
                    np.testing.assert_array_equal(changed.weights[name], base.weights[name])
        assert weight_bytes(changed) < weight_bytes(base)


def test_a_search_for_size_holds_its_limits(model: dlcomp.Model, labels: np.ndarray) -> None:
    budget = dlcomp.Budget(max_kl=0.01, goal="size")
    found = dlcomp.search(model, dlcomp.Sparsify(), budget, calibration=SAMPLES, labels=labels)
    assert found.choice
    best = [made for made in found.curve if made.choice == found.choice]
    assert best[0].score.kl <= 0.01
    assert found.bytes[1] < found.bytes[0]
    assert found.samples == {"observe": 20, "choose": 20, "report": 20}
    # What the history says is enough to make the same network again.
    account = found.model.history[-1].effect
    assert account["search"]["layers"] == {layer: level.name for layer, level in found.choice.items()}
    for layer, level in found.choice.items():
        assert account["sparsity"][layer] == pytest.approx(level.value, abs=0.02)
    assert found.to_json()["after"]["samples"] == 20
    # A larger limit never leaves more bytes.
    wider = dlcomp.search(model, dlcomp.Sparsify(), replace(budget, max_kl=0.2), calibration=SAMPLES)
    assert wider.bytes[1] <= found.bytes[1]


def test_a_search_stops_where_bytes_are_few_enough(model: dlcomp.Model) -> None:
    whole = weight_bytes(Network(model))
    budget = dlcomp.Budget(max_bytes=whole // 2, goal="size")
    small = model.compress(dlcomp.Quantize(), calibration=SAMPLES, budget=budget)
    assert weight_bytes(Network(small)) <= whole // 2
    with pytest.raises(CheckFailed, match="with all"):
        model.compress(dlcomp.Quantize(), calibration=SAMPLES, budget=replace(budget, max_bytes=10))
    with pytest.raises(CheckFailed, match="loses too much"):
        model.compress(dlcomp.Sparsify(), calibration=SAMPLES, budget=replace(budget, max_error=1e-9))


def test_layers_that_are_not_faster_stay(model: dlcomp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopwatch, "layers", lambda *_: Timing(1.0, 1.0, 1.0, 0.99, 1.01))
    with pytest.raises(CheckFailed, match="no layer becomes faster"):
        dlcomp.search(model, dlcomp.Quantize(), dlcomp.Budget(max_kl=1.0), calibration=SAMPLES)


def test_the_stopwatch_times_what_differs(model: dlcomp.Model) -> None:
    from dlcomp.compress.layers import layers_of

    base = Network(model)
    layers = list(layers_of(base))
    watch = Stopwatch(base)
    assert watch.layers(base.copy(), layers) is None
    changed = base.copy()
    PruneChannels(widths={"second": 8}, repair=False, method="magnitude").rewrite(changed, None)
    timing = watch.layers(changed, layers)
    assert timing is not None
    assert timing.before > 0
    assert timing.after > 0


@pytest.mark.parametrize(("text", "message"), [
    ("sparsify:targets=nowhere@0.5", "no layer 'nowhere'"),
    ("lowrank:targets=nowhere@0.5", "no layer 'nowhere'"),
    ("channels:widths=nowhere@8", "no layer 'nowhere'"),
    ("channels:widths=second@99", "1 to 32 channels"),
])  # fmt: skip
def test_layers_that_are_not_there_are_named(model: dlcomp.Model, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.compress(parse(text), calibration=SAMPLES[:4])


def test_targets_as_text(model: dlcomp.Model) -> None:
    made = model.compress(parse("sparsify:targets=first@0.25|head@0.75"), calibration=SAMPLES[:8])
    assert made.history[-1].effect["sparsity"] == {"first": 0.25, "head": 0.75}
    made = model.compress(parse("channels:widths=second@16"), calibration=SAMPLES[:8])
    assert made.history[-1].effect["channels"] == {"second": [32, 16]}


@pytest.mark.parametrize("limits", [
    {}, {"max_drop": 2.0}, {"min_agreement": -0.1}, {"max_kl": -1.0}, {"max_ms": float("nan")},
    {"max_kl": 1.0, "goal": "fame"},
])  # fmt: skip
def test_budgets_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        dlcomp.Budget(**limits)


@pytest.mark.parametrize(("options", "message"), [
    ({"budget": dlcomp.Budget(max_drop=0.1)}, "no labels|needs labels"),
    ({"budget": dlcomp.Budget(max_drop=0.1), "labels": np.zeros(7, int)}, "7 labels for 60 samples"),
    ({"budget": dlcomp.Budget(max_drop=0.1), "labels": np.zeros(60)}, "labels cannot be float64"),
    ({"labels": np.zeros(60, int)}, "are for a budget"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(model: dlcomp.Model, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.compress(dlcomp.Quantize(), calibration=SAMPLES, **options)


def test_what_is_reached_already_is_said(model: dlcomp.Model) -> None:
    many = dlcomp.Budget(max_bytes=10**9, goal="size")
    with pytest.raises(CheckFailed, match="as it is costs no more"):
        model.compress(dlcomp.Sparsify(method="magnitude"), calibration=SAMPLES[:6], budget=many)
    with pytest.raises(UsageError, match="is for one pass"):
        model.compress(dlcomp.Sparsify(), dlcomp.Quantize(), calibration=SAMPLES, budget=many)


def test_passes_with_nothing_to_choose_are_refused(model: dlcomp.Model) -> None:
    with pytest.raises(UsageError, match="nothing to choose"):
        model.compress(dlcomp.ShareWeights(), calibration=SAMPLES, budget=dlcomp.Budget(max_kl=1.0))


def test_comparisons_count_what_changed(model: dlcomp.Model) -> None:
    made = model.compress(
        dlcomp.PruneChannels(widths={"second": 16}),
        dlcomp.Sparsify(targets={"first": 0.5}),
        dlcomp.Quantize(),
        calibration=SAMPLES[:8],
    )
    found = compare(model, made)
    first, second, head = found.layers
    assert [one.layer for one in found.layers] == ["first", "second", "head"]
    assert "% zeros" in first.form
    assert "16x16 of 32x16" in second.form
    assert all("8 bits" in one.form for one in found.layers)
    assert second.macs == (8 * 8 * 32 * 16 * 9, 8 * 8 * 16 * 16 * 9)
    assert head.macs == (5 * 32, 5 * 16)
    assert found.macs == tuple(sum(one.macs[side] for one in found.layers) for side in (0, 1))
    assert found.bytes[1] < found.bytes[0]
    assert first.error is not None
    assert found.timing.before > 0
    assert found.predicted > 0


def test_the_command_line(tmp_path: Path, labels: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=SAMPLES)
    np.save(tmp_path / "labels.npy", labels)
    found = main(
        ["compress", str(tmp_path / "net.onnx"), "--pass", "quantize", "--calib", str(tmp_path / "data.npz"),
         "--labels", str(tmp_path / "labels.npy"), "--max-drop", "20%", "--for", "size",
         "-o", str(tmp_path / "small.onnx"), "--json", str(tmp_path / "report.json"), "--measure"]
    )  # fmt: skip
    assert found == 0
    shown = capsys.readouterr().out
    assert "samples that nothing was chosen by" in shown
    assert "measured in turn" in shown
    assert (tmp_path / "report.json").read_text().count('"predicted"') > 0
    start = ["compress", str(tmp_path / "net.onnx"), "--pass", "quantize"]
    assert main([*start, "--max-drop", "much"]) == 2
    assert main([*start, "--labels", str(tmp_path / "labels.npy")]) == 2
    assert main([*start, "--max-kl", "1", "--target", "aarch64-linux-gnu"]) == 2
    # The curves are drawn where there is matplotlib, and refused before the search where there is none.
    report = json.loads((tmp_path / "report.json").read_text())
    if importlib.util.find_spec("matplotlib"):
        save_search_plot(report["searches"][0], tmp_path / "curve.png")
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert main([*start, "--max-kl", "1", "--plot", str(tmp_path / "curve.png")]) == 4
