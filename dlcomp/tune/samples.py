"""The sizes that a workload with open ones is measured at: short, middle and long.

What counts is the geometric mean of their times, so that no size outweighs the others.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload

# Rows of a product by constant weights: a short text, a longer one, a batch.
_ROWS = (16, 64, 384)
# Both sides of attention, by as many heads.
_LENGTHS, _HEADS = (16, 64, 192), 12
# Height and width of a result image: a late layer, an early one.
_IMAGES = ((6, 40), (40, 40), (24, 160))


def is_open(workload: Workload) -> bool:
    """Whether sizes of ``workload`` are known only when the network runs."""
    return bool(workload.flops == 0)


def samples(workload: Workload) -> list[Any]:
    """Workloads of known sizes that stand for ``workload``; itself alone if its sizes are known."""
    if not is_open(workload):
        return [workload]
    if isinstance(workload, Gemm):
        return [replace(workload, m=m) for m in _ROWS]
    if isinstance(workload, BatchMatmul):
        return [
            BatchMatmul(
                workload.batch or _HEADS, *(size or length for size in (workload.m, workload.n, workload.k))
            )
            for length in _LENGTHS
        ]
    assert isinstance(workload, Conv2d | Window2d)
    return [
        replace(
            workload,
            n=1,
            h=(oh - 1) * workload.sh + (workload.kh - 1) * workload.dh + 1,
            w=(ow - 1) * workload.sw + (workload.kw - 1) * workload.dw + 1,
            oh=oh,
            ow=ow,
        )
        for oh, ow in _IMAGES
    ]


def flops_of(workload: Workload) -> float:
    """Operations of ``workload``; of open sizes the geometric mean over the samples."""
    counts = [sample.flops for sample in samples(workload)]
    return counts[0] if len(counts) == 1 else math.exp(sum(map(math.log, counts)) / len(counts))
