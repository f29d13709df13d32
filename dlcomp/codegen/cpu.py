"""Scheduled kernels and the Relax program around them, compiled to objects for a CPU."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import IRModule, relax

from dlcomp.target import Target


def build_cpu(module: IRModule, target: Target) -> Any:
    """``tvm.relax.VMExecutable`` of ``module``, whose kernels are scheduled already."""
    passes = tvm.transform.Sequential(
        [
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    with tvm.transform.PassContext(opt_level=3):
        return tvm.compile(module, target=target.to_tvm(), relax_pipeline=passes)
