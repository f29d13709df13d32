"""Why depthwise convolutions multiply by diagonal tiles: one cycle a tap, where the ALU takes six.

The ALU multiplies in place and has no multiply-add: a tap is a copy, a product and a sum, two cycles each.
"""

from __future__ import annotations

import numpy as np
import pytest

from dlcomp.codegen.vta import Box, Call, Loop, Stream
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import simulate
from dlcomp.vta.functional import run
from dlcomp.vta.isa import AluOp, Memory
from dlcomp.vta.program import Program
from dlcomp.vta_targets import load, names

TAPS = 9


def with_products(name: str) -> VtaConfig:
    """A described accelerator whose ALU multiplies, and copies in one operation."""
    keys = load(name).to_dict()
    return VtaConfig.of({**keys, "FEATURES": sorted({*keys["FEATURES"], "alu_mov", "alu_mul"})})


def by_alu(pixels: int, config: VtaConfig) -> Program:
    """Nine taps on one block of channels, data and factors in the accumulators."""
    stream = Stream(config)
    for name, count in (("data", pixels), ("factors", TAPS)):
        stream.buffer(name, "input", count * config.element_bytes("acc"))
    stream.buffer("result", "output", pixels * config.element_bytes("out"))
    data, result, product, factors = 0, pixels, 2 * pixels, 3 * pixels
    stream.load(Memory.ACC, data, "data", Box(0, 1, pixels, pixels))
    stream.load(Memory.ACC, factors, "factors", Box(0, 1, TAPS, TAPS))
    stream.reset(result, 2 * pixels)
    for tap in range(TAPS):
        for op, target, source, step in (
            (AluOp.MOV, product, data, 1),
            (AluOp.MUL, product, factors + tap, 0),
            (AluOp.ADD, result, product, 1),
        ):
            stream.alu_register(op, Call(np.array([[target, source, 0]]), inner=Loop(pixels, 1, step)))
    stream.store(result, "result", Box(0, 1, pixels, pixels))
    return stream.finish()


def by_gemm(pixels: int, config: VtaConfig) -> Program:
    """The same with a diagonal weight tile a tap."""
    stream = Stream(config)
    stream.buffer("data", "input", pixels * config.element_bytes("inp"))
    stream.buffer("factors", "input", TAPS * config.element_bytes("wgt"))
    stream.buffer("result", "output", pixels * config.element_bytes("out"))
    stream.load(Memory.INP, 0, "data", Box(0, 1, pixels, pixels))
    stream.load(Memory.WGT, 0, "factors", Box(0, 1, TAPS, TAPS))
    stream.reset(0, pixels)
    for tap in range(TAPS):
        stream.gemm(Call(np.array([[0, 0, tap]]), inner=Loop(pixels, 1, 1)))
    stream.store(0, "result", Box(0, 1, pixels, pixels))
    return stream.finish()


@pytest.mark.parametrize("pixels", [16, 49, 196])
@pytest.mark.parametrize("target", names())
def test_diagonal_tiles_are_the_cheaper_way_and_compute_the_same(target: str, pixels: int) -> None:
    config = with_products(target)
    pixels = min(pixels, (config.depth("acc") - TAPS) // 3)
    rng = np.random.default_rng(0)
    data = rng.integers(-4, 5, (pixels, config.batch, config.block))
    factors = rng.integers(-3, 4, (TAPS, config.block))
    wanted = (data * factors.sum(axis=0)).astype(np.int8)
    alu, gemm = by_alu(pixels, config), by_gemm(pixels, config)
    tiles = np.stack([np.diag(row) for row in factors]).astype(np.int8)
    rows = np.repeat(factors[:, None], config.batch, axis=1)
    results = [
        run(alu, config, {"data": data.astype(np.int32), "factors": rows.astype(np.int32)}),
        run(gemm, config, {"data": data.astype(np.int8), "factors": tiles}),
    ]
    for found in results:
        np.testing.assert_array_equal(found.outputs["result"].reshape(wanted.shape), wanted)
    # 1.4 times at 16 pixels of 64 channels, where tiles are most of what is loaded; 4 times and more at 196.
    assert simulate(alu, config).cycles > 1.3 * simulate(gemm, config).cycles
