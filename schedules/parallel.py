"""When a loop is worth sharing among the cores."""

from __future__ import annotations

from dlcomp.target import Target

# Waking the pool costs some microseconds; a kernel of fewer operations than this is done by then.
_LEAST_FLOPS = 200_000
LEAST_BYTES = 64 * 1024


def parallel_kind(flops: int, target: Target) -> str:
    """``parallel`` if ``flops`` operations repay waking the other cores, else ``serial``."""
    return "parallel" if target.cores > 1 and flops >= _LEAST_FLOPS else "serial"


def parallel_bytes(count: int, target: Target) -> bool:
    """Whether moving ``count`` bytes repays waking the other cores."""
    return target.cores > 1 and count >= LEAST_BYTES
