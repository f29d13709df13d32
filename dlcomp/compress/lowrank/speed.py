"""What a layer and a chain in its place take on a processor, by the estimates of their kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlcomp.compress.lowrank.subject import Subject, strides_of
from dlcomp.schedules import select
from dlcomp.schedules.cpu.tile import bytes_a_cycle
from dlcomp.schedules.workload import Conv2d, Gemm, Window2d, Workload
from dlcomp.target import Target

# A kernel's call, and starting its loops, in cycles.
_CALL = 3000.0
Shapes = Sequence[tuple[Sequence[int], frozenset[int]]]


def is_known(subject: Subject) -> bool:
    """Whether times can be estimated: of dense layers and convolutions of images of known size."""
    kind = subject.layer.node.op_type
    return kind in ("Gemm", "MatMul") or (
        kind == "Conv" and len(subject.taps) == 2 and subject.before != (1, 1)
    )


def dense_cycles(subject: Subject, target: Target) -> float:
    """Of the layer as it is."""
    return _cycles(subject, [(subject.weight.shape, subject.axes)], target)


def chain_cycles(subject: Subject, shapes: Shapes, target: Target) -> float:
    """Of stages of kernels of ``shapes``, each with the axes along which it moves, in order."""
    return _cycles(subject, shapes, target)


def _cycles(subject: Subject, shapes: Shapes, target: Target) -> float:
    total, done = 0.0, frozenset[int]()
    for number, (kernel, axes) in enumerate(shapes):
        workload = _workload(subject, tuple(kernel), axes, done)
        done |= axes
        found = select(workload, target)
        if found is None:
            return math.inf
        total += _CALL + found[0].estimate(workload, found[1], target)
        if number + 1 < len(shapes):
            # What lies between two stages is written and read once more.
            size = 4 * workload.flops // (2 * math.prod(kernel[1:]))
            total += 2 * size / bytes_a_cycle(size, target)
    return total


def _workload(
    subject: Subject, kernel: tuple[int, ...], axes: frozenset[int], done: frozenset[int]
) -> Workload:
    """``kernel`` (O, I, K...) on the image behind the axes that are ``done``."""
    outputs, inputs, *taps = kernel
    if subject.layer.node.op_type != "Conv":
        return Gemm(subject.rows, outputs, inputs)
    moves = strides_of(subject)
    before = [subject.after[a] if a in done else subject.before[a] for a in (0, 1)]
    after = [subject.after[a] if a in done | axes else subject.before[a] for a in (0, 1)]
    if max(taps) == 1 and not axes:
        return Gemm(subject.rows * math.prod(before), outputs, inputs)
    steps, spread = ([moves[key][a] if a in axes else 1 for a in (0, 1)] for key in ("strides", "dilations"))
    pads = [pad if n % 2 in axes else 0 for n, pad in enumerate(moves["pads"])]
    if inputs == 1 and outputs > 1 and subject.weight.shape[1] > 1:
        image = ("depthwise", subject.rows, *before, outputs)
        return Window2d(*image, *after, *taps, *steps, *spread, *pads)
    size = (subject.rows, *before, inputs)
    return Conv2d(*size, *after, outputs, *taps, *steps, *spread, *pads[:2], 1)
