"""The check of 16-bit sums, against an emulation of the instruction in NumPy's int16."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp import cli
from dlcomp.compress.quantize.saturation import LayerSaturation, risky_pairs
from dlcomp.errors import UsageError

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
KINDS = {np.dtype("uint8"): TensorProto.UINT8, np.dtype("int8"): TensorProto.INT8}


def integers(
    kind: str, data: np.ndarray, weight: np.ndarray, zero: int = 0, **attributes: Any
) -> onnx.ModelProto:
    """One ConvInteger or MatMulInteger, data of the shape and type of ``data``."""
    stored = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.array(zero, data.dtype), "zero"),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w", "zero"], ["y"], name="product", **attributes)],
        "net",
        [helper.make_tensor_value_info("x", KINDS[data.dtype], data.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(network: onnx.ModelProto, data: np.ndarray | None = None) -> LayerSaturation:
    (layer,) = dlcomp.check_saturation(dlcomp.load(network), None if data is None else [{"x": data}]).layers
    return layer


def saturating(inputs: np.ndarray, weights: np.ndarray) -> tuple[int, int]:
    """``vpmaddubsw`` of (N, K) bytes by (K, O): sums that were cut off, and numbers with one in them."""
    odd = inputs.shape[1] % 2
    left = np.pad(inputs.astype(np.int64), [(0, 0), (0, odd)])[:, :, None]
    right = np.pad(weights.astype(np.int64), [(0, odd), (0, 0)])[None]
    exact = left[:, 0::2] * right[:, 0::2] + left[:, 1::2] * right[:, 1::2]
    held = np.clip(exact, np.iinfo(np.int16).min, np.iinfo(np.int16).max).astype(np.int16)
    cut = held != exact
    return int(cut.sum()), int(cut.any(axis=1).sum())


def convolved(
    data: np.ndarray, weight: np.ndarray, zero: int, pads: int, stride: int, dilation: int, groups: int
) -> tuple[int, int]:
    """The same of a convolution, window by window, taps before channels."""
    padded = np.pad(data.astype(np.int64), [(0, 0), (0, 0), (pads, pads), (pads, pads)], constant_values=zero)
    outputs, channels, height, width = weight.shape
    extents = [(k - 1) * dilation + 1 for k in (height, width)]
    totals = np.zeros(2, int)
    for group in range(groups):
        own = weight[group * outputs // groups : (group + 1) * outputs // groups]
        part = padded[:, group * channels : (group + 1) * channels]
        windows = []
        for y in range(0, padded.shape[2] - extents[0] + 1, stride):
            for x in range(0, padded.shape[3] - extents[1] + 1, stride):
                taken = part[:, :, y : y + extents[0] : dilation, x : x + extents[1] : dilation]
                windows += [sample.transpose(1, 2, 0).reshape(-1) for sample in taken]
        totals += saturating(np.stack(windows), own.transpose(2, 3, 1, 0).reshape(-1, len(own)))
    return int(totals[0]), int(totals[1])


def test_every_pair_of_weights() -> None:
    """All 65,536 pairs: the proof says no exactly where some corner of the inputs is cut off."""
    grid = np.arange(-128, 128, dtype=np.int8)
    weights = np.stack(np.meshgrid(grid, grid), axis=0).reshape(2, -1)
    corners = np.array(list(itertools.product((0, 255), repeat=2)))
    sums = corners @ weights.astype(np.int64)
    cut = ((sums > 32767) | (sums < -32768)).any(axis=0)
    assert np.array_equal(risky_pairs(weights.T)[:, 0], cut)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("weight", ["int8", "uint8"])
def test_pairs_at_the_ends_of_the_inputs(dtype: str, weight: str) -> None:
    """K = 2: weights of a coarse grid, inputs at and beside their ends."""
    grid = np.array([-128, -127, -65, -64, -63, -1, 0, 1, 63, 64, 65, 127])
    weights = np.array(list(itertools.product(grid, repeat=2))).T
    ends = np.array(list(itertools.product((0, 1, 127, 128, 129, 254, 255), repeat=2)))
    data = ends.astype("uint8") if dtype == "uint8" else (ends - 128).astype("int8")
    stored = weights.astype("int8") if weight == "int8" else (weights + 128).astype("uint8")
    network = integers("MatMulInteger", data, stored)
    found = check(network, data)
    assert (found.saturated, found.wrong) == saturating(ends, weights)
    assert found.sums == found.outputs == len(ends) * weights.shape[1]
    assert found.saturated


@pytest.mark.parametrize(
    ("weights", "pairs", "risky", "any_order"),
    [
        ([64, 64, -64, -64], 2, 0, True),  # the limit itself
        ([64, 65, 0, 0], 2, 1, False),
        ([-128, -1, 0], 2, 1, False),  # an odd sum
        ([127, -128, 127, -128], 2, 0, False),  # opposite neighbours, but another order has equal ones
        ([127, -128], 1, 0, True),
        ([-128], 1, 0, True),
        ([127, 1, -128, 0], 2, 0, True),
    ],
)
def test_proof_by_weights(weights: list[int], pairs: int, risky: int, any_order: bool) -> None:
    column = np.array(weights, "int8")[:, None]
    found = check(integers("MatMulInteger", np.zeros((1, len(weights)), "uint8"), column))
    assert (found.pairs, found.risky, found.any_order) == (pairs, risky, any_order)
    assert found.proven == (risky == 0)
    assert found.saturated is None


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_order_is_what_the_orders_say(data: st.DataObject) -> None:
    """``any_order`` is true exactly where no permutation of the sum has a pair that can saturate."""
    weights = data.draw(
        st.lists(st.sampled_from([-128, -100, -65, -64, -28, 0, 1, 63, 64, 65, 127]), min_size=1, max_size=5)
    )
    column = np.array(weights, "int8")[:, None]
    found = check(integers("MatMulInteger", np.zeros((1, len(weights)), "uint8"), column))
    pairs = list(itertools.permutations(weights, 2))
    assert found.any_order == (not (pairs and risky_pairs(np.array(pairs, "int8")).any()))


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([1, 3]), st.sampled_from([0, 1]), st.sampled_from([1, 2]), st.sampled_from([1, 2]),
    st.sampled_from(["uint8", "int8"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_convolutions_are_counted_as_emulated(
    seed: int, groups: int, channels: int, kernel: int, pads: int, stride: int, dilation: int, dtype: str
) -> None:
    """Groups, odd channels, padding by the zero point, strides, dilations."""
    rng = np.random.default_rng(seed)
    data = rng.choice([0, 3, 200, 255], (2, groups * channels, 7, 6)).astype("uint8")
    weight = rng.choice([-128, -70, 5, 90, 127], (2 * groups, channels, kernel, kernel)).astype("int8")
    zero = int(rng.choice([0, 128, 255]))
    expected = convolved(data, weight, zero, pads, stride, dilation, groups)
    if dtype == "int8":
        data, zero = (data.astype(int) - 128).astype("int8"), zero - 128
    network = integers(
        "ConvInteger", data, weight, zero,
        pads=[pads] * 4, strides=[stride] * 2, dilations=[dilation] * 2, group=groups,
    )  # fmt: skip
    found = check(network, data)
    assert (found.saturated, found.wrong) == expected


def quantized(name: str, samples: np.ndarray, **options: Any) -> dlcomp.Model:
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    return model.compress(dlcomp.Quantize(**options), calibration=samples)


def pictures(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    centres = rng.uniform(8, 20, (count, 2, 1, 1))
    blobs = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / 30)
    return np.clip(blobs * 1.3 - 0.1, 0, 1)[:, None].astype("float32")


@pytest.mark.parametrize("name", ["lenet5", "dscnn"])
def test_a_trained_network(name: str) -> None:
    """Layers are found by their names; weights of 6 bits cannot saturate, those of 8 can."""
    samples = pictures(4)
    whole = dlcomp.check_saturation(quantized(name, samples), samples)
    layers = {node.name for node in onnx.load(FASHION / f"{name}.onnx").graph.node}
    assert whole.samples == 4
    assert {layer.layer for layer in whole.layers} <= layers
    assert not whole.unchecked
    for layer in whole.layers:
        assert layer.saturated is not None
        assert layer.wrong is not None
        assert layer.sums
        assert layer.outputs
        assert layer.wrong <= layer.saturated <= layer.sums
        assert not (layer.proven and layer.saturated)
    assert not whole.proven
    small = dlcomp.check_saturation(quantized(name, samples, bits=6))
    assert small.proven
    assert all(layer.any_order for layer in small.layers)


def test_dynamic_ranges_and_batches() -> None:
    """Inputs quantized by the ranges of each run: counted on the integers of that run."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(10, 6)).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 10))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = dlcomp.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    small = model.compress(dlcomp.Quantize(activations="dynamic"))
    data = np.abs(rng.normal(size=(3, 10))).astype("float32")
    (found,) = dlcomp.check_saturation(small, [{"x": data}]).layers
    assert found.saturated
    scale = data.max() / np.float32(255)
    stored = next(
        numpy_helper.to_array(t)
        for t in small.source.graph.initializer
        if tuple(t.dims) == (10, 6) and t.data_type in (TensorProto.INT8, TensorProto.UINT8)
    )
    signed = stored.astype(int) - (128 if stored.dtype == np.uint8 else 0)
    assert (found.saturated, found.wrong) == saturating(np.rint(data / scale).astype(int), signed)


def test_a_network_without_integers_is_refused() -> None:
    with pytest.raises(UsageError, match="works on 8-bit integers"):
        dlcomp.check_saturation(dlcomp.load(FASHION / "lenet5.onnx", {"image": (1, 1, 28, 28)}))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = pictures(2)
    quantized("lenet5", samples).save(tmp_path / "small.onnx")
    np.savez(tmp_path / "calib.npz", image=samples)
    line = ["inspect", str(tmp_path / "small.onnx"), "--check-saturation"]
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    assert "never saturate int16" in shown
    assert "outputs wrong" not in shown
    calib = ["--calib", str(tmp_path / "calib.npz")]
    assert cli.main([*line, *calib, "--json", str(tmp_path / "r.json")]) == 0
    assert "outputs wrong" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())["saturation"]
    assert report["samples"] == 2
    assert all(layer["sums"] for layer in report["layers"])
    assert cli.main(["inspect", str(tmp_path / "small.onnx"), *calib]) == 2
    assert "--check-saturation" in capsys.readouterr().err
