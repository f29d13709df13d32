"""LOAD and STORE of the functional simulator, and the DRAM behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.errors import UsageError
from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.counters import Counters
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.program import Buffer, Program
from dlcomp.vta.schedule import Step
from dlcomp.vta.scratchpads import Scratchpad, Shadow

_NAMES = {
    isa.Memory.UOP: "uop",
    isa.Memory.WGT: "wgt",
    isa.Memory.INP: "inp",
    isa.Memory.ACC: "acc",
    isa.Memory.OUT: "out",
    isa.Memory.ACC8: "acc8",
}


class Dram:
    """Flat bytes; which are mapped and initialised; a shadow per element of the out scratchpad."""

    def __init__(self, program: Program, config: VtaConfig, inputs: dict[str, npt.NDArray[Any]]) -> None:
        self.config = config
        self.data = np.zeros(program.dram_bytes, np.uint8)
        self.valid = np.zeros(program.dram_bytes, np.bool_)
        self.mapped = np.zeros(program.dram_bytes, np.bool_)
        # Nothing smaller is stored; what is loaded in smaller pieces (micro-ops) is never stored.
        self.grain = config.element_bytes("out")
        self.shadow = Shadow("DRAM", -(-program.dram_bytes // self.grain))
        for buffer in program.buffers:
            self.mapped[buffer.address : buffer.end] = True
            if buffer.kind == "input":
                self._fill(buffer, _bytes_of(buffer, inputs.pop(buffer.name, None)))
            elif buffer.data:
                self._fill(buffer, np.frombuffer(buffer.data, np.uint8))
        if inputs:
            raise UsageError(f"the program has no input {sorted(inputs)[0]!r}")

    def _fill(self, buffer: Buffer, contents: npt.NDArray[np.uint8]) -> None:
        self.data[buffer.address : buffer.end] = contents
        self.valid[buffer.address : buffer.end] = True

    def output(self, buffer: Buffer) -> npt.NDArray[np.int8]:
        """Bytes of an output buffer; ProgramFault if some were never stored."""
        valid = self.valid[buffer.address : buffer.end]
        if not valid.all():
            message = f"byte {int(np.argmin(valid))} of output {buffer.name!r} was never stored"
            raise ProgramFault("uninitialised", message)
        contents: npt.NDArray[np.int8] = self.data[buffer.address : buffer.end].view(np.int8).copy()
        return contents

    def check(self, start: int, end: int, step: Step) -> None:
        """ProgramFault if bytes lie outside every buffer."""
        if end > len(self.mapped) or not self.mapped[start:end].all():
            message = f"DRAM bytes [{start}, {end}) lie outside the program's buffers"
            raise ProgramFault("dram", message, step.index)

    def read(self, start: int, size: int, step: Step) -> npt.NDArray[np.uint8]:
        """Bytes from ``start`` on; ProgramFault for those outside of buffers, or that nothing has written."""
        self.check(start, start + size, step)
        valid = self.valid[start : start + size]
        if not valid.all():
            at = start + int(np.argmin(valid))
            raise ProgramFault("uninitialised", f"loads DRAM byte {at}, which is not written", step.index)
        self.shadow.read(self.granules(start, size), step)
        contents: npt.NDArray[np.uint8] = self.data[start : start + size]
        return contents

    def granules(self, start: int, size: int) -> slice:
        """The shadow's elements of a byte range."""
        return slice(start // self.grain, -(-(start + size) // self.grain))


def _bytes_of(buffer: Buffer, array: npt.NDArray[Any] | None) -> npt.NDArray[np.uint8]:
    if array is None:
        raise UsageError(f"input {buffer.name!r} is missing")
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if flat.size != buffer.size:
        raise UsageError(f"input {buffer.name!r} has {flat.size} bytes, the program wants {buffer.size}")
    return flat


def load(
    one: isa.Load, step: Step, pads: dict[str, Scratchpad], dram: Dram, counters: Counters, strict: bool
) -> None:
    """Copy in, with the padding around."""
    if one.x_size == 0:
        return
    memory = _NAMES[one.memory]
    size = dram.config.element_bytes(memory)
    pad = pads["acc" if memory == "acc8" else memory]
    count = one.rows * one.columns
    pad.check_range(one.sram_base, one.sram_base + count, step)
    _check_load(one, memory, count, dram.config, strict, step)
    whole = count == one.y_size * one.x_size > 0
    if whole and (one.y_size == 1 or one.x_stride == one.x_size):
        # Neighbours in DRAM as in the scratchpad.
        block = dram.read(one.dram_base * size, count * size, step)
    else:
        block = _padded(one, memory, size)
        for row, start in enumerate(_starts(one, size)):
            inside = block[one.y_pad_0 + row, one.x_pad_0 : one.x_pad_0 + one.x_size]
            inside[...] = dram.read(start, one.x_size * size, step).reshape(one.x_size, size)
    where = slice(one.sram_base, one.sram_base + count)
    pad.shadow.write(where, step)
    pad.data[where] = _elements(block, memory, dram.config, pad)
    pad.valid[where] = True
    if pad.name == "acc":
        # The mirror keeps what it had: a STORE now would write the old numbers.
        if strict:
            pads["out"].shadow.write(where, step)
        pads["out"].valid[where] = False
        if not strict:
            pads["out"].data[where] = pad.data[where].astype(np.int8)
            pads["out"].valid[where] = True
    name = "acc_bytes" if memory == "acc8" else f"{memory}_bytes"
    setattr(counters, name, getattr(counters, name) + one.y_size * one.x_size * size)


def _starts(one: isa.Transfer, size: int) -> list[int]:
    """First bytes of the rows in DRAM."""
    return [(one.dram_base + row * one.x_stride) * size for row in range(one.y_size)]


def _padded(one: isa.Load, memory: str, size: int) -> npt.NDArray[np.uint8]:
    """What surrounds the data, ``(rows, columns, size)`` bytes."""
    block = np.zeros((one.rows, one.columns, size), np.uint8)
    if one.pad_min:
        # The least number of the element: of an int32 only the top byte is 0x80.
        block[..., 3 if memory == "acc" else 0 :: 4 if memory == "acc" else 1] = 128
    return block


def _check_load(one: isa.Load, memory: str, count: int, config: VtaConfig, strict: bool, step: Step) -> None:
    padded = count != one.y_size * one.x_size
    if memory == "acc8" and "acc_8bit" not in config.features:
        raise ProgramFault("illegal", "LOAD of ACC8 needs the feature acc_8bit", step.index)
    if memory == "uop" and padded:
        raise ProgramFault("illegal", "micro-ops cannot be padded", step.index)
    if strict and memory == "uop" and one.y_size != 1:
        raise ProgramFault("illegal", "LOAD of micro-ops has y_size 1", step.index)
    if strict and memory == "wgt" and padded:
        raise ProgramFault("illegal", "implementations differ on padding of weights", step.index)


def _elements(
    block: npt.NDArray[np.uint8], memory: str, config: VtaConfig, pad: Scratchpad
) -> npt.NDArray[Any]:
    if memory == "uop":
        return isa.decode_uops(block.reshape(-1).view("<u4").astype(np.uint32), config)
    values = block.reshape(-1).view("<i4" if memory == "acc" else np.int8)
    return values.reshape(-1, *pad.data.shape[1:])


def store(
    one: isa.Store, step: Step, pads: dict[str, Scratchpad], dram: Dram, counters: Counters, strict: bool
) -> None:
    """Copy the low 8 bits of accumulators out."""
    if one.x_size == 0 or one.y_size == 0:
        return
    if one.memory is not isa.Memory.OUT:
        raise ProgramFault("illegal", f"STORE of {one.memory.name}; only OUT can be stored", step.index)
    count = one.y_size * one.x_size
    if one.rows * one.columns != count or one.pad_min:
        raise ProgramFault("illegal", "STORE with padding", step.index)
    pad = pads["out"]
    pad.check_range(one.sram_base, one.sram_base + count, step)
    where = slice(one.sram_base, one.sram_base + count)
    pad.check_valid(where, step)
    (pad if strict else pads["acc"]).shadow.read(where, step)
    size = dram.config.element_bytes("out")
    rows = pad.data[where].view(np.uint8).reshape(one.y_size, -1)
    for row, start in zip(rows, _starts(one, size), strict=True):
        dram.check(start, start + row.size, step)
        dram.shadow.write(dram.granules(start, row.size), step)
        dram.data[start : start + row.size] = row
        dram.valid[start : start + row.size] = True
    counters.out_bytes += count * size
