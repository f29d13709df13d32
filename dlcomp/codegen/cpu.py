"""Scheduled kernels and the Relax program around them, compiled to objects for a CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import IRModule, relax, tirx

from dlcomp.codegen.link import objects_of
from dlcomp.codegen.passes import by_passes
from dlcomp.frontend.symbolic import dim_of, product, surely_equal
from dlcomp.graph.walk import rebuild
from dlcomp.target import Target


def build_cpu(module: IRModule, target: Target) -> dict[str, bytes]:
    """Object files of ``module``, whose kernels are scheduled already.

    LLVM works on one module at a time, so the kernels are dealt to as many modules as this machine
    has cores; what needs all passes of the first goes with the program, the others are objects of their own.
    """
    kernels = [
        (var, func.with_attr("global_symbol", var.name_hint))
        for var, func in module.functions.items()
        if isinstance(func, tirx.PrimFunc)
    ]
    count = max(1, min(len(os.sched_getaffinity(0)), len(kernels) // 4))
    first, *rest = (by_passes(group) for group in _deal(kernels, count))
    # The program is lowered by all passes.
    own = first.pop((), {})
    with ThreadPoolExecutor(count) as pool:
        others = [pool.submit(_kernels_objects, group, target) for group in (*rest, first)]
        objects = objects_of(_program(module, own, target), target)
        made = [content for other in others for content in other.result()]
    return objects | {f"kernels{index}.o": content for index, content in enumerate(made, start=1)}


def _deal(kernels: Sequence[tuple[Any, Any]], count: int) -> list[dict[Any, Any]]:
    """The kernels in ``count`` groups of about the same amount of code."""
    groups: list[dict[Any, Any]] = [{} for _ in range(count)]
    sizes = [0] * count
    sized = [(len(str(func)), var, func) for var, func in kernels]
    for size, var, func in sorted(sized, key=lambda item: -item[0]):
        least = sizes.index(min(sizes))
        groups[least][var] = func
        sizes[least] += size
    return groups


def _kernels_objects(groups: Mapping[tuple[str, ...], dict[Any, Any]], target: Target) -> list[bytes]:
    """An object for each group of kernels, lowered without the passes that it is named by."""
    return [_kernels_object(kernels, target, unneeded) for unneeded, kernels in groups.items()]


def _kernels_object(kernels: dict[Any, Any], target: Target, unneeded: Sequence[str]) -> bytes:
    with tvm.transform.PassContext(opt_level=3, disabled_pass=list(unneeded)):
        built = tirx.build(IRModule(kernels), target=target.to_tvm())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.o"
        built.write_to_file(str(path))
        return path.read_bytes()


def _program(module: IRModule, own: dict[Any, Any], target: Target) -> Any:
    """``tvm.relax.VMExecutable`` of the program with the kernels ``own``; it finds the others by name."""
    passes = tvm.transform.Sequential(
        [
            _views(),
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
            _elsewhere(module, own),
        ]
    )
    with tvm.transform.PassContext(opt_level=3):
        return tvm.compile(module, target=target.to_tvm(), relax_pipeline=passes)


def _views() -> Any:
    """A pass that makes of kernels that only copy a tensor into another shape a view of it.

    TVM has the same pass, but fails on some moves of open dimensions that it cannot analyse.
    """

    def rewrite(module: IRModule, _: Any) -> IRModule:
        copies = {var for var, func in module.functions.items() if _only_reshapes(func)}

        def step(builder: relax.BlockBuilder, value: Any) -> Any:
            if not (isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.call_tir"):
                return value
            # Open dimensions are operands too.
            tensors = [field for field in value.args[1].fields if isinstance(field.ty, relax.TensorType)]
            if value.args[0] not in copies or len(tensors) != 1:
                return value
            source, made = tensors[0].ty, value.ty_args[0]
            if source.shape is None or str(source.dtype) != str(made.dtype):
                return value
            if not surely_equal(*(product([dim_of(d) for d in ty.shape]) for ty in (source, made))):
                return value
            return relax.op.reshape(tensors[0], made.shape)

        return rebuild(module, step)

    return tvm.transform.module_pass(rewrite, opt_level=0, name="Views")


def _only_reshapes(func: Any) -> bool:
    if not isinstance(func, tirx.PrimFunc) or len(func.params) < 2:
        return False
    try:
        return bool(relax.analysis.has_reshape_pattern(func))
    except Exception:  # a move of open dimensions that TVM cannot analyse
        return False


def _elsewhere(module: IRModule, own: dict[Any, Any]) -> Any:
    """A pass that leaves of the kernels that are not in ``own`` only their names.

    Only the kernels of ``module``: the pipeline adds kernels of its own (shape arithmetic).
    """
    mine = {var.name_hint for var in own}
    others = {
        var.name_hint for var, func in module.functions.items() if isinstance(func, tirx.PrimFunc)
    } - mine

    def name_only(lowered: IRModule, _: Any) -> IRModule:
        kept = {
            var: relax.ExternFunc(var.name_hint) if var.name_hint in others else func
            for var, func in lowered.functions.items()
        }
        return IRModule(kept, attrs=lowered.attrs)

    return tvm.transform.module_pass(name_only, opt_level=0, name="NameKernelsElsewhere")
