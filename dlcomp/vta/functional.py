"""The functional simulator: what a program computes, exactly, and everything that is wrong with it.

Two readings of the specification. ``strict`` is what all hardware agrees on: STORE reads the 8-bit ``out``
mirror that only ALU and GEMM (without reset) write, and whatever implementations do differently is refused.
``fsim`` is the reading of the original functional simulator: STORE truncates the accumulator itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.errors import UsageError
from dlcomp.vta import arithmetic, isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.counters import Counters
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.program import Program
from dlcomp.vta.schedule import Step, order
from dlcomp.vta.scratchpads import Scratchpad, scratchpads
from dlcomp.vta.transfer import Dram, load, store

SEMANTICS = ("strict", "fsim")


@dataclass(frozen=True)
class FunctionalResult:
    """Contents of the ``output`` buffers as int8, and the counters."""

    outputs: dict[str, npt.NDArray[np.int8]]
    counters: Counters


def run(
    program: Program,
    config: VtaConfig,
    inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    *,
    semantics: str = "strict",
) -> FunctionalResult:
    """Run ``program``.

    Parameters
    ----------
    inputs : mapping
        Bytes of every ``input`` buffer, arrays of any dtype with exactly the buffer's size.
    semantics : str
        ``strict`` or ``fsim``.

    Raises
    ------
    ArtifactError
        The program was made for another configuration.
    ProgramFault
        Deadlock, left-over tokens, a race, a read of nothing, an index or address out of range.
    """
    if semantics not in SEMANTICS:
        raise UsageError(f"unknown semantics {semantics!r}", hint=f"one of {', '.join(SEMANTICS)}")
    instructions = program.instructions(config)
    machine = _Machine(config, Dram(program, config, dict(inputs or {})), semantics == "strict")
    for step in order(instructions):
        machine.step(instructions[step.index], step)
    outputs = {
        buffer.name: machine.dram.output(buffer) for buffer in program.buffers if buffer.kind == "output"
    }
    machine.counters.insn_bytes = 16 * len(instructions)
    return FunctionalResult(outputs, machine.counters)


class _Machine:
    def __init__(self, config: VtaConfig, dram: Dram, strict: bool) -> None:
        self.config = config
        self.dram = dram
        self.strict = strict
        self.pads = scratchpads(config)
        self.counters = Counters()

    def step(self, one: isa.Instruction, step: Step) -> None:
        counters = self.counters
        counters.instructions += 1
        if isinstance(one, isa.Load):
            counters.loads += 1
            load(one, step, self.pads, self.dram, counters, self.strict)
        elif isinstance(one, isa.Store):
            counters.stores += 1
            store(one, step, self.pads, self.dram, counters, self.strict)
        elif isinstance(one, isa.Gemm):
            counters.gemms += 1
            self._gemm(one, step)
        elif isinstance(one, isa.Alu):
            counters.alus += 1
            self._alu(one, step)

    def _uops(self, one: isa.Loops, step: Step) -> npt.NDArray[np.int64] | None:
        """Micro-ops ``(N, 3)``, or None where nothing runs."""
        if one.steps == 0:
            return None
        uop = self.pads["uop"]
        uop.check_range(one.uop_bgn, one.uop_end, step)
        where = slice(one.uop_bgn, one.uop_end)
        uop.check_valid(where, step)
        found: npt.NDArray[np.int64] = uop.data[where]
        return found

    def _reads(self, pad: Scratchpad, nest: npt.NDArray[np.int64], step: Step) -> None:
        used = np.unique(nest)
        pad.check_range(int(used[0]), int(used[-1]) + 1, step)
        pad.check_valid(used, step)
        pad.shadow.read(used, step)

    def _writes(self, nest: npt.NDArray[np.int64], step: Step, mirrored: bool) -> None:
        used = np.unique(nest)
        acc, out = self.pads["acc"], self.pads["out"]
        acc.check_range(int(used[0]), int(used[-1]) + 1, step)
        acc.shadow.write(used, step)
        acc.valid[used] = True
        # The out mirror is written by every GEMM and ALU instruction, a reset writes something unspecified.
        (out if self.strict else acc).shadow.write(used, step)
        out.valid[used] = mirrored
        if mirrored:
            out.data[used] = acc.data[used].astype(np.int8)

    def _gemm(self, one: isa.Gemm, step: Step) -> None:
        uops = self._uops(one, step)
        if uops is None:
            return
        acc = self.pads["acc"]
        dst = arithmetic.indices(uops[:, 0], one.dst_factor_out, one.dst_factor_in, one)
        if one.reset:
            acc.check_range(int(dst.min()), int(dst.max()) + 1, step)
            acc.data[np.unique(dst)] = 0
            self._writes(dst, step, mirrored=not self.strict)
            self.counters.reset_uops += one.steps
            return
        src = arithmetic.indices(uops[:, 1], one.src_factor_out, one.src_factor_in, one)
        wgt = arithmetic.indices(uops[:, 2], one.wgt_factor_out, one.wgt_factor_in, one)
        self._reads(acc, dst, step)
        self._reads(self.pads["inp"], src, step)
        self._reads(self.pads["wgt"], wgt, step)
        if self.strict:
            _check_distance(dst, self.config.hazard_distance, step)
        arithmetic.gemm(acc.data, self.pads["inp"].data, self.pads["wgt"].data, dst, src, wgt)
        self._writes(dst, step, mirrored=True)
        self.counters.gemm_uops += one.steps
        self.counters.macs += one.steps * self.config.macs_per_cycle

    def _alu(self, one: isa.Alu, step: Step) -> None:
        uops = self._uops(one, step)
        if uops is None:
            return
        acc = self.pads["acc"]
        dst = arithmetic.indices(uops[:, 0], one.dst_factor_out, one.dst_factor_in, one)
        src = arithmetic.indices(uops[:, 1], one.src_factor_out, one.src_factor_in, one)
        self._reads(acc, dst, step)
        if not one.use_imm:
            self._reads(acc, src, step)
        if self.strict:
            self._check_portable(one, dst, src, step)
        arithmetic.alu(acc.data, one.op, dst, None if one.use_imm else src, one.imm)
        self._writes(dst, step, mirrored=True)
        self.counters.alu_uops += one.steps

    def _check_portable(
        self, one: isa.Alu, dst: npt.NDArray[np.int64], src: npt.NDArray[np.int64], step: Step
    ) -> None:
        """Refuse what implementations read differently."""
        if one.use_imm and not np.array_equal(dst, src):
            message = "an immediate operation must name the same element as source and destination"
            raise ProgramFault("illegal", message, step.index)
        if one.op is not isa.AluOp.SHR:
            return
        if one.use_imm:
            low, high, allowed = one.imm, one.imm, (-15, 15)
        else:
            amounts = self.pads["acc"].data[np.unique(src)]
            low, high, allowed = int(amounts.min()), int(amounts.max()), (0, 15)
        if low < allowed[0] or high > allowed[1]:
            message = f"SHR by {low if low < allowed[0] else high}: portable amounts are {allowed}"
            raise ProgramFault("illegal", message, step.index, hint="use two shifts")


def _check_distance(dst: npt.NDArray[np.int64], distance: int, step: Step) -> None:
    flat = dst.ravel()
    for gap in range(1, distance + 1):
        same = flat[gap:] == flat[:-gap]
        if same.any():
            message = f"acc element {int(flat[int(np.argmax(same))])} is accumulated again after {gap} steps"
            hint = f"the pipeline needs more than {distance} between: put an output loop inside"
            raise ProgramFault("hazard", message, step.index, hint)
