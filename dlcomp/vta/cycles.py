"""The cycle simulator: when every instruction of a program starts and ends.

Three stages run their queues in order, an instruction starts when it was fetched and its tokens are there.
Reads of all stages and of instruction fetch share one bus, burst by burst, by fixed priority (fetch, compute,
load); writes have a channel of their own, as on AXI. It reads no data: times depend on sizes alone. What was
fetched goes into the queues at once (the hardware takes a cycle an instruction).
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.program import Program
from dlcomp.vta.schedule import STAGES, order, pops, pushes, runs, stage_of
from dlcomp.vta.timing import Timing

_FETCH = 3
_PRIORITY = (_FETCH, 1, 0)
_NAMES = {isa.Memory.UOP: "uop", isa.Memory.WGT: "wgt", isa.Memory.INP: "inp", isa.Memory.ACC: "acc"}
_NAMES |= {isa.Memory.OUT: "out", isa.Memory.ACC8: "acc8"}


@dataclass(frozen=True)
class Span:
    """One instruction in time: cycles ``[start, end)`` in its stage."""

    index: int
    stage: int
    start: int
    end: int


@dataclass(frozen=True)
class CycleResult:
    """Times of a program.

    Attributes
    ----------
    cycles : int
        From the first fetch to the end of FINISH.
    spans : list of Span
        Every instruction, in order of its end.
    busy : dict
        Cycles that each stage spent in an instruction.
    stalls : dict
        For every stage, its idle cycles by reason: ``fetch``, ``token from STAGE``, ``ended``.
    gemm_cycles : int
        Micro-ops of GEMM that multiply: the least that the array needs.
    """

    cycles: int
    spans: list[Span]
    busy: dict[str, int]
    stalls: dict[str, dict[str, int]]
    gemm_cycles: int

    @property
    def utilisation(self) -> float:
        """Share of the cycles in which the multipliers could have been busy and were."""
        return self.gemm_cycles / self.cycles if self.cycles else 0.0


def simulate(program: Program, config: VtaConfig, timing: Timing | None = None) -> CycleResult:
    """Time ``program`` on ``config``; ProgramFault for a deadlock or left-over tokens."""
    instructions = program.instructions(config)
    order(instructions)
    return simulate_instructions(instructions, config, timing or Timing())


def simulate_instructions(
    instructions: tuple[isa.Instruction, ...], config: VtaConfig, timing: Timing
) -> CycleResult:
    """Time instructions whose tokens are known to be right."""
    return _Simulation(instructions, config, timing).run()


@dataclass
class _Stage:
    queue: deque[int] = field(default_factory=deque)
    running: int = -1
    start: int = 0
    bursts: deque[int] = field(default_factory=deque)
    idle_since: int = 0
    reason: str = "fetch"


class _Simulation:
    def __init__(self, instructions: tuple[isa.Instruction, ...], config: VtaConfig, timing: Timing) -> None:
        self.code = instructions
        self.config = config
        self.timing = timing
        self.bus_bytes = config.bus_bits // 8
        self.stages = [_Stage() for _ in range(4)]
        self.tokens = {queue: 0 for queue in ((0, 1), (1, 0), (1, 2), (2, 1))}
        self.events: list[tuple[int, int, str, int]] = []
        self.bus_busy = {"read": False, "write": False}
        self.spans: list[Span] = []
        self.stalls: dict[str, dict[str, int]] = {name: {} for name in STAGES}
        self.fetched = 0
        self.ends = deque(run.stop for run in runs(instructions))
        self.waiting: deque[int] = deque()
        self.arrived = False
        self._serial = 0

    def run(self) -> CycleResult:
        self._fetch(0)
        now = 0
        while self.events:
            now, _, kind, stage = heapq.heappop(self.events)
            if kind == "end":
                self._end(stage, now)
            elif kind == "arrived":
                self.arrived = True
                self._hand_out(now)
            elif kind in self.bus_busy:
                self.bus_busy[kind] = False
                if not self.stages[stage].bursts:
                    self._transferred(stage, now)
            self._advance(now)
        for number, name in enumerate(STAGES):
            self._stall(name, "ended", now - self.stages[number].idle_since)
        busy = {
            name: sum(s.end - s.start for s in self.spans if s.stage == n) for n, name in enumerate(STAGES)
        }
        work = sum(one.steps for one in self.code if isinstance(one, isa.Gemm) and not one.reset)
        return CycleResult(now, self.spans, busy, self.stalls, work)

    def _at(self, time: int, kind: str, stage: int) -> None:
        self._serial += 1
        heapq.heappush(self.events, (time, self._serial, kind, stage))

    def _stall(self, name: str, reason: str, cycles: int) -> None:
        if cycles > 0:
            self.stalls[name][reason] = self.stalls[name].get(reason, 0) + cycles

    def _advance(self, now: int) -> None:
        waiting = -1
        # A start makes room in a queue, which may let another stage start.
        while waiting != len(self.waiting):
            waiting = len(self.waiting)
            for number in range(3):
                if self.stages[number].running < 0:
                    self._start(number, self.stages[number], now)
        self._grant(now)

    def _start(self, number: int, stage: _Stage, now: int) -> None:
        if not stage.queue:
            self._reason(number, stage, "fetch", now)
            return
        one = self.code[stage.queue[0]]
        missing = [queue for queue in pops(one, number) if not self.tokens[queue]]
        if missing:
            self._reason(number, stage, f"token from {STAGES[missing[0][0]]}", now)
            return
        self._reason(number, stage, stage.reason, now)
        for queue in pops(one, number):
            self.tokens[queue] -= 1
        stage.running = stage.queue.popleft()
        stage.start = now
        self._hand_out(now)
        if isinstance(one, isa.Transfer) and one.x_size and one.y_size:
            stage.bursts.extend(self._bursts(one))
        else:
            self._at(now + self.timing.dispatch + self._compute(one), "end", number)

    def _reason(self, number: int, stage: _Stage, reason: str, now: int) -> None:
        """Charge the idle time so far to what was waited for, and note what is waited for now."""
        self._stall(STAGES[number], stage.reason, now - stage.idle_since)
        stage.idle_since, stage.reason = now, reason

    def _bursts(self, one: isa.Transfer) -> list[int]:
        """Beats of every burst: rows are apart in DRAM unless the stride makes them one."""
        size = self.config.element_bytes(_NAMES[one.memory])
        rows, width = one.y_size, one.x_size * size
        if one.x_stride == one.x_size:
            rows, width = 1, rows * width
        beats = -(-width // self.bus_bytes)
        longest = self.timing.burst_beats
        row = [longest] * (beats // longest) + [beats % longest] * (beats % longest > 0)
        return row * rows

    def _compute(self, one: isa.Instruction) -> int:
        timing = self.timing
        if isinstance(one, isa.Gemm):
            return timing.gemm_drain + one.steps * timing.gemm_interval
        if isinstance(one, isa.Alu):
            interval = timing.alu_interval if one.use_imm else timing.alu_register_interval
            return timing.alu_drain + one.steps * interval
        return 0

    def _grant(self, now: int) -> None:
        for channel, clients in (("read", _PRIORITY), ("write", (2,))):
            if self.bus_busy[channel]:
                continue
            for client in clients:
                if self.stages[client].bursts:
                    beats = self.stages[client].bursts.popleft()
                    self.bus_busy[channel] = True
                    self._at(now + beats + self.timing.burst_overhead, channel, client)
                    break

    def _transferred(self, number: int, now: int) -> None:
        if number == _FETCH:
            self._at(now + self.timing.read_latency, "arrived", _FETCH)
            return
        one = self.code[self.stages[number].running]
        cost = self.timing.dispatch
        if isinstance(one, isa.Store):
            # The scratchpad is read an element at a time, before the bytes of it leave.
            cost += self.timing.write_latency + one.y_size * one.x_size
        elif isinstance(one, isa.Load):
            cost += self.timing.read_latency + one.rows * one.columns - one.y_size * one.x_size
        self._at(now + cost, "end", number)

    def _end(self, number: int, now: int) -> None:
        stage = self.stages[number]
        self.spans.append(Span(stage.running, number, stage.start, now))
        for queue in pushes(self.code[stage.running], number):
            self.tokens[queue] += 1
        finished = isinstance(self.code[stage.running], isa.Finish)
        stage.running, stage.idle_since, stage.reason = -1, now, "fetch"
        if finished:
            self.ends.popleft()
            self._fetch(now)

    def _fetch(self, now: int) -> None:
        # The host starts the next run after the FINISH of this one.
        last = min(self.ends[0] if self.ends else 0, self.fetched + self.timing.fetch_chunk)
        if last <= self.fetched:
            return
        self.waiting.extend(range(self.fetched, last))
        beats = -(-(last - self.fetched) * 16 // self.bus_bytes)
        longest = self.timing.burst_beats
        rest = [beats % longest] * (beats % longest > 0)
        self.stages[_FETCH].bursts.extend([longest] * (beats // longest) + rest)
        self.arrived = False
        self.fetched = last
        self._grant(now)

    def _hand_out(self, now: int) -> None:
        """Drain what was fetched into the queues; a full queue holds up all behind it."""
        if not self.arrived:
            return
        while self.waiting:
            stage = self.stages[stage_of(self.code[self.waiting[0]])]
            if len(stage.queue) >= self.timing.queue:
                return
            stage.queue.append(self.waiting.popleft())
        self._fetch(now)
