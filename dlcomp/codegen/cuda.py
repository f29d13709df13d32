"""Relax to CUDA: dlight's default schedules, every kernel checked to run on threads within the card's limits.

The source is always kept. Where nvcc is present a cubin is made too, so that the machine with the card
needs no CUDA compiler: TVM asks its compile callback for the binary when the artifact is loaded, and
``dlcomp.runtime.cuda_binary`` answers with the stored one.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, relax, s_tir, tirx
from tvm.s_tir import dlight

from dlcomp.errors import InternalError
from dlcomp.target import Target

_LOG = logging.getLogger("dlcomp.codegen")

# Where the rule that scheduled a function is written down.
SCHEDULE_ATTR = "dlcomp.schedule"


def build_cuda(module: IRModule, target: Target) -> tuple[Any, dict[str, bytes]]:
    """Compile a Relax module for a CUDA device, which need not be on this machine.

    Parameters
    ----------
    module : tvm.IRModule
        From :func:`schedule_cuda`.
    target : Target
        Of kind ``cuda``.

    Returns
    -------
    executable : tvm.relax.VMExecutable
    sources : dict of str to bytes
        ``kernels.cu`` and, where nvcc is present and makes it, ``kernels.cubin``.
    """
    tvm_target = target.to_tvm()
    executable = tvm.compile(module, target=tvm_target, relax_pipeline=_finish(tvm_target))
    text = "\n".join(cuda_sources(executable.mod))
    sources = {"kernels.cu": text.encode()}
    cubin = compile_cubin(text, target.arch) if text else None
    return executable, {**sources, "kernels.cubin": cubin} if cubin else sources


def schedule_cuda(module: IRModule, target: Target) -> IRModule:
    """Lower every operator to a kernel, fuse, and bind every kernel to threads.

    Functions that carry ``tirx.is_scheduled`` are taken as they are.
    """
    tvm_target = target.to_tvm()
    with tvm_target:
        lowered = tvm.transform.Sequential(
            [
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(module)
        for name, function in lowered.functions_items():
            if isinstance(function, tirx.PrimFunc) and not _scheduled(function):
                lowered[name] = _bind(name.name_hint, function, tvm_target)
    return lowered


def _scheduled(function: Any) -> bool:
    return bool(function.attrs and function.attrs.get("tirx.is_scheduled", False))


def _rules() -> Sequence[Any]:
    gpu = dlight.gpu
    return (gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback())


def _bind(name: str, function: Any, target: Any) -> Any:
    """The first rule's schedule that lowers, leaves nothing off the threads and fits the card."""
    refused = []
    for rule in _rules():
        label = type(rule).__name__
        try:
            found = rule.apply(function, target, False)
        except Exception as err:  # dlight's rules fail in many ways on shapes that they do not expect
            refused.append(f"{label}: {_first_line(err)}")
            continue
        schedule = found[0] if isinstance(found, list) else found
        if schedule is None:
            continue
        candidate = schedule.mod["main"]
        fault = fault_of(candidate, target)
        if fault is None:
            _LOG.info("%s: dlight %s", name, label)
            marked = candidate.with_attr("tirx.is_scheduled", True)
            return marked.with_attr(SCHEDULE_ATTR, f"dlight.{label}")
        refused.append(f"{label}: {fault}")
    raise InternalError(f"no CUDA schedule for {name} ({'; '.join(refused) or 'no rule takes it'})")


def fault_of(function: Any, target: Any) -> str | None:
    """Why a scheduled function cannot run on the card, or None."""
    try:
        lowered = _to_loops()(IRModule({"main": function.with_attr("target", target)}))["main"]
    except Exception as err:  # any failure of TVM's lowering means the same: not this schedule
        return f"does not lower: {_first_line(err)}"
    if not _on_threads(lowered.body):
        return "some of it runs on no thread"
    limits = {
        "max_threads_per_block": int(target.attrs["max_threads_per_block"]),
        "max_shared_memory_per_block": int(target.attrs["max_shared_memory_per_block"]),
    }
    if not s_tir.analysis.verify_gpu_code(lowered, limits):
        return "too many threads or too much shared memory"
    return None


def _on_threads(body: Any) -> bool:
    """Whether every store is below a thread. TVM 0.27's own ``verify_memory`` lets unbound loops pass,
    and ``tvm.compile`` then makes host code of them, which dies of a device pointer.
    """

    def skip_threads(node: Any) -> Any:
        launches = node.attr_key == "thread_extent"
        return tvm_ffi.WalkResult.SKIP if launches else tvm_ffi.WalkResult.ADVANCE

    stores = (tirx.BufferStore, lambda node: tvm_ffi.VisitInterrupt(node))
    found = tvm_ffi.structural_walk(body, [(tirx.AttrStmt, skip_threads), stores], order="pre")
    return found is None


def _to_loops() -> Any:
    """Blocks to loops over flat buffers, which is the form that TVM's own checks read."""
    return tvm.transform.Sequential(
        [
            s_tir.transform.CanonicalizeLoop(),
            s_tir.transform.LowerCrossThreadReduction(),
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LiftThreadBinding(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.UnifyThreadBinding(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
        ]
    )


def _finish(target: Any) -> Any:
    """What TVM's CUDA pipeline does once every function is scheduled: memory plan and VM lowering."""
    from tvm.relax.backend.cuda import pipeline

    def finish(module: IRModule, _: Any) -> IRModule:
        passes = pipeline.dataflow_lower_passes(target) + pipeline.finalize_passes(target)
        with target:
            return tvm.transform.Sequential(passes)(module)

    return tvm.transform.module_pass(finish, opt_level=0)


def cuda_sources(module: Any) -> list[str]:
    """The CUDA source of every device module below ``module``."""
    found = [str(module.inspect_source())] if module.kind == "cuda" else []
    return found + [text for child in module.imports for text in cuda_sources(child)]


def compile_cubin(source: str, arch: str) -> bytes | None:
    """``source`` compiled by nvcc for ``arch``, or None where there is no nvcc or it refuses."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        _LOG.warning("no nvcc: the artifact holds CUDA source and is compiled on the machine that loads it")
        return None
    with tempfile.TemporaryDirectory() as folder:
        code, binary = Path(folder, "kernels.cu"), Path(folder, "kernels.cubin")
        code.write_text(source)
        command = [nvcc, "-cubin", "-O3", "-std=c++17", f"-arch={arch}", "-o", str(binary), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        if done.returncode == 0:
            return binary.read_bytes()
    _LOG.warning("nvcc refuses the CUDA source for %s: %s", arch, done.stderr.strip()[-2000:])
    return None


def _first_line(err: Exception) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(err).__name__
