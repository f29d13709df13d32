"""A program under construction: instructions in program order, tokens where stages touch the same data.

Code is written as if instructions ran one after another. A token goes from an instruction to one of another
stage exactly where the second overlaps what the first read or wrote and no earlier token orders them, so that
double buffering follows from the addresses alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta.dependences import Access, Dependences
from dlcomp.codegen.vta.nest import Call, vector
from dlcomp.errors import UsageError
from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.program import RUN_INSTRUCTIONS, DramLayout, Program

_LOAD, _COMPUTE, _STORE = 0, 1, 2
_MEMORY = {isa.Memory.INP: "inp", isa.Memory.WGT: "wgt", isa.Memory.ACC: "acc", isa.Memory.OUT: "out"}
_SIZE_LIMIT = (1 << 16) - 1
# The most that one step adds before a run ends: micro-ops, a carried token, the instruction, a wait, FINISH.
_ROOM = 5


@dataclass
class _Row:
    instruction: isa.Instruction
    buffer: str | None
    tokens: set[str] = dataclasses.field(default_factory=set)


@dataclass(frozen=True)
class Box:
    """Rows of elements in DRAM: ``rows`` of ``columns``, ``stride`` apart, from element ``offset``."""

    offset: int
    rows: int
    columns: int
    stride: int


class Stream:
    """Instructions, the DRAM buffers that they name, and the micro-ops that they share.

    Parameters
    ----------
    run_instructions : int
        The most that one run may have; a longer stream is cut into several.
    """

    def __init__(self, config: VtaConfig, run_instructions: int = RUN_INSTRUCTIONS) -> None:
        self.config = config
        self._run_instructions = run_instructions
        self._run_begin = 0
        self._rows: list[_Row] = []
        self._dependences = Dependences(config)
        self._waited = {(0, 1): -1, (1, 0): -1, (1, 2): -1, (2, 1): -1}
        self._last = [-1, -1, -1]
        # The latest store that load has heard of.
        self._passed_on = -1
        self._buffers: dict[str, tuple[str, int | npt.NDArray[Any]]] = {}
        self._uops: list[npt.NDArray[np.int64]] = []
        self._uop_offsets: dict[bytes, int] = {}
        self._uop_count = 0
        self._resident: dict[bytes, int] = {}
        self._uop_next = 0

    def __len__(self) -> int:
        return len(self._rows)

    def buffer(self, name: str, kind: str, contents: int | npt.NDArray[Any]) -> str:
        """Declare a DRAM buffer of so many bytes, or with these contents; its name.

        Raises
        ------
        UsageError
            There is one of that name with other contents.
        """
        known = self._buffers.get(name, (kind, contents))
        same = known[1] == contents if isinstance(contents, int) else np.array_equal(known[1], contents)
        if known[0] != kind or not same:
            raise UsageError(f"two buffers are called {name!r}", hint="every layer has a name of its own")
        self._buffers[name] = (kind, contents)
        return name

    def load(self, memory: isa.Memory, sram: int, buffer: str, box: Box) -> None:
        """DRAM to scratchpad; boxes whose strides do not encode are loaded row by row."""
        for part, at in self._parts(box):
            size = part.rows * part.columns
            one = isa.Load(
                memory=memory, sram_base=sram + at, dram_base=part.offset,
                y_size=part.rows, x_size=part.columns, x_stride=part.stride,
            )  # fmt: skip
            stage = _LOAD if memory in (isa.Memory.INP, isa.Memory.WGT) else _COMPUTE
            access = Access(_MEMORY[memory], sram + at, sram + at + size, write=True)
            self._add(one, stage, [access], buffer)

    def store(self, sram: int, buffer: str, box: Box) -> None:
        """Low 8 bits of the accumulators to DRAM."""
        for part, at in self._parts(box):
            size = part.rows * part.columns
            one = isa.Store(
                memory=isa.Memory.OUT, sram_base=sram + at, dram_base=part.offset,
                y_size=part.rows, x_size=part.columns, x_stride=part.stride,
            )  # fmt: skip
            self._add(one, _STORE, [Access("acc", sram + at, sram + at + size)], buffer)

    def identity(self, factor: int) -> str:
        """The buffer of a weight tile that multiplies by ``factor``, from -128 to 127."""
        tile = (np.eye(self.config.block, dtype=np.int64) * factor).astype(np.int8)
        return self.buffer(f"identity times {factor}", "constant", tile)

    def gemm(self, call: Call, accesses: Sequence[Access] | None = None) -> None:
        """Multiply and accumulate; ``accesses`` cover all that the call touches, and follow from it."""
        touched = _touched(call, ("acc", "inp", "wgt")) if accesses is None else accesses
        self._add(
            isa.Gemm(**self._loops(call), wgt_factor_out=call.outer.wgt, wgt_factor_in=call.inner.wgt),
            _COMPUTE,
            touched,
            None,
        )

    def reset(self, start: int, count: int) -> None:
        """Zero ``count`` accumulators."""
        loops = self._loops(vector(start, count))
        access = Access("acc", start, start + count, write=True)
        self._add(isa.Gemm(reset=True, **loops), _COMPUTE, [access], None)

    def alu(self, op: isa.AluOp, imm: int, start: int, count: int) -> None:
        """An operation with an immediate on ``count`` accumulators."""
        loops = self._loops(vector(start, count))
        access = Access("acc", start, start + count, write=True)
        self._add(isa.Alu(op=op, use_imm=True, imm=imm, **loops), _COMPUTE, [access], None)

    def alu_register(self, op: isa.AluOp, call: Call, accesses: Sequence[Access] | None = None) -> None:
        """An operation of accumulators with accumulators; ``accesses`` as for :meth:`gemm`."""
        touched = _touched(call, ("acc", "acc")) if accesses is None else accesses
        self._add(isa.Alu(op=op, **self._loops(call)), _COMPUTE, touched, None)

    def finish(self) -> Program:
        """Wait for all stages, end, and lay out DRAM."""
        instructions, layout = self.ended()
        return Program.of(self.config, instructions, layout.buffers)

    def ended(self) -> tuple[tuple[isa.Instruction, ...], DramLayout]:
        """What :meth:`finish` encodes: enough for the cycle simulator."""
        self._end_run()
        layout = DramLayout()
        address = {name: layout.add(name, *what).address for name, what in self._buffers.items()}
        if self._uops:
            words = isa.encode_uops(np.concatenate(self._uops), self.config)
            address["uops"] = layout.add("uops", "uop", words).address
        return tuple(self._final(row, address) for row in self._rows), layout

    def _end_run(self) -> None:
        """Wait for all stages and end the run: whatever follows finds everything done."""
        after = {stage: self._last[stage] for stage in (_LOAD, _STORE) if self._last[stage] >= 0}
        self._place(isa.Load(memory=isa.Memory.UOP), _COMPUTE, after)
        self._rows.append(_Row(isa.Finish(), None))
        done = len(self._rows) - 1
        self._waited = dict.fromkeys(self._waited, done)
        self._last = [-1, -1, -1]
        self._passed_on = done
        self._run_begin = len(self._rows)

    def _final(self, row: _Row, address: dict[str, int]) -> isa.Instruction:
        flags: dict[str, Any] = dict.fromkeys(row.tokens, True)
        if isinstance(row.instruction, isa.Transfer) and row.buffer:
            memory = "uop" if row.buffer == "uops" else _MEMORY[row.instruction.memory]
            base = address[row.buffer] // self.config.element_bytes(memory)
            flags["dram_base"] = base + row.instruction.dram_base
        return dataclasses.replace(row.instruction, **flags) if flags else row.instruction

    def _parts(self, box: Box) -> list[tuple[Box, int]]:
        if box.rows == 1 or box.stride == box.columns:
            whole, at, parts = box.rows * box.columns, 0, []
            while at < whole:
                size = min(whole - at, _SIZE_LIMIT)
                parts.append((Box(box.offset + at, 1, size, size), at))
                at += size
            return parts
        if box.stride <= _SIZE_LIMIT:
            return [(box, 0)]
        rows = range(box.rows)
        return [
            (Box(box.offset + r * box.stride, 1, box.columns, box.columns), r * box.columns) for r in rows
        ]

    def _loops(self, call: Call) -> dict[str, Any]:
        begin = self._uop(call.uops)
        return {
            "uop_bgn": begin,
            "uop_end": begin + len(call.uops),
            "iter_out": call.outer.extent,
            "iter_in": call.inner.extent,
            "dst_factor_out": call.outer.dst,
            "dst_factor_in": call.inner.dst,
            "src_factor_out": call.outer.src,
            "src_factor_in": call.inner.src,
        }

    def _uop(self, uops: npt.NDArray[np.int64]) -> int:
        """Where the micro-ops are in their scratchpad; loads them if they are not there any more."""
        key = uops.tobytes()
        if key in self._resident:
            return self._resident[key]
        depth = self.config.depth("uop")
        if len(uops) > depth:
            hint = "use smaller tiles"
            raise UsageError(f"{len(uops)} micro-ops do not fit the scratchpad of {depth}", hint=hint)
        if key not in self._uop_offsets:
            self._uop_offsets[key] = self._uop_count
            self._uops.append(uops)
            self._uop_count += len(uops)
        if self._uop_next + len(uops) > depth:
            self._resident.clear()
            self._uop_next = 0
        begin = self._uop_next
        one = isa.Load(
            memory=isa.Memory.UOP, sram_base=begin, dram_base=self._uop_offsets[key],
            y_size=1, x_size=len(uops), x_stride=len(uops),
        )  # fmt: skip
        self._rows.append(_Row(one, "uops"))
        self._last[_COMPUTE] = len(self._rows) - 1
        self._resident[key] = begin
        self._uop_next += len(uops)
        return begin

    def _add(self, one: isa.Instruction, stage: int, accesses: Sequence[Access], buffer: str | None) -> None:
        if len(self._rows) - self._run_begin + _ROOM > self._run_instructions:
            self._end_run()
        read = buffer if stage != _STORE else None
        after = self._dependences.before(stage, accesses, read)
        if stage == _LOAD and _STORE in after:
            # Load and store are no neighbours: compute passes the token on.
            stored = after.pop(_STORE)
            if stored > self._passed_on:
                carrier = self._place(isa.Load(memory=isa.Memory.UOP), _COMPUTE, {_STORE: stored})
                after[_COMPUTE] = max(carrier, after.get(_COMPUTE, -1))
                self._passed_on = stored
        index = self._place(one, stage, after, buffer)
        self._dependences.note(stage, accesses, index, buffer if stage == _STORE else None)

    def _place(
        self, one: isa.Instruction, stage: int, after: dict[int, int], buffer: str | None = None
    ) -> int:
        index = len(self._rows)
        row = _Row(one, buffer)
        self._rows.append(row)
        for other, needed in after.items():
            if needed <= self._waited[(other, stage)]:
                continue
            self._waited[(other, stage)] = needed
            self._rows[needed].tokens.add("push_next" if stage > other else "push_prev")
            row.tokens.add("pop_prev" if other < stage else "pop_next")
        self._last[stage] = index
        return index


def _touched(call: Call, memories: Sequence[str]) -> list[Access]:
    """From the first to the last element that a call reads or, in the first of ``memories``, writes."""
    found = []
    for column, memory in enumerate(memories):
        steps = (
            (loop.dst, loop.src, loop.wgt)[column] * (loop.extent - 1) for loop in (call.outer, call.inner)
        )
        start, last = int(call.uops[:, column].min()), int(call.uops[:, column].max()) + sum(steps)
        found.append(Access(memory, start, last + 1, write=not column))
    return found
