"""How long the parts of an accelerator take: parameters of the cycle simulator and two presets."""

from __future__ import annotations

from dataclasses import dataclass

from dlcomp.errors import UsageError


@dataclass(frozen=True)
class Timing:
    """Cycles unless said otherwise.

    Attributes
    ----------
    burst_beats : int
        Longest burst, in beats of the bus.
    burst_overhead : int
        Bus cycles that a burst costs beside its beats.
    read_latency, write_latency : int
        From the last beat to the data being usable, or the write being acknowledged; once an instruction.
    dispatch : int
        Start and end of every instruction in its stage.
    gemm_interval, gemm_drain : int
        Between micro-ops of a GEMM, and to fill and empty its pipeline.
    alu_interval, alu_register_interval, alu_drain : int
        The same of the ALU, for immediates and for two register operands.
    fetch_chunk : int
        Instructions that are fetched at once, before any of them is handed out.
    queue : int
        Instructions that the queue of a stage holds.
    """

    burst_beats: int = 256
    burst_overhead: int = 1
    read_latency: int = 1
    write_latency: int = 1
    dispatch: int = 2
    gemm_interval: int = 1
    gemm_drain: int = 6
    alu_interval: int = 1
    alu_register_interval: int = 2
    alu_drain: int = 5
    fetch_chunk: int = 128
    queue: int = 512


# The core with a pipelined GEMM (2021), and the one before it: 4 cycles a GEMM micro-op, 5 an ALU one.
PRESETS = {
    "pipelined": Timing(),
    "older": Timing(gemm_interval=4, alu_interval=5, alu_register_interval=5),
}


def preset(name: str) -> Timing:
    """The preset called ``name``: ``pipelined`` or ``older``."""
    if name not in PRESETS:
        raise UsageError(f"unknown timing preset {name!r}", hint=f"one of {', '.join(PRESETS)}")
    return PRESETS[name]
