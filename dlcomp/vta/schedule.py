"""In which order the three stages run a program's instructions: queues, tokens, deadlock.

Load, compute and store take their instructions in order from a queue each. An instruction waits for the
tokens that it pops and hands out those that it pushes when it ends. Tokens carry a vector clock here: for
every instruction, how many of each stage's instructions surely ended before it began. FINISH ends a run: all
stages have ended, and the next run begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from dlcomp.vta import isa
from dlcomp.vta.faults import ProgramFault

STAGES = ("load", "compute", "store")
Clock = tuple[int, int, int]
# Tokens that a queue between two stages can hold: the narrowest implementation counts in 8 bits.
TOKEN_LIMIT = 255


@dataclass(frozen=True)
class Step:
    """One instruction in the order of execution.

    ``clock[s]`` is how many instructions of stage ``s`` ended before this one began; ``number`` is its own
    place in its stage, from 1.
    """

    index: int
    stage: int
    number: int
    clock: Clock


def stage_of(instruction: isa.Instruction, index: int = -1) -> int:
    """0 load, 1 compute, 2 store; ProgramFault where no stage takes the instruction."""
    if isinstance(instruction, isa.Store):
        return 2
    if not isinstance(instruction, isa.Load):
        return 1
    if instruction.memory in (isa.Memory.INP, isa.Memory.WGT):
        return 0
    if instruction.memory is isa.Memory.OUT:
        raise ProgramFault("illegal", "LOAD into the out scratchpad", index)
    return 1


def pops(instruction: isa.Instruction, stage: int) -> list[tuple[int, int]]:
    """Token queues ``(from, to)`` that an instruction of ``stage`` takes from."""
    return [(n, stage) for n, on in _neighbours(instruction.pop_prev, instruction.pop_next, stage) if on]


def pushes(instruction: isa.Instruction, stage: int) -> list[tuple[int, int]]:
    """Token queues ``(from, to)`` that an instruction of ``stage`` adds to."""
    return [(stage, n) for n, on in _neighbours(instruction.push_prev, instruction.push_next, stage) if on]


def _neighbours(prev: bool, following: bool, stage: int) -> tuple[tuple[int, bool], tuple[int, bool]]:
    return (stage - 1, prev), (stage + 1, following)


def check_routes(instructions: Sequence[isa.Instruction]) -> list[int]:
    """The stage of every instruction; ProgramFault for a token that would go to no stage, or no FINISH."""
    stages = []
    for index, instruction in enumerate(instructions):
        stage = stage_of(instruction, index)
        for queue in (*pops(instruction, stage), *pushes(instruction, stage)):
            if not 0 <= min(queue) <= max(queue) <= 2:
                raise ProgramFault("illegal", f"the {STAGES[stage]} stage has no such neighbour", index)
        stages.append(stage)
    if not instructions or not isinstance(instructions[-1], isa.Finish):
        raise ProgramFault("illegal", "FINISH must be the last instruction", len(instructions) - 1)
    return stages


def runs(instructions: Sequence[isa.Instruction]) -> list[range]:
    """The instructions of each run: to the next FINISH, with it."""
    ends = [index + 1 for index, one in enumerate(instructions) if isinstance(one, isa.Finish)]
    return [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def order(instructions: Sequence[isa.Instruction]) -> list[Step]:
    """A legal order of execution with vector clocks.

    Raises
    ------
    ProgramFault
        ``deadlock`` with who waits for whom, ``tokens`` for one left over or too many in a queue.
    """
    stages = check_routes(instructions)
    steps: list[Step] = []
    before: Clock = (0, 0, 0)
    for run in runs(instructions):
        mine = _order_of_run(instructions, stages, run, before)
        steps += mine
        done = [sum(step.stage == stage for step in mine) for stage in range(3)]
        before = (before[0] + done[0], before[1] + done[1], before[2] + done[2])
    return steps


def _order_of_run(
    instructions: Sequence[isa.Instruction], stages: Sequence[int], run: range, ended_before: Clock
) -> list[Step]:
    """The order of one run; ``ended_before`` counts the instructions of the runs before it."""
    queues = [deque(i for i in run if stages[i] == stage) for stage in range(3)]
    tokens: dict[tuple[int, int], deque[Clock]] = {q: deque() for q in ((0, 1), (1, 0), (1, 2), (2, 1))}
    clocks: list[Clock] = [ended_before] * 3
    steps: list[Step] = []
    while any(queues):
        before = len(steps)
        for stage in range(3):
            while queues[stage]:
                instruction = instructions[queues[stage][0]]
                wanted = pops(instruction, stage)
                if not all(tokens[queue] for queue in wanted):
                    break
                index = queues[stage].popleft()
                clock = _join([clocks[stage], *(tokens[queue].popleft() for queue in wanted)])
                steps.append(Step(index, stage, clock[stage] + 1, clock))
                ended = (clock[0] + (stage == 0), clock[1] + (stage == 1), clock[2] + (stage == 2))
                clocks[stage] = ended
                for queue in pushes(instruction, stage):
                    tokens[queue].append(ended)
        if len(steps) == before:
            raise ProgramFault("deadlock", _waits(instructions, queues, tokens), _first(queues))
    _check_left(instructions, tokens, steps, run[-1], ended_before)
    return steps


def _join(clocks: list[Clock]) -> Clock:
    first, second, third = (max(values) for values in zip(*clocks, strict=True))
    return first, second, third


def _first(queues: list[deque[int]]) -> int:
    return min(queue[0] for queue in queues if queue)


def _waits(
    instructions: Sequence[isa.Instruction],
    queues: list[deque[int]],
    tokens: dict[tuple[int, int], deque[Clock]],
) -> str:
    parts = []
    for stage, queue in enumerate(queues):
        if not queue:
            continue
        needs = [q for q in pops(instructions[queue[0]], stage) if not tokens[q]]
        sources = " and ".join(STAGES[source] for source, _ in needs)
        parts.append(f"{STAGES[stage]} waits at instruction {queue[0]} for a token from {sources}")
    idle = [STAGES[stage] for stage, queue in enumerate(queues) if not queue]
    parts += [f"{name} has ended" for name in idle]
    return "deadlock: " + "; ".join(parts)


def _check_left(
    instructions: Sequence[isa.Instruction],
    tokens: dict[tuple[int, int], deque[Clock]],
    steps: list[Step],
    finish: int,
    ended_before: Clock,
) -> None:
    left = [f"{len(q)} from {STAGES[a]} to {STAGES[b]}" for (a, b), q in tokens.items() if q]
    if left:
        raise ProgramFault("tokens", f"tokens left over at the end: {', '.join(left)}")
    # FINISH ends the run when compute reaches it: what it does not wait for may be cut off.
    last = steps[[step.index for step in steps].index(finish)]
    for stage in (0, 2):
        total = ended_before[stage] + sum(step.stage == stage for step in steps)
        if last.clock[stage] < total:
            raise ProgramFault("tokens", f"FINISH does not wait for the {STAGES[stage]} stage", last.index)
    _check_capacity(instructions, steps, ended_before)


def _check_capacity(instructions: Sequence[isa.Instruction], steps: list[Step], ended_before: Clock) -> None:
    """The worst case over all timings: only those pops are sure that a push's vector clock covers."""
    taken: dict[tuple[int, int], list[int]] = {q: [0] for q in ((0, 1), (1, 0), (1, 2), (2, 1))}
    for step in steps:
        mine = pops(instructions[step.index], step.stage)
        for queue, counts in taken.items():
            if queue[1] == step.stage:
                counts.append(counts[-1] + (queue in mine))
    given = dict.fromkeys(taken, 0)
    for step in steps:
        for queue in pushes(instructions[step.index], step.stage):
            given[queue] += 1
            held = given[queue] - taken[queue][step.clock[queue[1]] - ended_before[queue[1]]]
            if held > TOKEN_LIMIT:
                names = f"from {STAGES[queue[0]]} to {STAGES[queue[1]]}"
                message = f"up to {held} tokens {names}, and the queue holds {TOKEN_LIMIT}"
                raise ProgramFault("tokens", message, step.index)
