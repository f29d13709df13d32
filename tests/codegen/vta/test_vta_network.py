"""Whole quantized networks: partition, the host's parts, and artifacts, against the integer reference."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from vta_models import network, quantized, residual, samples, small

import dlcomp
from dlcomp.codegen.vta import compile_network
from dlcomp.codegen.vta.operators import AveragePool, Concat, Conv, MaxPool, Mean, Sum
from dlcomp.codegen.vta.partition import DeviceSegment, HostSegment, partition
from dlcomp.errors import ModelError, UsageError
from dlcomp.vta.schedule import runs

TARGETS = ("pynq", "batch4x8", "block32")
FASHION = Path(__file__).parents[3] / "benchmarks" / "fashion"


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_is_bit_equal_to_its_reference_and_near_the_real_one(target: str) -> None:
    model = small()
    compiled = compile_network(model, target)
    feed = {"x": samples(2, seed=2)}
    found, wanted = compiled.run(feed)["y"], compiled.run(feed, engine="reference")["y"]
    np.testing.assert_array_equal(found, wanted)
    # The same network in QDQ form, whose halves are rounded to even and whose mean is not in fixed point.
    near = model.compile("host").run(feed)["y"]
    assert np.abs(found - near).max() < 0.03
    assert np.ptp(found) > 0.1


def test_what_is_where() -> None:
    plan = partition(small().source)
    assert [type(s) for s in plan.segments] == [HostSegment, DeviceSegment, HostSegment]
    first, device, last = plan.segments
    assert [node.op_type for node in first.network.graph.node] == ["QuantizeLinear"]
    kinds = [type(one) for one in device.operators]
    # The sum is part of the second convolution.
    assert kinds == [Conv, Conv, MaxPool, Conv, Mean, Conv]
    assert device.operators[1].residual is not None
    assert device.operators[3].groups == 20
    assert device.operators[3].extra.max() >= 3
    assert device.operators[3].requantize.low == 0
    assert device.operators[5].wide
    assert [node.op_type for node in last.network.graph.node] == ["DequantizeLinear", "Softmax"]


def test_the_host_in_the_middle() -> None:
    """An operator that the accelerator lacks cuts the network into two regions."""
    compiled = compile_network(small("HardSwish"), "pynq")
    assert len(compiled.regions) == 2
    feed = {"x": samples(2, seed=3)}
    np.testing.assert_array_equal(compiled.run(feed)["y"], compiled.run(feed, engine="reference")["y"])


def test_a_matrix_of_flattened_pictures_is_a_convolution() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (5, 3, 3, 3)),
        "w2": rng.normal(0, 0.1, (400, 12)),
        "b2": np.zeros(12),
    }
    weights |= {"w3": rng.normal(0, 0.3, (12, 4))}
    nodes = [
        ("Conv", ["x", "w1"], "c1", {}),
        ("Relu", ["c1"], "r1", {}),
        ("Flatten", ["r1"], "f", {}),
        ("Gemm", ["f", "w2", "b2"], "d", {}),
        ("Relu", ["d"], "r2", {}),
        ("MatMul", ["r2", "w3"], "y", {}),
    ]
    model = quantized(network(nodes, weights, [2, 3, 12, 10]))
    compiled = compile_network(model, "pynq")
    layers = [one for s in compiled.plan.segments if isinstance(s, DeviceSegment) for one in s.operators]
    assert [one.weight.shape for one in layers] == [(5, 3, 3, 3), (12, 5, 10, 8), (4, 12, 1, 1)]
    feed = {"x": samples(2, seed=4)}
    found = compiled.run(feed)["y"]
    np.testing.assert_array_equal(found, compiled.run(feed, engine="reference")["y"])
    np.testing.assert_allclose(found, model.compile("host").run(feed)["y"], atol=0.05 * np.ptp(found))


def test_a_sum_of_two_tensors_that_others_read_stays_a_sum() -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{n}": rng.normal(0, 0.2, (8, 8 if n > 1 else 3, 3, 3)) for n in (1, 2, 3)}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w1"], "c1", pads),
        ("Conv", ["c1", "w2"], "c2", pads),
        ("Add", ["c1", "c2"], "s1", {}),
        ("Add", ["s1", "c2"], "s2", {}),
        ("Conv", ["s2", "w3"], "y", pads),
    ]
    compiled = compile_network(quantized(network(nodes, weights, [1, 3, 12, 10])), "pynq")
    kinds = [type(one) for s in compiled.plan.segments if isinstance(s, DeviceSegment) for one in s.operators]
    assert kinds == [Conv, Conv, Sum, Sum, Conv]
    feed = {"x": samples(1, seed=5)}
    np.testing.assert_array_equal(compiled.run(feed)["y"], compiled.run(feed, engine="reference")["y"])


@functools.cache
def branches() -> tuple[dlcomp.Model, dlcomp.Model]:
    """In float32 and quantized: average pooling, branches joined inside a block, upsampling at the end."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(0, 0.3, (20, 3, 3, 3)), "w2": rng.normal(0, 0.2, (10, 20, 1, 1)),
        "w3": rng.normal(0, 0.2, (22, 20, 3, 3)), "w4": rng.normal(0, 0.1, (32, 16, 4, 4)),
        "b4": rng.normal(0, 0.3, 16), "w5": rng.normal(0, 0.2, (16, 3, 2, 3)),
    }  # fmt: skip
    nodes: list[tuple[Any, ...]] = [
        ("Conv", ["x", "w1"], "c1", {"pads": [1] * 4}),
        ("Relu", ["c1"], "r1", {}),
        ("AveragePool", ["r1"], "a", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
        ("Conv", ["a", "w2"], "c2", {}),
        ("Conv", ["a", "w3"], "c3", {"pads": [1] * 4}),
        ("Concat", ["c2", "c3"], "j", {"axis": 1}),
        ("ConvTranspose", ["j", "w4", "b4"], "t1", {"strides": [2, 2], "pads": [1] * 4}),
        ("Relu", ["t1"], "r2", {}),
        ("ConvTranspose", ["r2", "w5"], "t2", {"strides": [1, 2], "output_padding": [0, 1]}),
        ("Tanh", ["t2"], "y", {}),
    ]
    proto = network(nodes, weights, [2, 3, 12, 10])
    return dlcomp.load(proto), quantized(proto)


@pytest.mark.parametrize("target", TARGETS)
def test_joins_averages_and_upsampling_are_all_on_the_accelerator(target: str) -> None:
    float32, model = branches()
    compiled = compile_network(model, target)
    segments = compiled.plan.segments
    assert [type(s) for s in segments] == [HostSegment, DeviceSegment, HostSegment]
    kinds = [type(one) for one in segments[1].operators]
    assert kinds == [Conv, AveragePool, Conv, Conv, Concat, Conv, Conv]
    assert segments[1].operators[-1].wide
    feed = {"x": samples(2, seed=9)}
    found = compiled.run(feed)["y"]
    np.testing.assert_array_equal(found, compiled.run(feed, engine="reference")["y"])
    near, right = (each.compile("host").run(feed)["y"] for each in (model, float32))
    # How halves are rounded matters less than that there are 8 bits.
    assert np.sqrt(np.mean((found - near) ** 2)) < np.sqrt(np.mean((near - right) ** 2)) < 0.05


@pytest.mark.parametrize(
    ("kind", "attributes", "where"),
    [
        ("AveragePool", {"kernel_shape": [3, 3], "ceil_mode": 1, "count_include_pad": 1}, HostSegment),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, DeviceSegment),
        ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, HostSegment),
        ("Concat", {"axis": 2}, HostSegment),
        ("Concat", {"axis": -3}, DeviceSegment),
    ],
)
def test_what_the_accelerator_lacks_stays_on_the_host(kind: str, attributes: dict, where: type) -> None:
    """And is right there."""
    rng = np.random.default_rng(4)
    weights = {"w1": rng.normal(0, 0.3, (8, 3, 3, 3)), "w2": rng.normal(0, 0.3, (8, 8, 1, 1))}
    count = 2 if kind == "Concat" else 1
    if kind == "Concat" and attributes["axis"] == -3:
        weights["w2"] = rng.normal(0, 0.3, (8, 16, 1, 1))
    nodes = [
        ("Conv", ["x", "w1"], "c1", {"pads": [1] * 4}),
        ("Relu", ["c1"], "r1", {}),
        (kind, ["r1"] * count, "m", attributes),
        ("Conv", ["m", "w2"], "y", {}),
    ]
    model = quantized(network(nodes, weights, [1, 3, 7, 9]), (3, 7, 9))
    compiled = compile_network(model, "pynq")
    hosts = [s for s in compiled.plan.segments if isinstance(s, HostSegment)]
    lacking = {node.op_type for host in hosts for node in host.network.graph.node}
    assert (kind in lacking) == (where is HostSegment)
    feed = {"x": samples(1, (3, 7, 9), seed=5)}
    found = compiled.run(feed)["y"]
    np.testing.assert_array_equal(found, compiled.run(feed, engine="reference")["y"])
    np.testing.assert_allclose(found, model.compile("host").run(feed)["y"], atol=0.03 * np.ptp(found))


def test_refusals() -> None:
    with pytest.raises(ModelError, match=r"nothing of .* can run on VTA"):
        compile_network(dlcomp.load(residual()), "pynq")
    other = dlcomp.load(residual()).compress(dlcomp.Quantize(), calibration=samples(4))
    with pytest.raises(ModelError, match=r"nothing of .* can run on VTA"):
        compile_network(other, "pynq")
    open_batch = dataclasses.replace(small(), source=onnx.ModelProto())
    open_batch.source.CopyFrom(small().source)
    open_batch.source.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del open_batch.source.graph.value_info[:]
    with pytest.raises(UsageError, match=r"the shape of .* is not known"):
        compile_network(open_batch, "pynq")
    compiled = compile_network(small(), "pynq")
    for wrong in ({}, {"x": samples(3)}, {"x": samples(2).astype(np.float64)}):
        with pytest.raises(UsageError, match="input 'x'"):
            compiled.run(wrong)
    with pytest.raises(UsageError, match="engine"):
        compiled.run({"x": samples(2)}, engine="board")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dlcomp.cli import main

    small().save(tmp_path / "net.onnx")
    where = str(tmp_path / "net.dlc")
    assert main(["compile", str(tmp_path / "net.onnx"), "--target", "vta:pynq", "-o", where]) == 0
    assert main(["run", where]) == 0
    capsys.readouterr()
    assert main(["vta", "stat", where, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"]) == 6
    assert found["cycles"] == sum(layer["cycles"] for layer in found["layers"])
    assert main(["vta", "disasm", where]) == 0
    assert "GEMM" in capsys.readouterr().out
    assert main(["vta", "disasm", where, "--region", "7"]) == 2
    assert main(["vta", "trace", where, "-o", str(tmp_path / "t.json")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "dscnn", "lenet5", "lenet300"])
def test_trained_networks(name: str) -> None:
    """Every layer on the accelerator, on pictures: bit-equal, and the labels those of the int8 network."""
    sys.path.insert(0, str(FASHION.parent))
    from datasets import fashion

    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (20, 1, 28, 28)})
    model = model.compress(dlcomp.Quantize(scales="power_of_two"), calibration=fashion("train")[0][:200])
    compiled, int8 = compile_network(model, "pynq"), model.compile("host")
    pictures = fashion("t10k")[0]
    same = 0
    for first in range(0, 200, 20):
        feed = {"image": pictures[first : first + 20]}
        found = compiled.run(feed)["logits"]
        np.testing.assert_array_equal(found, compiled.run(feed, engine="reference")["logits"])
        same += int((found.argmax(axis=1) == int8.run(feed)["logits"].argmax(axis=1)).sum())
    assert same >= 194


@pytest.mark.parametrize("target", TARGETS)
def test_a_stream_beyond_the_instruction_buffer_becomes_several_runs(target: str) -> None:
    whole = compile_network(small(), target)
    limit = 24
    cut = compile_network(small(), target, run_instructions=limit)
    feed = {"x": samples(2, seed=5)}
    np.testing.assert_array_equal(cut.run(feed)["y"], whole.run(feed)["y"])
    (number,) = cut.regions
    pieces = runs(cut.regions[number].program.instructions(cut.config))
    assert len(pieces) > 3
    assert max(map(len, pieces)) <= limit
    assert len(runs(whole.regions[number].program.instructions(whole.config))) == 1
    # A run begins when the one before has ended, so nothing overlaps there.
    before, after = (sum(row.cycles for row in net.cycles()) for net in (whole, cut))
    assert before < after < 2 * before
