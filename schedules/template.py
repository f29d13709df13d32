"""The contract that every schedule meets.

A template says which workloads it can compute (``accepts``), which knobs it has for one
(``space``), what a choice would cost (``estimate``, in cycles of one core: a ranking, not a
promise), how its operands must lie in memory (``pack``), what it computes (``compute``, in the
tensor expression language: the definition that fusion works on), and the TensorIR that does it
(``schedule``). A template that does not accept a workload leaves it to the next one.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.workload import ANNOTATION, KNOBS, Workload, to_text
from dlcomp.target import Target

Knobs = Mapping[str, int]


class Template(ABC):
    """One way of computing one kind of workload on one kind of target."""

    name: ClassVar[str]

    @abstractmethod
    def accepts(self, workload: Workload, target: Target) -> bool:
        """Whether this template can compute ``workload`` on ``target``."""

    @abstractmethod
    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        """All knob settings worth trying, none of them invalid."""

    @abstractmethod
    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        """Cycles of one core, from registers, loads and tails alone."""

    def pack(
        self, workload: Workload, knobs: Knobs, weight: np.ndarray
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """The constant operand as the kernel reads it, or several; unchanged unless overridden."""
        return weight

    @abstractmethod
    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        """The operator as one ``te`` stage over the (packed) operands, its block annotated."""

    @abstractmethod
    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        """``tvm.s_tir.Schedule`` of the operator with everything that was fused behind it."""

    def flops(self, workload: Workload, knobs: Knobs) -> int:
        """Operations that the kernel does; all of the workload's unless some are left out."""
        return workload.flops

    def choose(self, workload: Workload, target: Target) -> Knobs:
        """The knobs that the estimate likes best."""
        return min(self.space(workload, target), key=lambda knobs: self.estimate(workload, knobs, target))


def annotations(template: Template, workload: Workload, knobs: Knobs) -> dict[str, str]:
    """What is written on the operator's block, for the template to find again after fusion."""
    return {ANNOTATION: to_text(workload), KNOBS: json.dumps({"template": template.name, **knobs})}
