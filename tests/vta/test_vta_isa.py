"""Encodings: golden words from the published bit positions, round trips, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcomp import vta_targets
from dlcomp.errors import ArtifactError, UsageError
from dlcomp.vta import assembly, isa
from dlcomp.vta.program import Buffer, DramLayout, Program

PYNQ = vta_targets.load("pynq")
CONFIGS = [vta_targets.load(name) for name in vta_targets.names()]


def bits(word: int, high: int, low: int) -> int:
    return (word >> low) & ((1 << (high - low + 1)) - 1)


def whole(instruction: isa.Instruction) -> int:
    low, high = isa.encode(instruction, PYNQ)
    return low | high << 64


def test_load_fields_are_at_the_published_bits() -> None:
    word = whole(
        isa.Load(
            pop_next=True, push_next=True, memory=isa.Memory.ACC, sram_base=0x1234, dram_base=0xDEADBEEF,
            y_size=7, x_size=0xABC, x_stride=0xFFFF, y_pad_0=1, y_pad_1=2, x_pad_0=3, x_pad_1=15,
        )
    )  # fmt: skip
    places = ((2, 0, 0), (3, 3, 0), (4, 4, 1), (5, 5, 0), (6, 6, 1), (9, 7, 3), (25, 10, 0x1234))
    places += ((57, 26, 0xDEADBEEF), (63, 58, 0), (79, 64, 7), (95, 80, 0xABC), (111, 96, 0xFFFF))
    places += ((115, 112, 1), (119, 116, 2), (123, 120, 3), (127, 124, 15))
    assert [bits(word, high, low) for high, low, _ in places] == [value for _, _, value in places]


def test_gemm_fields_are_at_the_published_bits() -> None:
    word = whole(
        isa.Gemm(
            pop_prev=True, push_prev=True, reset=True, uop_bgn=5, uop_end=8192, iter_out=16383, iter_in=3,
            dst_factor_out=1, dst_factor_in=2047, src_factor_out=2, src_factor_in=3, wgt_factor_out=1023,
            wgt_factor_in=4,
        )
    )  # fmt: skip
    places = ((2, 0, 2), (3, 3, 1), (4, 4, 0), (5, 5, 1), (6, 6, 0), (7, 7, 1), (20, 8, 5), (34, 21, 8192))
    places += ((48, 35, 16383), (62, 49, 3), (63, 63, 0), (74, 64, 1), (85, 75, 2047), (96, 86, 2))
    places += ((107, 97, 3), (117, 108, 1023), (127, 118, 4))
    assert [bits(word, high, low) for high, low, _ in places] == [value for _, _, value in places]


def test_alu_and_finish_fields_are_at_the_published_bits() -> None:
    word = whole(isa.Alu(op=isa.AluOp.SHR, use_imm=True, imm=-2, uop_end=1, src_factor_in=9))
    places = ((2, 0, 4), (34, 21, 1), (48, 35, 1), (107, 97, 9), (110, 108, 3), (111, 111, 1))
    places += ((127, 112, 0xFFFE),)
    assert [bits(word, high, low) for high, low, _ in places] == [value for _, _, value in places]
    assert isa.encode(isa.Finish(), PYNQ) == (3, 0)


def test_micro_op_fields_are_at_the_published_bits() -> None:
    word = int(isa.encode_uops(np.array([[2047, 1, 1023]]), PYNQ)[0])
    assert (bits(word, 10, 0), bits(word, 21, 11), bits(word, 31, 22)) == (2047, 1, 1023)


@st.composite
def instructions(draw: st.DrawFn) -> tuple[isa.Instruction, object]:
    config = draw(st.sampled_from(CONFIGS))
    opcode = draw(st.sampled_from(list(isa.Opcode)))
    cls = {"LOAD": isa.Load, "STORE": isa.Store, "GEMM": isa.Gemm, "ALU": isa.Alu, "FINISH": isa.Finish}
    values: dict[str, object] = {}
    ops = [op for op in isa.AluOp if isa.ALU_FEATURE.get(op, "") in ("", *config.features)]
    for name, width in (f for part in isa.layout(opcode, config) for f in part if f[0] != "opcode"):
        if name == "memory":
            values[name] = draw(st.sampled_from(isa.Memory))
        elif name == "op":
            values[name] = draw(st.sampled_from(ops))
        elif name == "imm":
            values[name] = draw(st.integers(-(1 << 15), (1 << 15) - 1))
        elif name in ("pad_min", "reset", "use_imm") or name[:3] in ("pop", "pus"):
            values[name] = draw(st.booleans())
        else:
            values[name] = draw(st.integers(0, (1 << width) - 1))
    return cls[opcode.name](**values), config


@settings(max_examples=300, deadline=None)
@given(instructions())
def test_every_instruction_survives_binary_and_text(case: tuple[isa.Instruction, object]) -> None:
    instruction, config = case
    words = isa.encode(instruction, config)
    assert max(words) < 1 << 64
    assert isa.decode(words, config) == instruction
    assert assembly.assemble(assembly.disassemble([instruction])) == (instruction,)


@given(st.sampled_from(CONFIGS), st.data())
def test_micro_ops_survive(config: object, data: st.DataObject) -> None:
    columns = [st.integers(0, (1 << width) - 1) for _, width in isa.uop_layout(config)]
    rows = data.draw(st.lists(st.tuples(*columns), min_size=1, max_size=8))
    uops = np.array(rows, np.int64)
    np.testing.assert_array_equal(isa.decode_uops(isa.encode_uops(uops, config), config), uops)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (isa.Gemm(uop_bgn=8192), "uop_bgn 8192"),
        (isa.Gemm(iter_out=16384), "iter_out 16384"),
        (isa.Load(memory=isa.Memory.INP, x_pad_0=16), "x_pad_0 16"),
        (isa.Load(memory=isa.Memory.INP, sram_base=-1), "sram_base -1"),
        (isa.Alu(op=isa.AluOp.ADD, imm=32768), "imm 32768"),
        (isa.Alu(op=isa.AluOp.MUL), "feature alu_mul"),
        (isa.Load(memory=isa.Memory.INP, pad_min=True), "feature pad_min"),
    ],
)
def test_what_has_no_encoding_is_refused(instruction: isa.Instruction, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        isa.encode(instruction, PYNQ)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((5, 0), "unknown opcode 5"),
        ((3 | 1 << 40, 0), "unused bit of word 0"),
        ((6 << 7, 0), "unknown memory 6"),
        ((4, 7 << 44), "unknown operation 7"),
        ((4, 4 << 44), "alu_mul"),
    ],
)
def test_what_is_no_instruction_is_not_decoded(words: tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        isa.decode(words, PYNQ)


def test_assembly_errors_name_the_line() -> None:
    for text, message in (
        ("JUMP", "line 1: unknown"),
        ("\nFINISH x=1", "line 2: 'x'"),
        ("LOAD x_size=1", "needs memory"),
        ("GEMM iter_in=a", "a number"),
        ("ALU op=NEG", "one of MIN"),
    ):
        with pytest.raises(UsageError, match=message):
            assembly.assemble(text)


def small_program() -> Program:
    layout = DramLayout()
    layout.add("x", "input", 64)
    layout.add("w", "constant", np.arange(256, dtype=np.uint8))
    return Program.of(
        PYNQ, [isa.Load(memory=isa.Memory.INP, x_size=1, y_size=1), isa.Finish()], layout.buffers
    )


def test_a_program_survives_its_file() -> None:
    program = small_program()
    again = Program.from_bytes(program.to_bytes())
    assert again.buffers == program.buffers
    assert again.instructions(PYNQ) == program.instructions(PYNQ)


def test_every_damaged_byte_is_found() -> None:
    raw = small_program().to_bytes()
    for at in range(len(raw)):
        with pytest.raises(ArtifactError):
            Program.from_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        with pytest.raises(ArtifactError):
            Program.from_bytes(raw[:at])


def test_another_configuration_is_refused() -> None:
    with pytest.raises(ArtifactError, match="made for configuration"):
        small_program().instructions(vta_targets.load("block32"))
    old = dataclasses.replace(small_program(), isa_version="0.0.1")
    with pytest.raises(ArtifactError, match=r"instruction set 0\.0\.1"):
        old.instructions(PYNQ)


def test_overlapping_buffers_are_refused() -> None:
    with pytest.raises(UsageError, match="misplaced"):
        Program.of(PYNQ, [], [Buffer("a", "input", 4096, 5000), Buffer("b", "input", 8192, 1)])
