"""What TVM's own passes do well on a fresh module: training forms removed, common work shared."""

from __future__ import annotations

from tvm import IRModule, relax, transform


def prepare(module: IRModule) -> IRModule:
    """``module`` with inference forms of its operators, constants bound plainly, and no dead code."""
    passes = transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference("main"),
            relax.transform.CanonicalizeBindings(),
            relax.transform.EliminateCommonSubexpr(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )
    return passes(module)
