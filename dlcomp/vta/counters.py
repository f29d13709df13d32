"""What a run of a program did, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Counters:
    """Counts of one run; bytes are what crosses the memory bus, padding excluded.

    ``gemm_uops`` and ``alu_uops`` are micro-ops executed (``iter_out * iter_in * uops``), resets apart in
    ``reset_uops``; ``macs`` multiply-accumulates of the GEMM without resets.
    """

    instructions: int = 0
    loads: int = 0
    stores: int = 0
    gemms: int = 0
    alus: int = 0
    gemm_uops: int = 0
    reset_uops: int = 0
    alu_uops: int = 0
    macs: int = 0
    insn_bytes: int = 0
    uop_bytes: int = 0
    inp_bytes: int = 0
    wgt_bytes: int = 0
    acc_bytes: int = 0
    out_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All bytes over the bus."""
        return sum(value for name, value in asdict(self).items() if name.endswith("_bytes"))

    def to_dict(self) -> dict[str, int]:
        """For JSON, with ``total_bytes``."""
        return {**asdict(self), "total_bytes": self.total_bytes}
