"""Products by weights that have few values: numbers of a codebook in their place, where that is faster.

A product of few rows takes as long as reading its weights; see :mod:`dlcomp.schedules.cpu.shared_weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dlcomp.graph.walk import array_of, constant
from dlcomp.schedules.coding import Shared, shared
from dlcomp.schedules.cpu.tile import bytes_a_cycle, multiplications_a_cycle
from dlcomp.schedules.sparsity import left
from dlcomp.schedules.workload import Gemm, Workload
from dlcomp.target import Target

Expr = Any
Choose = Callable[[Workload], Any]


def shared_operands(weight: Any) -> tuple[list[Expr], str] | None:
    """A weight (k, n) float32 as constants and the name of their coding; None if it has too many values."""
    if weight.dtype != "float32" or weight.ndim != 2:
        return None
    found = shared(weight)
    return None if found is None else ([constant(found.numbers), constant(found.values)], found.coding.text)


def shared_of(numbers: Expr, values: Expr) -> Shared:
    """The inverse of :func:`shared_operands`."""
    arrays = [array_of(numbers), array_of(values)]
    assert arrays[0] is not None
    assert arrays[1] is not None
    return Shared(arrays[0], arrays[1])


def pays(weight: Shared, workload: Gemm, chosen: Any, choose: Choose, target: Target) -> bool:
    """Whether a kernel that reads the numbers is faster than the best one for floats.

    Of a dense weight that is not more than its products, or its bytes from the cache that all of it fits
    in: how much of it other layers have pushed out of there is not known.
    """
    template, knobs = chosen
    stored = left(weight.reals())
    plain = Gemm(workload.m, workload.n, workload.k, stored=stored)
    found = choose(plain)
    if found is None:
        return True
    cycles = found[0].estimate(plain, found[1], target)
    if not stored:
        size = 4 * plain.n * plain.k
        products = plain.flops / 2 / multiplications_a_cycle(target)
        cycles = min(cycles, max(products, size / bytes_a_cycle(size, target)))
    # The work itself: few tasks leave cores idle with either.
    return bool(template.estimate(workload, knobs, replace(target, cores=1)) < cycles)
