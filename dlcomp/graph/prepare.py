"""What TVM's own passes do well on a fresh module: training forms removed, common work shared."""

from __future__ import annotations

from tvm import IRModule, relax, transform

from dlcomp.graph.walk import rebuild


def prepare(module: IRModule) -> IRModule:
    """``module`` with inference forms of its operators, constants bound plainly, and no dead code."""
    module = relax.transform.DecomposeOpsForInference("main")(module)
    if any(
        isinstance(binding, relax.MatchCast)
        for block in module["main"].body.blocks
        for binding in block.bindings
    ):
        # TVM's pass takes a cast between two open dimensions for nothing, and drops the check.
        module = rebuild(module, lambda builder, value: value)
    else:
        module = relax.transform.CanonicalizeBindings()(module)
    passes = transform.Sequential(
        [relax.transform.EliminateCommonSubexpr(), relax.transform.DeadCodeElimination(["main"])]
    )
    return passes(module)
