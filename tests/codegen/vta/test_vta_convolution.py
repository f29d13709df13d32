"""Convolutions on VTA, bit-equal to the integer reference: shapes, targets, tilings, epilogues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import PIPELINED, check, conv

from dlcomp.codegen.vta import build_region
from dlcomp.codegen.vta.blocks import bias_tiles, bias_vector, pack, rectangles, unpack
from dlcomp.codegen.vta.choose import candidates, choose_tiling, layer_cycles
from dlcomp.codegen.vta.operators import Requantize, Residual, Tensor
from dlcomp.codegen.vta.reference import convolve
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.errors import UsageError
from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta_targets import load

TARGETS = ("pynq", "batch4x8", "block32", "block64")


def described(name: str) -> VtaConfig:
    """A target, or one whose scratchpads hold 256 micro-ops and a few tiles, with a long pipeline."""
    if name != "tiny":
        return load(name)
    keys = {
        "LOG_UOP_BUFF_SIZE": 10,
        "LOG_INP_BUFF_SIZE": 11,
        "LOG_WGT_BUFF_SIZE": 14,
        "LOG_ACC_BUFF_SIZE": 12,
    }
    return VtaConfig.of({**load("pynq").to_dict(), **keys, "HAZARD_DISTANCE": 4})


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    target=st.sampled_from((*TARGETS, "tiny")),
    batch=st.integers(1, 5),
    channels=st.sampled_from([1, 3, 16, 17, 40]),
    outputs=st.sampled_from([1, 10, 16, 33]),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    contexts=st.sampled_from([1, 2]),
)
def test_any_convolution(
    seed: int, target: str, batch: int, channels: int, outputs: int, size: tuple[int, int],
    kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int],
    dilations: tuple[int, int], contexts: int,
) -> None:  # fmt: skip
    for a in (0, 1):
        if size[a] + pads[a] + pads[a + 2] < dilations[a] * (kernel[a] - 1) + 1:
            return
    rng = np.random.default_rng(seed)
    layer = conv(rng, (batch, channels, *size), outputs, kernel, strides, pads, dilations)
    config = described(target)
    # Not the tiling that is thought best, but any that fits.
    tilings = list(candidates(layer, config, contexts))
    if not tilings:
        with pytest.raises(UsageError, match="no tile of this convolution fits"):
            choose_tiling(layer, config, PIPELINED, contexts=contexts)
        return
    check([layer], config, rng, tilings={"layer": tilings[seed % len(tilings)]})


@pytest.mark.parametrize("target", [*TARGETS, "tiny"])
@pytest.mark.parametrize(
    ("channels", "outputs", "groups"),
    [(32, 32, 32), (20, 20, 20), (64, 64, 2), (48, 24, 12), (33, 66, 33), (96, 64, 4)],
    ids=["depthwise", "depthwise odd", "two groups", "narrow groups", "multiplier", "groups across blocks"],
)
def test_groups(target: str, channels: int, outputs: int, groups: int) -> None:
    rng = np.random.default_rng(groups)
    layer = conv(rng, (1, channels, 9, 7), outputs, pads=(1, 1, 1, 1), strides=(2, 1), groups=groups)
    result = check([layer], described(target), rng)["result"]
    assert len(np.unique(result)) > 20


@pytest.mark.parametrize(("target", "batch"), [("pynq", 1), ("batch4x8", 4), ("block32", 2)])
@pytest.mark.parametrize(
    ("size", "channels", "outputs", "kernel", "stride"),
    [
        (56, 64, 64, 3, 1),
        (56, 64, 128, 3, 2),
        (56, 64, 128, 1, 2),
        (28, 128, 128, 3, 1),
        (28, 128, 256, 3, 2),
        (28, 128, 256, 1, 2),
        (14, 256, 256, 3, 1),
        (14, 256, 512, 3, 2),
        (14, 256, 512, 1, 2),
        (7, 512, 512, 3, 1),
    ],
    ids=[f"C{number}" for number in range(2, 12)],
)
def test_the_layers_of_resnet18(
    target: str, batch: int, size: int, channels: int, outputs: int, kernel: int, stride: int
) -> None:
    """The estimate's tiling; the one that the cycles choose is in ``benchmarks/vta.py``."""
    rng = np.random.default_rng(channels)
    pads = (kernel // 2,) * 4
    shape = (batch, channels, size, size)
    layer = conv(rng, shape, outputs, (kernel, kernel), pads=pads, strides=(stride, stride))
    config = load(target)
    tiling = choose_tiling(layer, config, PIPELINED, finalists=1)
    check([layer], config, rng, tilings={"layer": tiling})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("batch", "size", "channels", "stride"),
    [
        (1, 112, 32, 1),
        (1, 112, 64, 2),
        (1, 56, 128, 1),
        (1, 56, 128, 2),
        (1, 28, 256, 1),
        (1, 28, 256, 2),
        (1, 14, 512, 1),
        (2, 14, 512, 2),
        (4, 7, 1024, 1),
    ],
    ids=[f"D{number}" for number in range(1, 10)],
)
def test_the_depthwise_layers_of_mobilenet(
    target: str, batch: int, size: int, channels: int, stride: int
) -> None:
    rng = np.random.default_rng(channels)
    layer = conv(
        rng,
        (batch, channels, size, size),
        channels,
        pads=(1, 1, 1, 1),
        strides=(stride, stride),
        groups=channels,
    )
    check([layer], load(target), rng)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(128, 128, 128), (16, 512, 1008), (1, 64, 10)])
def test_dense(target: str, rows: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(rows)
    check([conv(rng, (rows, inputs, 1, 1), outputs, (1, 1))], load(target), rng)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("own", [0, 2])
def test_residual(target: str, own: int) -> None:
    rng = np.random.default_rng(own)
    more = Residual(Tensor("other", (2, 40, 6, 5)), own, 2 - own, Requantize(1 + own, 0, 127))
    layer = conv(rng, (2, 24, 6, 5), 40, pads=(1, 1, 1, 1), residual=more)
    result = check([layer], load(target), rng)["result"]
    assert 0 < (result > 0).mean() < 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("residual", [False, True])
def test_a_shift_for_each_channel(target: str, residual: bool) -> None:
    rng = np.random.default_rng(3)
    extra = rng.integers(0, 4, 40)
    other = Residual(Tensor("other", (1, 40, 4, 3)), 0, 0, Requantize(1)) if residual else None
    layer = conv(rng, (1, 24, 6, 5), 40, extra=extra, residual=other)
    check([layer], load(target), rng)


@pytest.mark.parametrize("target", TARGETS)
def test_sums_of_32_bits(target: str) -> None:
    rng = np.random.default_rng(4)
    result = check([conv(rng, (3, 40, 5, 5), 20, wide=True)], load(target), rng)["result"]
    assert result.dtype == np.int32
    assert np.abs(result).max() > 2**16


@pytest.mark.parametrize("shift", [-3, 0, 1, 15, 16, 20])
def test_shifts_of_any_size(shift: int) -> None:
    rng = np.random.default_rng(5)
    bias = rng.integers(-(2 ** (shift + 7)), 2 ** (shift + 7), 20) if shift > 0 else rng.integers(-9, 9, 20)
    check([conv(rng, (1, 16, 3, 3), 20, bias=bias, requantize=Requantize(shift))], load("pynq"), rng)


def test_biases_beyond_what_a_weight_tile_adds() -> None:
    rng = np.random.default_rng(6)
    huge = rng.integers(-(2**30), 2**30, 20)
    assert bias_tiles(huge, 16) is None
    result = check([conv(rng, (1, 16, 4, 4), 20, bias=huge, requantize=Requantize(23))], load("pynq"), rng)
    assert len(np.unique(result["result"])) > 10


@given(st.lists(st.integers(-200_000, 200_000), min_size=1, max_size=40), st.sampled_from([8, 16, 32]))
def test_bias_tiles_are_the_bias(values: list[int], block: int) -> None:
    bias = np.array(values, np.int64)
    tiles = bias_tiles(bias, block)
    config = next(load(name) for name in TARGETS if load(name).block == block)
    if tiles is None:
        assert np.abs(bias).max() > 127 * 127 * (block - 1) - 64
        return
    found = tiles.astype(np.int64) @ bias_vector(config)[0].astype(np.int64)
    np.testing.assert_array_equal(found.reshape(-1)[: len(bias)], bias)


@pytest.mark.parametrize("target", TARGETS)
def test_blocks_there_and_back(target: str) -> None:
    config = load(target)
    tensor = Tensor("t", (3, 21, 2, 5))
    array = np.random.default_rng(0).integers(-128, 128, tensor.shape).astype(np.int8)
    packed = pack(array, config)
    assert packed.shape[-2:] == (config.batch, config.block)
    np.testing.assert_array_equal(unpack(packed, tensor, config), array)


def test_groups_read_only_their_blocks() -> None:
    rng = np.random.default_rng(0)
    (depthwise,) = rectangles(conv(rng, (1, 64, 3, 3), 64, groups=64), 16)
    assert depthwise.diagonal
    assert depthwise.tiles.shape == (4, 1, 3, 3, 16, 16)
    lanes = np.arange(16)
    assert not depthwise.tiles[..., lanes[:, None] != lanes].any()
    halves = rectangles(conv(rng, (1, 64, 3, 3), 64, groups=2), 16)
    assert [(r.first_output, r.first_input, r.tiles.shape[:2]) for r in halves] == [
        (0, 0, (2, 2)), (2, 2, (2, 2)),
    ]  # fmt: skip


def test_the_reference_against_a_convolution_written_out() -> None:
    rng = np.random.default_rng(1)
    layer = conv(rng, (2, 6, 5, 4), 4, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), groups=2)
    data = rng.integers(-128, 128, (2, 6, 5, 4)).astype(np.int64)
    wanted = np.zeros(layer.result.shape, np.int64)
    for n, o, y, x in np.ndindex(*wanted.shape):
        for i, ky, kx in np.ndindex(3, 3, 2):
            row, column = y * 2 - 1 + ky, x + kx * 2
            if 0 <= row < 5 and 0 <= column < 4:
                wanted[n, o, y, x] += data[n, o // 2 * 3 + i, row, column] * int(layer.weight[o, i, ky, kx])
    np.testing.assert_array_equal(convolve(data, layer), wanted)


def test_padding_is_not_multiplied() -> None:
    """A 3x3 kernel on 7x7 with a border meets 19 x 19 data instead of 21 x 21."""
    layer = conv(np.random.default_rng(0), (1, 32, 7, 7), 32, pads=(1, 1, 1, 1))
    config = load("pynq")
    region = build_region([layer], ["result"], config, PIPELINED)
    code = region.program.instructions(config)
    steps = sum(one.steps for one in code if isinstance(one, isa.Gemm) and not one.reset)
    assert steps == 19 * 19 * 4 + 49 * 2  # and the bias


def test_double_buffering_is_faster() -> None:
    layer = conv(np.random.default_rng(0), (1, 256, 14, 14), 256, (1, 1))
    config = load("pynq")
    both = {n: choose_tiling(layer, config, PIPELINED, contexts=n) for n in (1, 2)}
    one, two = (layer_cycles(layer, both[n], config, PIPELINED) for n in (1, 2))
    assert two < 0.9 * one


def test_the_choice_is_no_slower_than_what_was_simulated() -> None:
    layer = conv(np.random.default_rng(0), (1, 64, 14, 14), 64, pads=(1, 1, 1, 1))
    config = load("pynq")
    chosen = layer_cycles(layer, choose_tiling(layer, config, PIPELINED), config, PIPELINED)
    others = [layer_cycles(layer, t, config, PIPELINED) for t in list(candidates(layer, config, 2))[::9]]
    assert chosen <= min(others) * 1.03


def test_a_layer_that_fits_nowhere_is_named() -> None:
    layer = conv(np.random.default_rng(0), (1, 16, 40, 40), 16, (40, 40), name="huge")
    with pytest.raises(UsageError, match=r"huge: no tile .* kernel 40x40 takes 1600 weight tiles"):
        choose_tiling(layer, load("pynq"), PIPELINED)
    small = conv(np.random.default_rng(0), (1, 16, 4, 4), 16, name="small")
    with pytest.raises(UsageError, match=r"small: Tiling.* does not fit"):
        check([small], load("pynq"), np.random.default_rng(0), tilings={"small": Tiling(999, 1, 2, 2)})
