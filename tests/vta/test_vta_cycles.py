"""The cycle simulator: times that can be counted by hand, and what must hold of any program."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from random_programs import random_program, small

from dlcomp import vta_targets
from dlcomp.vta import isa, trace
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import CycleResult, simulate
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.program import Program
from dlcomp.vta.timing import PRESETS, Timing

PYNQ = vta_targets.load("pynq")
FREE = Timing(burst_overhead=0, read_latency=0, write_latency=0, dispatch=0, gemm_drain=0, alu_drain=0)


def timed(code: list[isa.Instruction], timing: Timing, config: VtaConfig = PYNQ) -> CycleResult:
    return simulate(Program.of(config, [*code, isa.Finish()], []), config, timing)


@pytest.mark.parametrize(("preset", "interval"), [("pipelined", 1), ("older", 4)])
def test_a_long_gemm_takes_its_interval_a_step(preset: str, interval: int) -> None:
    gemm = isa.Gemm(uop_end=100, iter_out=100, iter_in=10)
    free = dataclasses.replace(FREE, gemm_interval=PRESETS[preset].gemm_interval)
    # Two instructions of 16 bytes come over the 8-byte bus in 4 cycles.
    assert timed([gemm], free).cycles == 4 + 100_000 * interval


def test_alu_steps_cost_more_with_two_operands() -> None:
    alu = isa.Alu(op=isa.AluOp.ADD, use_imm=True, uop_end=10, iter_in=10)
    assert timed([alu], FREE).cycles == 4 + 100
    assert timed([dataclasses.replace(alu, use_imm=False)], FREE).cycles == 4 + 200


def test_a_load_takes_its_beats_its_bursts_and_its_padding() -> None:
    load = isa.Load(memory=isa.Memory.UOP, y_size=1, x_size=2048, x_stride=2048)
    assert timed([load], FREE).cycles == 4 + 2048 * 4 // 8
    # 1024 beats are 4 bursts; the fetch of 4 beats is one more.
    assert timed([load], dataclasses.replace(FREE, burst_overhead=10)).cycles == 4 + 10 + 1024 + 40
    padded = isa.Load(memory=isa.Memory.ACC, y_size=2, x_size=4, x_stride=9, y_pad_0=1, x_pad_1=1)
    assert timed([padded], FREE).cycles == 4 + 2 * 4 * 64 // 8 + 15 - 8


def test_a_wider_bus_loads_faster_in_proportion() -> None:
    keys = vta_targets.load("pynq").to_dict()
    load = isa.Load(memory=isa.Memory.UOP, y_size=1, x_size=4096, x_stride=4096)
    for bits in (64, 128, 256, 512):
        config = VtaConfig.of({**keys, "BUS_BITS": bits})
        # Two instructions fit one beat of the widest bus.
        assert timed([load], FREE, config).cycles == -(-32 * 8 // bits) + 4096 * 4 * 8 // bits


def test_load_and_compute_overlap_when_no_token_orders_them() -> None:
    load = isa.Load(memory=isa.Memory.INP, y_size=1, x_size=1000, x_stride=1000, push_next=True)
    gemm = isa.Gemm(uop_end=1, iter_out=200, iter_in=10)
    join = isa.Load(memory=isa.Memory.UOP, pop_prev=True)
    together = timed([load, gemm, join], FREE)
    apart = timed([load, join, gemm], FREE)
    assert (together.cycles, apart.cycles) == (8 + 2000, 8 + 2000 + 2000)
    assert apart.stalls["compute"] == {"fetch": 8, "token from load": 2000}
    assert apart.utilisation == pytest.approx(2000 / 4008)


@pytest.mark.parametrize("seed", range(40))
def test_every_cycle_of_every_stage_is_accounted_for(seed: int) -> None:
    config = small(log_batch=seed % 3)
    program, _ = random_program(config, seed)
    for timing in PRESETS.values():
        result = simulate(program, config, timing)
        assert sorted(span.index for span in result.spans) == list(range(len(program.words)))
        for stage, stalls in result.stalls.items():
            assert result.busy[stage] + sum(stalls.values()) == result.cycles
        for stage in range(3):
            mine = [span for span in result.spans if span.stage == stage]
            assert all(a.end <= b.start and a.index < b.index for a, b in pairwise(mine))
        assert simulate(program, config, timing) == result


def test_a_full_queue_holds_up_the_fetch() -> None:
    gemm = isa.Gemm(uop_end=1, iter_out=1000)
    load = isa.Load(memory=isa.Memory.INP, y_size=1, x_size=8, x_stride=8, push_next=True)
    code = [*[gemm] * 4, load, isa.Load(memory=isa.Memory.UOP, pop_prev=True)]
    starts = []
    for queue in (1, 2, 8):
        result = timed(code, dataclasses.replace(FREE, queue=queue))
        starts.append(next(span.start for span in result.spans if span.index == 4))
    # The load stands behind 4 GEMMs, of which one runs and `queue` wait.
    # Seven instructions come over the bus in 14 cycles.
    assert starts == [14 + 2000, 14 + 1000, 14]


def test_a_deadlock_is_reported() -> None:
    with pytest.raises(ProgramFault, match="deadlock"):
        timed([isa.Load(memory=isa.Memory.UOP, pop_prev=True)], FREE)


def test_the_trace_has_a_row_an_instruction() -> None:
    config = small()
    program, _ = random_program(config, 2)
    result = simulate(program, config)
    rows = [row for row in trace.events(result, program, config)["traceEvents"] if row["ph"] == "X"]
    assert len(rows) == len(program.words)
    assert max(row["ts"] + row["dur"] for row in rows) == result.cycles
