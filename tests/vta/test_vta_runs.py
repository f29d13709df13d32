"""Streams of several runs: each ends with FINISH, and what memories hold stays for the next."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from random_programs import random_program, small
from test_vta_functional import assert_order_of_cycles, interpreted

from dlcomp.errors import UsageError
from dlcomp.vta import functional, isa, program
from dlcomp.vta.cycles import simulate
from dlcomp.vta.faults import ProgramFault
from dlcomp.vta.program import Program
from dlcomp.vta.schedule import order, runs


@pytest.mark.parametrize("seed", range(8))
def test_two_runs_agree_with_the_interpreter_and_take_both_their_cycles(seed: int) -> None:
    config = small()
    one, inputs = random_program(config, seed)
    code = one.instructions(config)
    twice = Program.of(config, [*code, *code], one.buffers)
    assert runs(twice.instructions(config)) == [range(len(code)), range(len(code), 2 * len(code))]
    # The second run begins with what the first left in the scratchpads.
    wanted = interpreted(twice, config, inputs)
    np.testing.assert_array_equal(functional.run(twice, config, inputs).outputs["y"], wanted)
    assert_order_of_cycles(twice, config, seed)
    first, both = simulate(one, config), simulate(twice, config)
    finish = next(span for span in both.spans if span.index == len(code) - 1)
    assert finish.end == first.cycles
    assert all(span.start >= first.cycles for span in both.spans if span.index >= len(code))
    assert both.cycles == 2 * first.cycles


def test_a_run_that_leaves_a_token_to_the_next_is_reported() -> None:
    load = isa.Load(memory=isa.Memory.INP, push_next=True)
    take = isa.Load(memory=isa.Memory.UOP, pop_prev=True)
    order([load, take, isa.Finish(), load, take, isa.Finish()])
    with pytest.raises(ProgramFault, match="left over"):
        order([load, isa.Finish(), take, isa.Finish()])
    with pytest.raises(ProgramFault, match="does not wait for the load stage"):
        order([dataclasses.replace(load, push_next=False), isa.Finish(), load, take, isa.Finish()])
    with pytest.raises(ProgramFault, match="compute waits at instruction 3"):
        order([load, take, isa.Finish(), take, isa.Finish()])


def test_finish_must_be_last() -> None:
    with pytest.raises(ProgramFault, match="FINISH must be the last"):
        order([isa.Finish(), isa.Load(memory=isa.Memory.UOP)])
    with pytest.raises(ProgramFault, match="FINISH must be the last"):
        order([])


def test_a_run_beyond_the_instruction_buffer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "RUN_INSTRUCTIONS", 5)
    one = isa.Load(memory=isa.Memory.UOP)
    Program.of(small(), [one] * 4 + [isa.Finish()] + [one] * 4 + [isa.Finish()], [])
    with pytest.raises(UsageError, match="more than 5 instructions") as caught:
        Program.of(small(), [one] * 4 + [isa.Finish()] + [one] * 5 + [isa.Finish()], [])
    assert "instruction 10" in str(caught.value)
