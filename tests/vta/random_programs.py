"""Random legal programs: rounds of load, compute and store, double-buffered, ordered by tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.program import DramLayout, Program


def small(log_batch: int = 0, log_block: int = 1, depth: int = 5) -> VtaConfig:
    """A configuration of 32-element scratchpads, which a scalar interpreter runs quickly."""
    vector = log_batch + log_block
    return VtaConfig.of(
        {
            "TARGET": "sim", "LOG_INP_WIDTH": 3, "LOG_WGT_WIDTH": 3, "LOG_ACC_WIDTH": 5,
            "LOG_BATCH": log_batch, "LOG_BLOCK": log_block, "LOG_UOP_BUFF_SIZE": depth + 2,
            "LOG_INP_BUFF_SIZE": depth + vector, "LOG_WGT_BUFF_SIZE": depth + 2 * log_block,
            "LOG_ACC_BUFF_SIZE": depth + vector + 2,
            "FEATURES": ["acc_8bit", "alu_clp", "alu_mov", "alu_mul", "pad_min"],
        }
    )  # fmt: skip


def random_program(config: VtaConfig, seed: int) -> tuple[Program, dict[str, np.ndarray]]:
    """A legal program and the bytes of its one input; 1 to 4 rounds, each in one half of the scratchpads."""
    rng = np.random.default_rng(seed)
    half = config.depth("acc") // 2
    rounds = int(rng.integers(1, 5))
    layout = DramLayout()
    elements = 2 * half
    largest = max(config.element_bytes("wgt"), config.element_bytes("acc"))
    image = rng.integers(-128, 128, elements * largest * 2, np.int64).astype(np.int8)
    source = layout.add("x", "input", image.size)
    uops = rng.integers(0, half // 4, (rounds * 4, 3))
    uops += (np.arange(rounds * 4)[:, None] // 4 % 2) * half
    # Implementations agree on immediates only where source and destination are one element.
    uops[:, 1] = uops[:, 0]
    bases = np.array([[0, 0, 0], [half, half, 0]])
    words = isa.encode_uops(np.concatenate([uops, bases]), config)
    held = layout.add("uops", "uop", words)
    result = layout.add("y", "output", rounds * half * config.element_bytes("out"))

    def load(memory: isa.Memory, size: int, at: int, padded: bool) -> isa.Load:
        """Fills ``half`` elements from ``at``, some of them by padding."""
        top, rows = (int(rng.integers(1, 4)), 4) if padded else (0, 1)
        columns = half // 4 if padded else half
        left = int(rng.integers(0, columns)) if padded else 0
        base = source.address // size + int(rng.integers(0, image.size // size - elements))
        return isa.Load(
            memory=memory, sram_base=at, dram_base=base, y_size=rows - top, x_size=columns - left,
            x_stride=int(rng.integers(0, 4)), y_pad_0=top, x_pad_0=left,
            pad_min=padded and bool(rng.integers(2)),
        )  # fmt: skip

    program: list[isa.Instruction] = []
    for number in range(rounds):
        at = number % 2 * half
        again, last = number + 2 < rounds, number == rounds - 1
        program.append(
            dataclasses.replace(
                load(isa.Memory.INP, config.element_bytes("inp"), at, bool(rng.integers(2))),
                pop_next=number >= 2,
            )
        )
        weights = load(isa.Memory.WGT, config.element_bytes("wgt"), at, False)
        program.append(dataclasses.replace(weights, push_next=True))
        # A carrier of two pops, then the work, then a carrier of two pushes: all that compute does between.
        program.append(isa.Load(memory=isa.Memory.UOP, pop_prev=True, pop_next=number >= 2))
        narrow = bool(rng.integers(2))
        kind = isa.Memory.ACC8 if narrow else isa.Memory.ACC
        size = config.element_bytes("acc8" if narrow else "acc")
        program.append(load(kind, size, at, bool(rng.integers(2))))
        program.append(
            isa.Load(
                memory=isa.Memory.UOP, sram_base=number % 2 * 4, dram_base=held.address // 4 + 4 * number,
                y_size=1, x_size=4,
            )
        )  # fmt: skip
        program += [_work(rng, number % 2 * 4, half) for _ in range(int(rng.integers(1, 6)))]
        # The whole half passes the ALU, so that its mirror is whole.
        base = held.address // 4 + 4 * rounds + number % 2
        program.append(isa.Load(memory=isa.Memory.UOP, sram_base=8, dram_base=base, y_size=1, x_size=1))
        program.append(_identity(half))
        program.append(isa.Load(memory=isa.Memory.UOP, push_next=True, push_prev=again))
        out = result.address // config.element_bytes("out") + number * half
        program.append(
            isa.Store(
                memory=isa.Memory.OUT, sram_base=at, dram_base=out, y_size=1, x_size=half,
                pop_prev=True, push_prev=again or last,
            )
        )  # fmt: skip
    program += [isa.Load(memory=isa.Memory.UOP, pop_next=True), isa.Finish()]
    return Program.of(config, program, layout.buffers), {"x": image}


def _work(rng: np.random.Generator, uop: int, half: int) -> isa.Instruction:
    begin = uop + int(rng.integers(0, 3))
    end = begin + int(rng.integers(0, uop + 5 - begin))
    top = half // 8
    outer, inner = (int(v) for v in rng.integers(0, 4, 2))
    factors = {
        f"{what}_factor_{loop}": int(rng.integers(0, top + 1))
        for what in ("dst", "src") for loop in ("out", "in")
    }  # fmt: skip
    loops = {"uop_bgn": begin, "uop_end": end, "iter_out": outer, "iter_in": inner}
    if rng.integers(2):
        wgt = {f"wgt_factor_{loop}": int(rng.integers(0, top + 1)) for loop in ("out", "in")}
        return isa.Gemm(reset=not rng.integers(4), **loops, **factors, **wgt)
    op = list(isa.AluOp)[int(rng.integers(7))]
    imm = int(rng.integers(-15, 16)) if op is isa.AluOp.SHR else int(rng.integers(-32768, 32768))
    use_imm = op is isa.AluOp.SHR or bool(rng.integers(2))
    if use_imm:
        factors |= {f"src_{name}": factors[f"dst_{name}"] for name in ("factor_out", "factor_in")}
    return isa.Alu(op=op, use_imm=use_imm, imm=imm, **loops, **factors)


def _identity(half: int) -> isa.Alu:
    """ADD 0 to a whole half: micro-op 8 holds its base."""
    loops = {"uop_bgn": 8, "uop_end": 9, "iter_out": 1, "iter_in": half}
    return isa.Alu(op=isa.AluOp.ADD, use_imm=True, imm=0, dst_factor_in=1, src_factor_in=1, **loops)
