"""Design-space sweeps, and pictures of programs and networks."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.cli import main
from dlcomp.codegen.vta import compile_network
from dlcomp.codegen.vta.sweep import Point, descriptions, pareto, sweep
from dlcomp.errors import ModelError, ToolMissing, UsageError
from dlcomp.report import vta_plots
from dlcomp.vta.config import VtaConfig
from dlcomp.vta_targets import load

BASE = load("pynq")


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 0.1, (40, 20, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="y", pads=[1] * 4)
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 20, 14, 9]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40, 14, 9]),
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def network(proto: onnx.ModelProto) -> dlcomp.Model:
    samples = np.random.default_rng(1).normal(0, 1, (4, 20, 14, 9)).astype(np.float32)
    return dlcomp.load(proto).compress(dlcomp.Quantize(scales="power_of_two"), calibration=samples)


def test_every_combination_is_described_once() -> None:
    found = list(descriptions(BASE, (8, 16), (1, 2), (64,), {"inp": (4096, 8192)}))
    assert len({json.dumps(keys) for keys in found}) == 8
    assert list(descriptions(BASE)) == [BASE.to_dict()]


@pytest.mark.parametrize("block", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_what_is_not_given_can_always_be_built(block: int, batch: int) -> None:
    (keys,) = descriptions(BASE, (block,), (batch,))
    config = VtaConfig.of(keys)
    for memory in ("inp", "wgt", "acc"):
        assert config.depth(memory) <= BASE.depth(memory)
        assert config.depth(memory) * config.element_bytes(memory) <= BASE.depth(memory) * BASE.element_bytes(
            memory
        )


def test_cycles_and_bytes_are_those_of_the_compiled_network(network: dlcomp.Model) -> None:
    keys = list(descriptions(BASE, (8, 16, 32)))
    seen: list[Point] = []
    points = sweep(network, keys, seen.append)
    assert points == seen
    feed = {"x": np.zeros((1, 20, 14, 9), np.float32)}
    for point, one in zip(points, keys, strict=True):
        compiled = compile_network(network, VtaConfig.of(one))
        compiled.run(feed)
        assert point.cycles == sum(row.cycles for row in compiled.cycles())
        assert point.bytes == sum(c.total_bytes for c in compiled.counters)
    assert points[0].cycles > points[1].cycles


def test_what_cannot_be_built_says_why(network: dlcomp.Model) -> None:
    (point,) = sweep(network, list(descriptions(BASE, scratchpads={"acc": (1 << 20,)})))
    assert "ALU word 1" in point.refused
    assert point.cycles == 0
    (point,) = sweep(network, list(descriptions(BASE, scratchpads={"wgt": (512,)})))
    assert "no tile of this convolution fits" in point.refused


def test_bad_sizes_and_float_networks_are_refused(proto: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="a block of 12 is no power of two"):
        list(descriptions(BASE, (12,)))
    with pytest.raises(UsageError, match="no scratchpad 'out'"):
        list(descriptions(BASE, scratchpads={"out": (1024,)}))
    with pytest.raises(ModelError, match="can run on VTA"):
        sweep(dlcomp.load(proto), [BASE.to_dict()])


def test_no_other_point_beats_those_at_the_front() -> None:
    base = Point({}, "", 256, 100, 10, 10.0)
    points = [
        dataclasses.replace(base, on_chip=on_chip, milliseconds=time, refused=refused, cycles=cycles)
        for on_chip, time, refused, cycles in
        [(100, 10.0, "", 9), (50, 20.0, "", 9), (100, 20.0, "", 9), (60, 15.0, "", 9), (1, 0.0, "no", 0)]
    ]  # fmt: skip
    assert [(p.on_chip, p.milliseconds) for p in pareto(points)] == [(100, 10.0), (60, 15.0), (50, 20.0)]


def test_the_command_line(
    network: dlcomp.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "net.onnx")
    network.save(path)
    assert main(["vta", "sweep", path, "--blocks", "8,16", "--inp", "8K,16K", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 4
    assert any(row["pareto"] for row in rows)
    assert main(["vta", "sweep", path, "--blocks", "many"]) == 2
    assert main(["vta", "roofline", str(tmp_path / "bare.vta"), "-o", "x.png"]) == 2
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["vta", "sweep", path, "--png", str(tmp_path / "s.png")]) == ToolMissing.exit_code


class _Axes:
    """Remembers what is drawn, so that pictures are checked where matplotlib is not installed."""

    def __init__(self) -> None:
        self.drawn: dict[str, list] = {}

    def __getattr__(self, name: str):
        return lambda *args, **more: self.drawn.setdefault(name, []).append((args, more))


def test_the_stages_over_time_cover_every_busy_cycle(
    network: dlcomp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlcomp.vta.cycles import simulate

    axes = _Axes()
    monkeypatch.setattr(vta_plots, "_figure", lambda height=5.0: (_Axes(), axes))
    (region,) = compile_network(network, BASE).regions.values()
    result = simulate(region.program, BASE)
    vta_plots.gantt(result, region.program, BASE, tmp_path / "g.png")
    drawn = sum(width for args, _ in axes.drawn["broken_barh"] for _, width in args[0])
    assert drawn == sum(result.busy.values())


def test_layers_are_drawn_under_what_array_and_bus_allow(
    network: dlcomp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = _Axes()
    monkeypatch.setattr(vta_plots, "_figure", lambda height=5.0: (_Axes(), axes))
    rows = [("a", 25600, 1000, 300), ("pool", 0, 10, 10)]
    vta_plots.roofline(rows, BASE, tmp_path / "r.png")
    ((x, y), _) = axes.drawn["scatter"][0]
    assert (x, y) == ([25.6], [pytest.approx(25600 / 300)])
    roof_x, roof_y = axes.drawn["plot"][0][0]
    assert roof_y == [roof_x[0] * 8, 256, 256]
    with pytest.raises(UsageError, match="no layer multiplies"):
        vta_plots.roofline(rows[1:], BASE, tmp_path / "r.png")


def test_pictures_are_written_where_matplotlib_is_and_refused_where_not(
    network: dlcomp.Model, tmp_path: Path
) -> None:
    points = sweep(network, list(descriptions(BASE, (16,))))
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(ToolMissing, match="matplotlib is not installed"):
            vta_plots.sweep_picture(points, tmp_path / "s.png")
        return
    path = vta_plots.sweep_picture(points, tmp_path / "s.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="cannot write the picture"):
        vta_plots.sweep_picture(points, tmp_path / "none" / "s.png")
