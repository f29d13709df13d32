"""What of a network is worth tuning: its workloads, each once, with its share of the time.

The network goes through the graph passes and the lowering of a compilation; every kernel that a template
claims carries its workload. Candidates are measured without the element-wise epilogue that was
fused behind it: that is the same few operations for all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, relax, tirx

from dlcomp.graph.fold import fold_constants
from dlcomp.graph.layout import channels_last
from dlcomp.graph.lower import lower
from dlcomp.graph.prepare import prepare
from dlcomp.model import Model
from dlcomp.schedules import anchor as anchors
from dlcomp.schedules.workload import Workload, from_text, to_text
from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate, candidates

# Sizes that are 0 where they are open.
_MAY_BE_OPEN = ("batch", "m", "n", "k", "h", "w", "oh", "ow")


@dataclass(frozen=True)
class Task:
    """A workload to tune.

    Attributes
    ----------
    name : str
        Its operator and shape, for people and for ``--tasks``.
    workload : Workload
    count : int
        How often one run of the network computes it.
    share : float
        Of the network's time in tuned operators, by the estimates.
    space : tuple of Candidate
        Everything that can be tried; the first is what is used without tuning.
    """

    name: str
    workload: Workload
    count: int
    share: float
    space: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        """The key of the workload in the database."""
        return str(to_text(self.workload))


def tasks(model: Model, target: Target) -> list[Task]:
    """The tasks of ``model``, the largest share first."""
    module = channels_last(fold_constants(prepare(model.module)))
    return of_workloads(_workloads(lower(fold_constants(module), target)), target)


def of_workloads(counts: Counter[str], target: Target) -> list[Task]:
    """Tasks of workloads (their texts) and how often each is computed."""
    spaces = {text: candidates(from_text(text), target) for text in counts}
    cycles = {text: counts[text] * space[0].estimate for text, space in spaces.items() if space}
    total = sum(cycles.values()) or 1.0
    found = [
        Task(name_of(from_text(text)), from_text(text), counts[text], cost / total, tuple(spaces[text]))
        for text, cost in cycles.items()
    ]
    return sorted(found, key=lambda task: -task.share)


def name_of(workload: Workload) -> str:
    """As ``Conv2d 1x56x56x64 -> 56x56x64 k3x3 s1x1``; two workloads of a network may share one.

    Open sizes are question marks.
    """
    sizes: dict[str, Any] = {
        name: "?" if name in _MAY_BE_OPEN and not value else value for name, value in vars(workload).items()
    }
    if "m" in sizes:
        batch = f"{sizes['batch']}x" if "batch" in sizes else ""
        return f"{type(workload).__name__} {batch}{sizes['m']}x{sizes['n']}x{sizes['k']}"
    channels = sizes["c"] if "c" in sizes else sizes["ci"] * sizes["groups"]
    out = sizes["c"] if "c" in sizes else sizes["co"] * sizes["groups"]
    kind = sizes.get("kind") or type(workload).__name__
    groups = f" g{sizes['groups']}" if sizes.get("groups", 1) > 1 else ""
    return (
        f"{kind} {sizes['n']}x{sizes['h']}x{sizes['w']}x{channels} -> {sizes['oh']}x{sizes['ow']}x{out} "
        f"k{sizes['kh']}x{sizes['kw']} s{sizes['sh']}x{sizes['sw']}{groups}"
    )


def _workloads(module: IRModule) -> Counter[str]:
    """The workloads of the kernels of a lowered module, by how often ``main`` calls them."""
    texts: dict[str, str] = {}
    for var, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc):
            found = anchors.find(func) if _has_root(func) else None
            if found is not None:
                texts[var.name_hint] = found.workload
    counts: Counter[str] = Counter()

    def visit(expr: object) -> None:
        if isinstance(expr, relax.Call) and len(expr.args) and hasattr(expr.args[0], "name_hint"):
            text = texts.get(expr.args[0].name_hint)
            if text is not None:
                counts[text] += 1

    for func in module.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return counts


def _has_root(func: tirx.PrimFunc) -> bool:
    block = getattr(func.body, "block", None)
    return block is not None and block.name_hint == "root"
