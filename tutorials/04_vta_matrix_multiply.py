"""A blocked matrix product on the VTA accelerator, from one block at a time to nine tenths of its peak.

C = clip((A B^T) >> 12) with A of 64 x 1024 and B of 1024 x 1024 int8 numbers. The array multiplies a vector
of 16 by a tile of 16 x 16 in a cycle, so 262,144 cycles are the least. What counts is how often the same
bytes come over the bus, and whether anything is computed meanwhile. Every program is run and compared with
NumPy; the last line is what dlcomp's compiler makes of the same product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlcomp.codegen.vta import Box, Call, Loop, Stream, build_region
from dlcomp.codegen.vta.blocks import pack
from dlcomp.codegen.vta.operators import Conv, Requantize, Tensor
from dlcomp.vta.cycles import simulate
from dlcomp.vta.functional import run
from dlcomp.vta.isa import AluOp, Memory
from dlcomp.vta.program import Program
from dlcomp.vta.timing import preset
from dlcomp.vta_targets import load

CONFIG = load("pynq")
TIMING = preset("pipelined")
M, N, K, SHIFT = 64, 1024, 1024, 12
# Blocks of 16 along the columns of C and along the sum.
NB, KB = N // CONFIG.block, K // CONFIG.block
LEAST = M * NB * KB


@dataclass(frozen=True)
class Tiles:
    """Rows, blocks of columns, and blocks of the sum that are in the scratchpads at a time.

    With 2 ``contexts`` the scratchpads hold two of everything: one is loaded while the other is used.
    """

    m: int
    n: int
    k: int
    contexts: int = 1


def product(tiles: Tiles) -> Program:
    """Three loops over tiles; inside, one instruction multiplies a whole tile."""
    stream = Stream(CONFIG)
    stream.buffer("a", "input", M * K)
    stream.buffer("b", "input", N * K)
    stream.buffer("c", "output", M * N)
    number = turn = 0
    for m in range(0, M, tiles.m):
        for n in range(0, NB, tiles.n):
            acc = turn % tiles.contexts * tiles.m * tiles.n
            turn += 1
            stream.reset(acc, tiles.m * tiles.n)
            for k in range(0, KB, tiles.k):
                slot = number % tiles.contexts
                number += 1
                inp, wgt = slot * tiles.m * tiles.k, slot * tiles.n * tiles.k
                # (offset, rows, columns, stride) in elements: a vector of A, a 16 x 16 tile of B.
                stream.load(Memory.INP, inp, "a", Box(m * KB + k, tiles.m, tiles.k, KB))
                stream.load(Memory.WGT, wgt, "b", Box(n * KB + k, tiles.n, tiles.k, KB))
                stream.gemm(multiply(tiles, acc, inp, wgt))
            epilogue(stream, acc, tiles.m * tiles.n)
            stream.store(acc, "c", Box(m * NB + n, tiles.m, tiles.n, NB))
    return stream.finish()


def multiply(tiles: Tiles, acc: int, inp: int, wgt: int) -> Call:
    """acc[i, j] += inp[i, s] wgt[j, s]: a micro-op for each j, loops over s and, inside it, i.

    The sum is the outermost loop: a pipeline cannot add to the same accumulator in every cycle, and this one
    asks for two other products between (the simulator refuses the program otherwise).
    """
    blocks = np.arange(tiles.n)
    uops = np.stack([acc + blocks, np.full(tiles.n, inp), wgt + blocks * tiles.k], axis=1)
    return Call(uops, Loop(tiles.k, src=1, wgt=1), Loop(tiles.m, dst=tiles.n, src=tiles.k))


def epilogue(stream: Stream, acc: int, count: int) -> None:
    """Shift and clip on the ALU: the store drops what is above 8 bits."""
    stream.alu(AluOp.SHR, SHIFT, acc, count)
    stream.alu(AluOp.MAX, -128, acc, count)
    stream.alu(AluOp.MIN, 127, acc, count)


def compiled(b: np.ndarray) -> Program:
    """The compiler's: a dense layer is a convolution of one pixel, its weights are constants."""
    data, result = Tensor("a", (M, K, 1, 1)), Tensor("c", (M, N, 1, 1))
    # Its shift rounds; a bias of minus a half makes it the plain one of above.
    bias = np.full(N, -(1 << SHIFT - 1), np.int32)
    layer = Conv("dense", data, result, b.reshape(N, K, 1, 1), bias, Requantize(SHIFT))
    return build_region([layer], ["c"], CONFIG, TIMING).program


def main() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, (M, K)).astype(np.int8)
    b = rng.integers(-128, 128, (N, K)).astype(np.int8)
    right = np.clip(a.astype(np.int32) @ b.astype(np.int32).T >> SHIFT, -128, 127)
    tiles_of_b = b.reshape(NB, CONFIG.block, KB, CONFIG.block).transpose(0, 2, 1, 3)
    inputs = {"a": a, "b": np.ascontiguousarray(tiles_of_b)}
    print(f"({M} x {K}) x ({K} x {N}) on {CONFIG.target}; the array alone takes {LEAST:,} cycles\n")
    print(f"{'program':42} {'instructions':>12} {'bytes':>10} {'cycles':>10} {'of peak':>8}")
    show("1. a block of 4 rows at a time", product(Tiles(4, 1, 64)), inputs, right)
    show("2. all rows, a block of columns", product(Tiles(64, 1, 16)), inputs, right)
    show("3. tiles of 64 x 16 x 16 blocks", product(Tiles(64, 16, 16)), inputs, right)
    show("4. the same, two of everything", product(Tiles(64, 16, 16, contexts=2)), inputs, right)
    show("5. shorter tiles, two of everything", product(Tiles(64, 16, 8, contexts=2)), inputs, right)
    packed = {"a": pack(a.reshape(M, K, 1, 1), CONFIG)}
    show("6. the compiler's choice", compiled(b), packed, right)


def show(title: str, program: Program, inputs: dict[str, np.ndarray], right: np.ndarray) -> None:
    """Run, compare, time."""
    found = run(program, CONFIG, inputs)
    assert np.array_equal(found.outputs["c"].reshape(right.shape), right), title
    cycles = simulate(program, CONFIG, TIMING).cycles
    figures = f"{len(program.words):12,} {found.counters.total_bytes:10,} {cycles:10,} {LEAST / cycles:8.0%}"
    print(f"{title:42} {figures}")


if __name__ == "__main__":
    main()
