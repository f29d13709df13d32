"""A program for the VTA accelerator by hand: the sum of two vectors, three ways, timed cycle by cycle.

VTA has three stages (load, compute, store) that run beside each other and wait for each other by tokens.
C = clip(A + B) of 16,384 numbers is loaded, added, clipped and stored: first all at once as 32-bit numbers,
then in pieces, then as bytes that the multiplier widens and adds. Each program runs on the exact functional
simulator, is compared with NumPy, and is timed by the cycle simulator. At the end one token is taken away.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dlcomp.codegen.vta import Box, Call, Loop, Stream
from dlcomp.vta.assembly import disassemble
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import simulate
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.functional import run
from dlcomp.vta.isa import AluOp, Memory
from dlcomp.vta.program import Program
from dlcomp.vta_targets import load

CONFIG = load("pynq")
# An element of a scratchpad is a vector of this many numbers; whatever is loaded and stored counts elements.
LANES = CONFIG.batch * CONFIG.block
NUMBERS = 16_384
ELEMENTS = NUMBERS // LANES


def adder(piece: int) -> Program:
    """A and B as 32-bit numbers straight into the accumulators, ``piece`` elements of each at a time.

    Two pieces are in the scratchpad at once, so that one is stored while the next is added. Yet loads into
    the accumulators are the compute stage's own: nothing loads beside it.
    """
    stream = Stream(CONFIG)
    for name in "ab":
        stream.buffer(name, "input", NUMBERS * 4)
    stream.buffer("c", "output", NUMBERS)
    for number, first in enumerate(range(0, ELEMENTS, piece)):
        a = number % 2 * 2 * piece if ELEMENTS > piece else 0
        b, box = a + piece, Box(first, 1, piece, piece)
        stream.load(Memory.ACC, a, "a", box)
        stream.load(Memory.ACC, b, "b", box)
        # acc[a + i] += acc[b + i]: one micro-op inside a loop over i.
        stream.alu_register(AluOp.ADD, Call(np.array([[a, b, 0]]), inner=Loop(piece, dst=1, src=1)))
        _clip_and_store(stream, a, box)
    return stream.finish()


def widening_adder(piece: int) -> Program:
    """A and B as bytes through ``inp``: the identity matrix as weights widens and adds them in one step.

    Now there is a load stage that runs ahead, and a quarter of the bytes to load.
    """
    stream = Stream(CONFIG)
    for name in "ab":
        stream.buffer(name, "input", NUMBERS)
    stream.buffer("c", "output", NUMBERS)
    stream.load(Memory.WGT, 0, stream.identity(1), Box(0, 1, 1, 1))
    for number, first in enumerate(range(0, ELEMENTS, piece)):
        half, box = number % 2, Box(first, 1, piece, piece)
        acc = half * piece
        stream.reset(acc, piece)
        for place, name in enumerate("ab"):
            source = (2 * half + place) * piece
            stream.load(Memory.INP, source, name, box)
            stream.gemm(Call(np.array([[acc, source, 0]]), inner=Loop(piece, dst=1, src=1)))
        _clip_and_store(stream, acc, box)
    return stream.finish()


def _clip_and_store(stream: Stream, acc: int, box: Box) -> None:
    """A store keeps the low 8 bits and drops the rest, so that what does not fit is clipped before."""
    stream.alu(AluOp.MAX, -128, acc, box.columns)
    stream.alu(AluOp.MIN, 127, acc, box.columns)
    stream.store(acc, "c", box)


def main() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (2, NUMBERS)).astype(np.int8)
    right = np.clip(a.astype(np.int32) + b, -128, 127)
    wide = {"a": a.astype(np.int32), "b": b.astype(np.int32)}
    print(f"{CONFIG.target}: {CONFIG.model_string}, {LANES} numbers an element, bus {CONFIG.bus_bits} bits\n")
    print(f"{'program':44} {'instructions':>12} {'cycles':>8} {'load':>6} {'compute':>8} {'store':>6}")
    # Both vectors have 1024 elements, and the accumulators are 2048.
    show("1. all at once", adder(ELEMENTS), wide, right)
    show("2. in pieces of 256, stored beside adding", adder(256), wide, right)
    program = widening_adder(256)
    show("3. bytes, widened by the multiplier", program, {"a": a, "b": b}, right)
    print("\nThe first instructions of the last one; push and pop are the tokens:")
    print("".join(f"  {line}\n" for line in disassemble(program.instructions(CONFIG)).splitlines()[:9]))
    print(f"Without the first token: {fault(program, {'a': a, 'b': b})}")


def show(title: str, program: Program, inputs: dict[str, np.ndarray], right: np.ndarray) -> None:
    """Run, compare, time."""
    found = run(program, CONFIG, inputs).outputs["c"]
    assert np.array_equal(found, right), title
    times = simulate(program, CONFIG)
    busy = times.busy
    print(
        f"{title:44} {len(program.words):12} {times.cycles:8,} {busy['load']:6,} {busy['compute']:8,} "
        f"{busy['store']:6,}"
    )


def fault(program: Program, inputs: dict[str, np.ndarray], config: VtaConfig = CONFIG) -> str:
    """What the functional simulator says when the first token from load to compute is not sent."""
    code = list(program.instructions(config))
    sender = next(n for n, one in enumerate(code) if one.push_next)
    receiver = next(n for n, one in enumerate(code) if one.pop_prev)
    code[sender] = dataclasses.replace(code[sender], push_next=False)
    code[receiver] = dataclasses.replace(code[receiver], pop_prev=False)
    try:
        run(Program.of(config, code, program.buffers), config, inputs)
    except ProgramFault as error:
        return str(error)
    raise AssertionError("a race went unseen")


if __name__ == "__main__":
    main()
