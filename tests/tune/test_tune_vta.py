"""``dlcomp tune --target vta:NAME``: cycles as the measure, records that a compilation uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.cli import main
from dlcomp.codegen.vta.choose import layer_cycles
from dlcomp.errors import UsageError
from dlcomp.tune.database import Database
from dlcomp.tune.vta import tiling_of, tilings
from dlcomp.vta.timing import preset
from dlcomp.vta_targets import load

TRIALS = 10


@pytest.fixture(scope="module")
def network() -> dlcomp.Model:
    """Three convolutions, two of them of one workload, and a stride."""
    rng = np.random.default_rng(0)
    sizes = {"w1": (40, 3, 3, 3), "w2": (40, 40, 3, 3), "w3": (40, 40, 3, 3)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)
        for name, shape in sizes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="a", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="b", pads=[1] * 4),
        helper.make_node("Conv", ["b", "w3"], ["y"], name="y", pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 26, 22])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    proto = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    )
    passes = dlcomp.Quantize(scales="power_of_two")
    samples = rng.normal(0, 1, (8, 3, 26, 22)).astype(np.float32)
    return dlcomp.load(proto).compress(passes, calibration=samples)


@pytest.fixture(scope="module")
def tuned(network: dlcomp.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    path = tmp_path_factory.mktemp("tuned") / "db"
    return path, dlcomp.tune(network, "vta:pynq", TRIALS, db=path).to_json()


def test_every_record_holds_the_cycles_of_its_tiling(network: dlcomp.Model, tuned: tuple[Path, dict]) -> None:
    from dlcomp.codegen.vta.network import network_convolutions
    from dlcomp.tune.vta import tasks

    config = load("pynq")
    layers = tasks(network_convolutions(network, config), config)
    records = Database.open(tuned[0]).records()
    assert len(records) == sum(task["trials"] for task in tuned[1]["tasks"])
    for record in records[::3]:
        cycles = layer_cycles(
            layers[record.workload][1], tiling_of(record.knobs), config, preset("pipelined")
        )
        assert record.seconds == pytest.approx(cycles / 100e6)


def test_tuning_is_never_slower_than_not(tuned: tuple[Path, dict]) -> None:
    for task in tuned[1]["tasks"]:
        assert task["best_seconds"] <= task["default_seconds"]
        assert 1 <= task["trials"] <= 2 * TRIALS
        curve = [point[2] for point in task["curve"]]
        assert curve == sorted(curve, reverse=True)
    # Layers of one workload are tuned once: the last one's sums stay real numbers.
    assert sorted(task["count"] for task in tuned[1]["tasks"]) == [1, 1, 1]


def test_a_second_run_measures_nothing_again(network: dlcomp.Model, tuned: tuple[Path, dict]) -> None:
    before = len(Database.open(tuned[0]).records())
    again = dlcomp.tune(network, "vta:pynq", TRIALS, db=tuned[0]).to_json()
    assert len(Database.open(tuned[0]).records()) == before
    assert [t["best"] for t in again["tasks"]] == [t["best"] for t in tuned[1]["tasks"]]


def test_a_compilation_uses_the_records(network: dlcomp.Model, tuned: tuple[Path, dict]) -> None:
    plain, fast = network.compile("vta:pynq"), network.compile("vta:pynq", db=tuned[0])
    assert [kernel.schedule.endswith(" tuned") for kernel in fast.kernels] == [True] * 3
    assert not any("tuned" in kernel.schedule for kernel in plain.kernels)
    chosen = tilings(Database.open(tuned[0]), dlcomp.Target.parse("vta:pynq"))
    assert {layer.tiling for layer in fast.session().network.layers} == set(chosen.values())
    feed = {"x": np.random.default_rng(1).normal(0, 1, (1, 3, 26, 22)).astype(np.float32)}
    np.testing.assert_array_equal(fast.run(feed)["y"], plain.run(feed)["y"])


def test_records_of_another_accelerator_are_not_used(tuned: tuple[Path, dict]) -> None:
    assert tilings(Database.open(tuned[0]), dlcomp.Target.parse("vta:block32")) == {}


def test_the_worst_record_would_be_used_if_it_were_the_only_one(
    network: dlcomp.Model, tuned: tuple[Path, dict], tmp_path: Path
) -> None:
    """That records decide, and not a choice that happens to be the same."""
    worst: dict[str, object] = {}
    for record in sorted(Database.open(tuned[0]).records(), key=lambda r: r.seconds):
        worst[record.workload] = record
    database = Database(tmp_path)
    for record in worst.values():
        database.append(record)
    slow, fast = (network.compile("vta:pynq", db=path) for path in (tmp_path, tuned[0]))
    cycles = [sum(row.cycles for row in a.session().network.cycles()) for a in (slow, fast)]
    assert cycles[0] > cycles[1]


def test_refusals(network: dlcomp.Model, tmp_path: Path) -> None:
    from dlcomp.schedules.workload import Gemm

    with pytest.raises(UsageError, match="runs layers of quantized networks"):
        dlcomp.tune(Gemm(64, 64, 64), "vta:pynq", 2, db=tmp_path / "db")
    with pytest.raises(UsageError, match="nothing to tune"):
        dlcomp.tune(network, "vta:pynq", 2, db=tmp_path / "db", tasks="no such layer")


def test_the_command_line(network: dlcomp.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network.save(tmp_path / "net.onnx")
    where = [str(tmp_path / "net.onnx"), "--target", "vta:pynq"]
    assert main(["tune", *where, "-o", str(tmp_path / "db"), "--trials", "2", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tasks"]) == 3
    assert main(["db", "best", str(tmp_path / "db"), "--target", "vta:pynq", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    made = str(tmp_path / "net.dlc")
    assert main(["compile", *where, "--db", str(tmp_path / "db"), "-o", made, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["kernels"]["tuned"] == 3
