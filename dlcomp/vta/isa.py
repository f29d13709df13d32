"""Instruction set 0.0.2: instructions and micro-ops as values, and their two-word binary form.

An instruction is 128 bits, two little-endian 64-bit words; no field straddles them. Field widths follow the
scratchpad depths of the configuration. :func:`layout` is the whole table; encoding and decoding read it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.errors import UsageError
from dlcomp.vta.config import VtaConfig


class Opcode(IntEnum):
    """What an instruction does."""

    LOAD = 0
    STORE = 1
    GEMM = 2
    FINISH = 3
    ALU = 4


class Memory(IntEnum):
    """Scratchpads; ``ACC8`` is ``ACC`` filled from sign-extended bytes."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4
    ACC8 = 5


class AluOp(IntEnum):
    """Element-wise operations; ``SHR`` by a negative amount shifts left. The last three are extensions."""

    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3
    MUL = 4
    CLP = 5
    MOV = 6


ALU_FEATURE = {AluOp.MUL: "alu_mul", AluOp.CLP: "alu_clp", AluOp.MOV: "alu_mov"}


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Header of every instruction: tokens popped before it runs and pushed after it.

    ``prev`` and ``next`` are the neighbours in load, compute, store.
    """

    pop_prev: bool = False
    pop_next: bool = False
    push_prev: bool = False
    push_next: bool = False


@dataclass(frozen=True, kw_only=True)
class Transfer(Instruction):
    """A 2-D copy: rows of ``x_size`` elements, ``x_stride`` apart in DRAM, dense in the scratchpad.

    ``sram_base``, ``dram_base`` and all sizes count elements of ``memory``. Pads surround a loaded block with
    zeros (with the least value where ``pad_min``). ``x_size`` 0 moves nothing: a carrier of tokens.
    """

    memory: Memory
    sram_base: int = 0
    dram_base: int = 0
    y_size: int = 0
    x_size: int = 0
    x_stride: int = 0
    y_pad_0: int = 0
    y_pad_1: int = 0
    x_pad_0: int = 0
    x_pad_1: int = 0
    pad_min: bool = False

    @property
    def rows(self) -> int:
        """Rows in the scratchpad."""
        return self.y_pad_0 + self.y_size + self.y_pad_1

    @property
    def columns(self) -> int:
        """Elements of a row in the scratchpad."""
        return self.x_pad_0 + self.x_size + self.x_pad_1


@dataclass(frozen=True, kw_only=True)
class Load(Transfer):
    """DRAM to scratchpad."""


@dataclass(frozen=True, kw_only=True)
class Store(Transfer):
    """Scratchpad to DRAM."""


@dataclass(frozen=True, kw_only=True)
class Loops(Instruction):
    """The loop nest of GEMM and ALU: ``iter_out`` x ``iter_in`` x micro-ops ``[uop_bgn, uop_end)``.

    An index is that of the micro-op plus ``out * factor_out + in * factor_in``.
    """

    reset: bool = False
    uop_bgn: int = 0
    uop_end: int = 0
    iter_out: int = 1
    iter_in: int = 1
    dst_factor_out: int = 0
    dst_factor_in: int = 0
    src_factor_out: int = 0
    src_factor_in: int = 0

    @property
    def steps(self) -> int:
        """Micro-ops executed."""
        return self.iter_out * self.iter_in * max(0, self.uop_end - self.uop_bgn)


@dataclass(frozen=True, kw_only=True)
class Gemm(Loops):
    """``acc[dst] += inp[src] @ wgt[w].T`` in int32 that wraps; ``reset`` sets ``acc[dst]`` to 0 instead."""

    wgt_factor_out: int = 0
    wgt_factor_in: int = 0


@dataclass(frozen=True, kw_only=True)
class Alu(Loops):
    """``acc[dst] = op(acc[dst], operand)``; the operand is ``imm`` (16 bits, signed) or ``acc[src]``."""

    op: AluOp
    use_imm: bool = False
    imm: int = 0


@dataclass(frozen=True, kw_only=True)
class Finish(Instruction):
    """Ends a program."""


Field = tuple[str, int]
_HEADER: tuple[Field, ...] = (
    ("opcode", 3),
    ("pop_prev", 1),
    ("pop_next", 1),
    ("push_prev", 1),
    ("push_next", 1),
)
_CLASS = {Opcode.LOAD: Load, Opcode.STORE: Store, Opcode.GEMM: Gemm, Opcode.FINISH: Finish, Opcode.ALU: Alu}
_OPCODE = {cls: opcode for opcode, cls in _CLASS.items()}


@functools.lru_cache(maxsize=64)
def layout(opcode: Opcode, config: VtaConfig) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """Fields of the two words of ``opcode``, from bit 0 up, as ``(name, bits)``."""
    if opcode is Opcode.FINISH:
        return _HEADER, ()
    if opcode in (Opcode.LOAD, Opcode.STORE):
        word0 = (*_HEADER, ("memory", 3), ("sram_base", 16), ("dram_base", 32))
        if "pad_min" in config.features:
            word0 = (*word0, ("pad_min", 1))
        pads = tuple((name, 4) for name in ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1"))
        return word0, (("y_size", 16), ("x_size", 16), ("x_stride", 16), *pads)
    uop, inp, wgt, acc = (config.log_depth(memory) for memory in ("uop", "inp", "wgt", "acc"))
    loops: tuple[Field, ...] = (
        ("reset", 1),
        ("uop_bgn", uop),
        ("uop_end", uop + 1),
        ("iter_out", 14),
        ("iter_in", 14),
    )
    source = inp if opcode is Opcode.GEMM else acc
    factors: tuple[Field, ...] = (
        ("dst_factor_out", acc),
        ("dst_factor_in", acc),
        ("src_factor_out", source),
        ("src_factor_in", source),
    )
    if opcode is Opcode.GEMM:
        return (*_HEADER, *loops), (*factors, ("wgt_factor_out", wgt), ("wgt_factor_in", wgt))
    return (*_HEADER, *loops), (*factors, ("op", 3), ("use_imm", 1), ("imm", 16))


def opcode_of(instruction: Instruction) -> Opcode:
    """The opcode of an instruction value."""
    return _OPCODE[type(instruction)]


def _pack(layout_: tuple[Field, ...], values: dict[str, int], what: str) -> int:
    word = shift = 0
    for name, bits in layout_:
        value = values.pop(name)
        low, high = (-(1 << 15), (1 << 15) - 1) if name == "imm" else (0, (1 << bits) - 1)
        if not low <= value <= high:
            raise UsageError(f"{what}: {name} {value} is outside [{low}, {high}] ({bits} bits)")
        word |= (value & ((1 << bits) - 1)) << shift
        shift += bits
    return word


def encode(instruction: Instruction, config: VtaConfig) -> tuple[int, int]:
    """The two 64-bit words of an instruction; UsageError names the field that does not fit."""
    opcode = opcode_of(instruction)
    values = {field.name: int(getattr(instruction, field.name)) for field in fields(instruction)}
    values["opcode"] = int(opcode)
    if isinstance(instruction, Alu):
        _need_alu(instruction.op, config)
    words = [_pack(part, values, opcode.name) for part in layout(opcode, config)]
    if any(values.values()):
        raise UsageError(f"{opcode.name}: pad_min needs the feature pad_min", hint="FEATURES in the target")
    return words[0], words[1]


def _need_alu(op: AluOp, config: VtaConfig) -> None:
    feature = ALU_FEATURE.get(op)
    if feature and feature not in config.features:
        raise UsageError(f"ALU {op.name} needs the feature {feature}", hint="FEATURES in the target")


def decode(words: tuple[int, int], config: VtaConfig) -> Instruction:
    """The instruction of two words; UsageError for what no instruction encodes to (a set unused bit too)."""
    number = int(words[0]) & 7
    if number not in _CLASS:
        raise UsageError(f"unknown opcode {number}")
    opcode = Opcode(number)
    values: dict[str, Any] = {}
    for index, part in enumerate(layout(opcode, config)):
        word = int(words[index])
        for name, bits in part:
            value = word & ((1 << bits) - 1)
            values[name] = bool(value) if bits == 1 else value
            word >>= bits
        if word:
            raise UsageError(f"{opcode.name}: an unused bit of word {index} is set")
    del values["opcode"]
    if "memory" in values:
        if values["memory"] not in list(Memory):
            raise UsageError(f"{opcode.name}: unknown memory {values['memory']}")
        values["memory"] = Memory(values["memory"])
    if opcode is Opcode.ALU:
        if values["op"] not in list(AluOp):
            raise UsageError(f"ALU: unknown operation {values['op']}")
        values["op"] = AluOp(values["op"])
        _need_alu(values["op"], config)
        values["imm"] -= (values["imm"] >> 15) << 16
    for name in ("uop_bgn", "uop_end") if "uop_bgn" in values else ():
        values[name] = int(values[name])
    instruction: Instruction = _CLASS[opcode](**{k: _typed(k, v) for k, v in values.items()})
    return instruction


_FLAGS = {"pop_prev", "pop_next", "push_prev", "push_next", "reset", "use_imm", "pad_min"}


def _typed(name: str, value: Any) -> Any:
    # A 1-bit index field of a tiny scratchpad is still a number.
    return value if name in _FLAGS or not isinstance(value, bool) else int(value)


def encode_uops(uops: npt.NDArray[np.int64], config: VtaConfig) -> npt.NDArray[np.uint32]:
    """Micro-ops ``(N, 3)`` of dst, src and wgt indices as ``(N,)`` 32-bit words."""
    out = np.zeros(len(uops), np.uint64)
    shift = 0
    for column, (name, bits) in enumerate(uop_layout(config)):
        values = uops[:, column]
        if len(values) and (values.min() < 0 or values.max() >= 1 << bits):
            bad = int(np.argmax((values < 0) | (values >= 1 << bits)))
            raise UsageError(f"micro-op {bad}: {name} {int(values[bad])} does not fit {bits} bits")
        out |= values.astype(np.uint64) << np.uint64(shift)
        shift += bits
    return out.astype(np.uint32)


def decode_uops(words: npt.NDArray[np.uint32], config: VtaConfig) -> npt.NDArray[np.int64]:
    """The inverse of :func:`encode_uops`."""
    columns = []
    rest = words.astype(np.int64)
    for _, bits in uop_layout(config):
        columns.append(rest & ((1 << bits) - 1))
        rest = rest >> bits
    return np.stack(columns, axis=1)


def uop_layout(config: VtaConfig) -> tuple[Field, ...]:
    """Fields of a micro-op from bit 0 up; the source is of ``inp`` for GEMM and of ``acc`` for ALU."""
    acc, inp, wgt = (config.log_depth(memory) for memory in ("acc", "inp", "wgt"))
    return ("dst_idx", acc), ("src_idx", max(acc, inp)), ("wgt_idx", wgt)
