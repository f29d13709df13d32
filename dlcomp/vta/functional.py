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
from dlcomp.vta.footprint import Footprint, Footprints, Used
from dlcomp.vta.products import multiply
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


class Simulator:
    """A program made ready: decoded, its order worked out, and what it touches remembered between runs.

    Parameters
    ----------
    semantics : str
        ``strict`` or ``fsim``.

    Raises
    ------
    ArtifactError
        The program was made for another configuration.
    ProgramFault
        Deadlock or left-over tokens.
    """

    def __init__(self, program: Program, config: VtaConfig, *, semantics: str = "strict") -> None:
        if semantics not in SEMANTICS:
            raise UsageError(f"unknown semantics {semantics!r}", hint=f"one of {', '.join(SEMANTICS)}")
        self.program = program
        self.config = config
        self._strict = semantics == "strict"
        self._code = program.instructions(config)
        self._order = order(self._code)
        self._footprints = Footprints(config.block, config.hazard_distance)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]] | None = None) -> FunctionalResult:
        """Run once on fresh memories.

        Parameters
        ----------
        inputs : mapping
            Bytes of every ``input`` buffer, arrays of any dtype with exactly the buffer's size.

        Raises
        ------
        ProgramFault
            A race, a read of nothing, an index or address out of range.
        """
        dram = Dram(self.program, self.config, dict(inputs or {}))
        machine = _Machine(self.config, dram, self._strict, self._footprints)
        for step in self._order:
            machine.step(self._code[step.index], step)
        outputs = {b.name: dram.output(b) for b in self.program.buffers if b.kind == "output"}
        machine.counters.insn_bytes = 16 * len(self._code)
        return FunctionalResult(outputs, machine.counters)


def run(
    program: Program,
    config: VtaConfig,
    inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    *,
    semantics: str = "strict",
) -> FunctionalResult:
    """Run ``program`` once; see :class:`Simulator`."""
    return Simulator(program, config, semantics=semantics).run(inputs)


class _Machine:
    def __init__(self, config: VtaConfig, dram: Dram, strict: bool, footprints: Footprints) -> None:
        self.config = config
        self.dram = dram
        self.strict = strict
        self.pads = scratchpads(config)
        self.footprints = footprints
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

    def _reads(self, pad: Scratchpad, used: Used, base: int, step: Step) -> None:
        where = used.at(base)
        pad.check_range(base, base + used.high + 1, step)
        pad.check_valid(where, step)
        pad.shadow.read(where, step)

    def _writes(self, used: Used, base: int, step: Step, mirrored: bool) -> None:
        acc, out = self.pads["acc"], self.pads["out"]
        where = used.at(base)
        acc.check_range(base, base + used.high + 1, step)
        acc.shadow.write(where, step)
        acc.valid[where] = True
        # The out mirror is written by every GEMM and ALU instruction, a reset writes something unspecified.
        (out if self.strict else acc).shadow.write(where, step)
        out.valid[where] = mirrored
        if mirrored:
            out.data[where] = acc.data[where].astype(np.int8)

    def _gemm(self, one: isa.Gemm, step: Step) -> None:
        uops = self._uops(one, step)
        if uops is None:
            return
        acc, inp, wgt = (self.pads[name] for name in ("acc", "inp", "wgt"))
        touched, (dst, src, weight) = self.footprints.of(one, uops)
        if one.reset:
            acc.check_range(dst, dst + touched.used_dst.high + 1, step)
            acc.data[touched.used_dst.at(dst)] = 0
            self._writes(touched.used_dst, dst, step, mirrored=not self.strict)
            self.counters.reset_uops += one.steps
            return
        self._reads(acc, touched.used_dst, dst, step)
        self._reads(inp, touched.used_src, src, step)
        self._reads(wgt, touched.used_wgt, weight, step)
        if self.strict and touched.too_close is not None:
            element, gap = touched.too_close
            message = f"acc element {dst + element} is accumulated again after {gap} steps"
            distance = self.config.hazard_distance
            hint = f"the pipeline needs more than {distance} between: put an output loop inside"
            raise ProgramFault("hazard", message, step.index, hint)
        operands = (acc.data[dst:], inp.data[src:], wgt.data[weight:])
        if touched.parts is not None:
            multiply(*operands, touched.parts)
        else:
            arithmetic.gemm(*operands, touched.dst, touched.src, touched.wgt)
        self._writes(touched.used_dst, dst, step, mirrored=True)
        self.counters.gemm_uops += one.steps
        self.counters.macs += one.steps * self.config.macs_per_cycle

    def _alu(self, one: isa.Alu, step: Step) -> None:
        uops = self._uops(one, step)
        if uops is None:
            return
        acc = self.pads["acc"]
        touched, (dst, src, _) = self.footprints.of(one, uops)
        self._reads(acc, touched.used_dst, dst, step)
        if not one.use_imm:
            self._reads(acc, touched.used_src, src, step)
        if self.strict:
            self._check_portable(one, touched, (dst, src), step)
        if one.use_imm and touched.once:
            # Every element once, each for itself: the order does not matter.
            where = touched.used_dst.at(dst)
            acc.data[where] = arithmetic.apply(one.op, acc.data[where], np.asarray(one.imm, np.int32))
        else:
            source = None if one.use_imm else touched.src + src
            arithmetic.alu(acc.data, one.op, touched.dst + dst, source, one.imm)
        self._writes(touched.used_dst, dst, step, mirrored=True)
        self.counters.alu_uops += one.steps

    def _check_portable(self, one: isa.Alu, touched: Footprint, bases: tuple[int, int], step: Step) -> None:
        """Refuse what implementations read differently."""
        if one.use_imm and not (touched.in_step and bases[0] == bases[1]):
            message = "an immediate operation must name the same element as source and destination"
            raise ProgramFault("illegal", message, step.index)
        if one.op is not isa.AluOp.SHR:
            return
        if one.use_imm:
            low, high, allowed = one.imm, one.imm, (-15, 15)
        else:
            amounts = self.pads["acc"].data[touched.used_src.at(bases[1])]
            low, high, allowed = int(amounts.min()), int(amounts.max()), (0, 15)
        if low < allowed[0] or high > allowed[1]:
            message = f"SHR by {low if low < allowed[0] else high}: portable amounts are {allowed}"
            raise ProgramFault("illegal", message, step.index, hint="use two shifts")
