"""The functional simulator against a scalar interpreter, and every fault that it must find."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpreter import Interpreter
from random_programs import random_program, small

from dlcomp.errors import DlcompError, UsageError
from dlcomp.vta import arithmetic, functional, isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import simulate
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.footprint import Footprints
from dlcomp.vta.products import multiply, products
from dlcomp.vta.program import Program
from dlcomp.vta.schedule import order, pops, pushes, stage_of

SHAPES = (small(), small(log_batch=1), small(log_batch=2, log_block=2), small(log_block=3))


def interpreted(program: Program, config: VtaConfig, inputs: dict[str, np.ndarray]) -> np.ndarray:
    dram = bytearray(program.dram_bytes)
    for buffer in program.buffers:
        data = inputs[buffer.name].tobytes() if buffer.kind == "input" else buffer.data
        dram[buffer.address : buffer.address + len(data)] = data
    Interpreter(config.to_dict(), dram).run([(low, high) for low, high in program.words.tolist()])
    result = program.buffer("y")
    return np.frombuffer(bytes(dram[result.address : result.end]), np.int8)


def agree(seed: int) -> None:
    config = SHAPES[seed % len(SHAPES)]
    program, inputs = random_program(config, seed)
    wanted = interpreted(program, config, inputs)
    assert_order_of_cycles(program, config, seed)
    for semantics in functional.SEMANTICS:
        found = functional.run(program, config, inputs, semantics=semantics)
        np.testing.assert_array_equal(found.outputs["y"], wanted, err_msg=f"seed {seed}, {semantics}")


def assert_order_of_cycles(program: Program, config: VtaConfig, seed: int) -> None:
    """The cycle simulator runs every instruction once, and after all that its tokens say ended before."""
    result = simulate(program, config)
    spans = {span.index: span for span in result.spans}
    assert len(spans) == len(program.words) == len(result.spans), f"seed {seed}"
    ends: tuple[list[int], ...] = ([], [], [])
    for step in order(program.instructions(config)):
        begin = spans[step.index].start
        for stage, count in enumerate(step.clock):
            assert begin >= max(ends[stage][:count], default=0), f"seed {seed}, instruction {step.index}"
        ends[step.stage].append(spans[step.index].end)


def test_random_programs_agree_with_the_interpreter() -> None:
    for seed in range(100):
        agree(seed)


@pytest.mark.slow
def test_ten_thousand_random_programs_agree_with_the_interpreter() -> None:
    for seed in range(100, 10_100):
        agree(seed)


def rebuilt(program: Program, config: VtaConfig, code: list[isa.Instruction]) -> Program:
    return Program.of(config, code, program.buffers)


def uses_loads(code: list[isa.Instruction], begin: int) -> bool:
    """Whether the round of compute that begins at ``begin`` multiplies anything."""
    end = next(i for i in range(begin, len(code)) if isinstance(code[i], isa.Store))
    return any(isinstance(one, isa.Gemm) and not one.reset and one.steps for one in code[begin:end])


TOKENS = ("pop_prev", "pop_next", "push_prev", "push_next")


@pytest.mark.parametrize("seed", range(12))
def test_every_dropped_and_every_duplicated_token_is_reported(seed: int) -> None:
    config = small()
    program, inputs = random_program(config, seed)
    code = list(program.instructions(config))
    for index, instruction in enumerate(code):
        for token in TOKENS:
            changed = list(code)
            changed[index] = dataclasses.replace(instruction, **{token: not getattr(instruction, token)})
            with pytest.raises(ProgramFault) as caught:
                functional.run(rebuilt(program, config, changed), config, inputs)
            assert caught.value.kind in ("deadlock", "tokens", "illegal", "race")


@pytest.mark.parametrize("seed", range(12))
def test_swapped_tokens_are_reported_or_change_nothing(seed: int) -> None:
    """A token sent to, or awaited from, the other neighbour: never another result, silently.

    Where compute has both neighbours, a swap may leave a program that is right as it is, as one of two tokens
    stands where the other did; then the result is the same and no race is left.
    """
    config = small()
    program, inputs = random_program(config, seed)
    code = list(program.instructions(config))
    clean = functional.run(program, config, inputs).outputs["y"]
    reported = 0
    for index, one in enumerate(code):
        for a, b in (("pop_prev", "pop_next"), ("push_prev", "push_next")):
            if getattr(one, a) == getattr(one, b):
                continue
            changed = list(code)
            changed[index] = dataclasses.replace(one, **{a: getattr(one, b), b: getattr(one, a)})
            try:
                found = functional.run(rebuilt(program, config, changed), config, inputs)
            except ProgramFault:
                reported += 1
            else:
                np.testing.assert_array_equal(found.outputs["y"], clean)
    assert reported >= 4


@pytest.mark.parametrize("seed", range(12))
def test_tokens_sent_too_early_are_reported_or_change_nothing(seed: int) -> None:
    """From the instruction before in the same stage: a race, unless that which follows touches nothing."""
    config = small()
    program, inputs = random_program(config, seed)
    code = list(program.instructions(config))
    clean = functional.run(program, config, inputs).outputs["y"]
    faults = 0
    for index, one in enumerate(code):
        sent = {name: True for name in ("push_next", "push_prev") if getattr(one, name)}
        before = [n for n in range(index) if stage_of(code[n]) == stage_of(one)]
        if not sent or not before or any(getattr(code[before[-1]], name) for name in sent):
            continue
        changed = list(code)
        changed[index] = dataclasses.replace(one, push_next=False, push_prev=False)
        changed[before[-1]] = dataclasses.replace(code[before[-1]], **sent)
        try:
            found = functional.run(rebuilt(program, config, changed), config, inputs)
        except ProgramFault:
            faults += 1
        else:
            np.testing.assert_array_equal(found.outputs["y"], clean)
    assert faults >= 1


@pytest.mark.parametrize("seed", range(30))
def test_a_pair_of_tokens_less_is_a_race(seed: int) -> None:
    """Without one push and its pop nothing hangs and nothing is left over: only the shadow can tell."""
    config = small()
    program, inputs = random_program(config, seed)
    code = list(program.instructions(config))
    for queue in ((0, 1), (1, 2)):
        source = [i for i, one in enumerate(code) if queue in pushes(one, stage_of(one))]
        sink = [i for i, one in enumerate(code) if queue in pops(one, stage_of(one))]
        for a, b in zip(source, sink, strict=True):
            changed = list(code)
            changed[a] = dataclasses.replace(changed[a], push_next=False)
            changed[b] = dataclasses.replace(changed[b], pop_prev=False)
            if queue == (0, 1) and not uses_loads(code, b):
                continue
            with pytest.raises(ProgramFault) as caught:
                functional.run(rebuilt(program, config, changed), config, inputs)
            assert caught.value.kind in ("race", "tokens")


def test_a_deadlock_says_who_waits_for_whom() -> None:
    code = [isa.Load(memory=isa.Memory.INP, pop_next=True, push_next=True)]
    code += [isa.Load(memory=isa.Memory.UOP, pop_prev=True, push_prev=True), isa.Finish()]
    with pytest.raises(ProgramFault, match="load waits at instruction 0 for a token from compute") as caught:
        order(code)
    assert "compute waits at instruction 1 for a token from load" in str(caught.value)
    assert "store has ended" in str(caught.value)


def test_too_many_tokens_for_the_queue_are_found() -> None:
    many = [isa.Load(memory=isa.Memory.INP, push_next=True)] * 256
    takers = [isa.Load(memory=isa.Memory.UOP, pop_prev=True)] * 256
    with pytest.raises(ProgramFault, match="up to 256 tokens from load to compute"):
        order([*many, *takers, isa.Finish()])
    order([*many[:255], *takers[:255], isa.Finish()])


def test_a_corrupt_word_is_never_silent() -> None:
    """Every flipped bit of a program is refused, faults, or changes what is computed, or nothing at all.

    The last happens where a field has no effect (a stride of one row); nothing may crash otherwise.
    """
    config = small()
    program, inputs = random_program(config, 3)
    clean = functional.run(program, config, inputs)
    caught = changed = 0
    for row in range(len(program.words)):
        for word in range(2):
            for bit in range(0, 64, 3):
                words = program.words.copy()
                words[row, word] ^= np.uint64(1 << bit)
                try:
                    found = functional.run(dataclasses.replace(program, words=words), config, inputs)
                except DlcompError:
                    caught += 1
                    continue
                changed += not np.array_equal(found.outputs["y"], clean.outputs["y"])
    assert caught > changed > 0


def test_a_shrunk_scratchpad_is_out_of_range() -> None:
    config = small()
    program, inputs = random_program(config, 5)
    tiny = small(depth=4)
    with pytest.raises(DlcompError, match="made for configuration"):
        functional.run(program, tiny, inputs)
    code = [dataclasses.replace(one, sram_base=one.sram_base + 24) if isinstance(one, isa.Load) and one.memory
            is isa.Memory.INP else one for one in program.instructions(config)]  # fmt: skip
    with pytest.raises(ProgramFault, match=r"inp element .* is out of range: it holds 32"):
        functional.run(rebuilt(program, config, code), config, inputs)


def test_what_is_read_before_it_is_loaded_is_named() -> None:
    config = small()
    program, inputs = random_program(config, 5)
    for memory, name in ((isa.Memory.UOP, "uop"), (isa.Memory.INP, "inp"), (isa.Memory.WGT, "wgt")):
        code = list(program.instructions(config))
        if name != "uop":
            code.insert(-2, isa.Gemm(uop_bgn=0, uop_end=1))
        code = [
            dataclasses.replace(one, x_size=0)
            if isinstance(one, isa.Load) and one.memory is memory else one for one in code
        ]  # fmt: skip
        with pytest.raises(ProgramFault, match=rf"reads {name} element .* nothing has written"):
            functional.run(rebuilt(program, config, code), config, inputs)


def test_dram_out_of_bounds_is_named() -> None:
    config = small()
    program, inputs = random_program(config, 5)
    code = [
        dataclasses.replace(one, dram_base=1 << 30) if isinstance(one, isa.Store) else one
        for one in program.instructions(config)
    ]
    with pytest.raises(ProgramFault, match="lie outside the program's buffers"):
        functional.run(rebuilt(program, config, code), config, inputs)


def test_inputs_are_checked() -> None:
    config = small()
    program, inputs = random_program(config, 5)
    for wrong in ({}, {"x": inputs["x"][:-1]}, {**inputs, "z": inputs["x"]}):
        with pytest.raises(UsageError):
            functional.run(program, config, wrong)


@pytest.mark.parametrize("op", list(isa.AluOp))
def test_alu_at_the_ends_of_int32(op: isa.AluOp) -> None:
    ends = [-(2**31), -(2**31) + 1, -129, -1, 0, 1, 31, 32, 127, 2**31 - 1]
    left, right = (np.array(v, np.int32) for v in zip(*[(x, y) for x in ends for y in ends], strict=True))
    wide = {
        isa.AluOp.MIN: min, isa.AluOp.MAX: max, isa.AluOp.ADD: lambda x, y: x + y,
        isa.AluOp.SHR: lambda x, y: x >> min(y, 99) if y >= 0 else x << min(-y, 99),
        isa.AluOp.MUL: lambda x, y: x * y, isa.AluOp.CLP: lambda x, y: min(max(x, -y), y),
        isa.AluOp.MOV: lambda x, y: y,
    }[op]  # fmt: skip
    wanted = [(wide(int(x), int(y)) + 2**31) % 2**32 - 2**31 for x, y in zip(left, right, strict=True)]
    np.testing.assert_array_equal(arithmetic.apply(op, left, right), wanted)


def test_accumulation_that_is_too_close_is_a_hazard() -> None:
    uops = np.array([[4, 0, 0], [5, 0, 0], [4, 1, 0]])
    found, bases = Footprints(2, 2).of(isa.Gemm(uop_end=3), uops)
    assert (found.too_close, bases) == ((0, 2), (4, 0, 0))
    assert Footprints(2, 1).of(isa.Gemm(uop_end=3), uops)[0].too_close is None


@given(st.integers(0, 2**32 - 1))
def test_products_are_the_steps_one_after_another(seed: int) -> None:
    """Loops of all kinds, mixed ones and accumulators that are written twice among them."""
    rng = np.random.default_rng(seed)
    steps = {
        f"{what}_factor_{loop}": int(rng.integers(0, 3)) * int(rng.integers(0, 2))
        for what in ("dst", "src", "wgt") for loop in ("out", "in")
    }  # fmt: skip
    one = isa.Gemm(uop_end=4, iter_out=int(rng.integers(1, 4)), iter_in=int(rng.integers(1, 4)), **steps)
    uops = rng.integers(0, 6, (4, 3))
    inp, wgt = (rng.integers(-128, 128, (20, *shape)).astype(np.int8) for shape in ((2, 4), (4, 4)))
    wanted, found = np.zeros((20, 2, 4), np.int32), np.zeros((20, 2, 4), np.int32)
    for out in range(one.iter_out):
        for inside in range(one.iter_in):
            for dst, src, weight in uops:
                dst = dst + out * one.dst_factor_out + inside * one.dst_factor_in
                src = src + out * one.src_factor_out + inside * one.src_factor_in
                weight = weight + out * one.wgt_factor_out + inside * one.wgt_factor_in
                wanted[dst] += inp[src].astype(np.int32) @ wgt[weight].astype(np.int32).T
    parts = products(uops, one, 4)
    if parts is None:
        nest = [
            arithmetic.indices(
                uops[:, n], getattr(one, f"{what}_factor_out"), getattr(one, f"{what}_factor_in"), one
            )
            for n, what in enumerate(("dst", "src", "wgt"))
        ]
        arithmetic.gemm(found, inp, wgt, *nest)
    else:
        multiply(found, inp, wgt, parts)
    np.testing.assert_array_equal(found, wanted)
