"""Transposed convolutions on VTA, bit-equal to the reference, and the reference to onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import PIPELINED, check, transposed
from onnx import TensorProto, helper

from dlcomp.codegen.vta.choose import candidates, choose_tiling, layer_cycles
from dlcomp.codegen.vta.reference import convolve
from dlcomp.vta_targets import load

TARGETS = ("pynq", "batch4x8", "block32", "block64")
SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))
SMALL = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), target=st.sampled_from(TARGETS), batch=st.sampled_from([1, 2, 4]),
    channels=st.sampled_from([1, 16, 33]), outputs=st.sampled_from([1, 16, 20]), size=SIZES, kernel=SMALL,
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)), pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)), contexts=st.sampled_from([1, 2]),
)  # fmt: skip
def test_any_transposed_convolution(
    seed: int, target: str, batch: int, channels: int, outputs: int, size: tuple[int, int],
    kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int],
    dilations: tuple[int, int], contexts: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    more = (int(rng.integers(0, strides[0])), int(rng.integers(0, strides[1])))
    layer = transposed(rng, (batch, channels, *size), outputs, kernel, strides, pads, dilations, more)
    if layer is None:
        return
    config = load(target)
    tilings = list(candidates(layer, config, contexts))
    check([layer], config, rng, tilings={"layer": tilings[seed % len(tilings)]})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), size=SIZES, kernel=SMALL, strides=SMALL,
    pads=st.tuples(*[st.integers(0, 2)] * 4), groups=st.sampled_from([1, 2]),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)  # fmt: skip
def test_the_reference_is_what_onnxruntime_computes(
    seed: int, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int],
    pads: tuple[int, int, int, int], groups: int, dilations: tuple[int, int],
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    layer = transposed(rng, (2, 4, *size), 6, kernel, strides, pads, dilations, groups=groups)
    if layer is None:
        return
    data = rng.integers(-128, 128, layer.data.shape)
    # (O, I / groups, ...) as ONNX's (I, O / groups, ...).
    weight = layer.weight.reshape(groups, 6 // groups, 4 // groups, *kernel).swapaxes(1, 2)
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=strides, pads=pads, dilations=dilations, group=groups
    )
    values = {"x": data.astype(np.float32), "w": weight.reshape(4, -1, *kernel).astype(np.float32)}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in values.items()]
    graph = helper.make_graph(
        [node], "g", inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, layer.result.shape)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, values)
    np.testing.assert_array_equal(convolve(data.astype(np.int64), layer), wanted)


@pytest.mark.parametrize(
    ("size", "inputs", "outputs"),
    [(4, 1024, 512), (8, 512, 256), (16, 256, 128)],
    ids=["CT1", "CT2", "CT3"],
)
def test_the_layers_of_dcgan(size: int, inputs: int, outputs: int) -> None:
    """Kernel 4, stride 2, padding 1: no multiplication with the zeros between the data."""
    rng = np.random.default_rng(size)
    layer = transposed(rng, (1, inputs, size, size), outputs, (4, 4), (2, 2), (1, 1, 1, 1))
    assert layer is not None
    config = load("pynq")
    tiling = choose_tiling(layer, config, PIPELINED, finalists=2)
    check([layer], config, rng, tilings={"layer": tiling})
    # CT1 has more weights than a bus of 8 bytes brings in that time.
    least = max(layer.macs / config.macs_per_cycle, layer.weight.size / 8)
    assert layer_cycles(layer, tiling, config, PIPELINED) < 1.35 * least


@pytest.mark.parametrize(("target", "batch"), [("pynq", 2), ("batch4x8", 4), ("block32", 1)])
@pytest.mark.parametrize(("size", "inputs", "outputs"), [(4, 1024, 512), (16, 256, 128)], ids=["CT1", "CT3"])
def test_the_layers_of_dcgan_elsewhere(target: str, batch: int, size: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(size)
    layer = transposed(rng, (batch, inputs, size, size), outputs, (4, 4), (2, 2), (1, 1, 1, 1))
    assert layer is not None
    config = load(target)
    tiling = choose_tiling(layer, config, PIPELINED, finalists=1)
    check([layer], config, rng, tilings={"layer": tiling})


@pytest.mark.parametrize("target", TARGETS)
def test_groups(target: str) -> None:
    rng = np.random.default_rng(1)
    layer = transposed(rng, (2, 64, 5, 3), 64, (3, 3), (2, 1), (1, 0, 0, 1), groups=64)
    assert layer is not None
    check([layer], load(target), rng)
