"""Which of TVM's lowering passes a kernel needs.

TVM's pipeline is made for loops over blocks that a schedule moved about. A kernel that a template wrote whole
has no such blocks, and some passes only search through it, in a time that grows faster than the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx

# Narrows buffers to the part that is used: those of a template have that size, and what all indices can be is
# worked out for every access (half of the time of a kernel with open sizes). RemoveNoOp asks the same of
# every statement to find those without effect.
_WRITTEN = ("s_tir.CompactBufferAllocation", "tirx.RemoveNoOp")

# The first simplification puts what is bound to a name, as the place of a row in an open shape, wherever the
# name is used, and later passes work on the copies; the second one comes when the indices are flat.
_OPEN = (*_WRITTEN, "s_tir.StmtSimplify", "s_tir.RenormalizeSplitPattern")


def unneeded(func: Any) -> tuple[str, ...]:
    """Names of the passes of TVM's pipeline that a scheduled ``tirx.PrimFunc`` can do without."""
    body = func.body
    if not isinstance(body, s_tir.SBlockRealize) or body.block.alloc_buffers or _has_blocks(body.block.body):
        return ()
    return _OPEN if _is_open(func) else _WRITTEN


def by_passes(kernels: Mapping[Any, Any]) -> dict[tuple[str, ...], dict[Any, Any]]:
    """Functions by what :func:`unneeded` says of them."""
    groups: dict[tuple[str, ...], dict[Any, Any]] = {}
    for var, func in kernels.items():
        groups.setdefault(unneeded(func), {})[var] = func
    return groups


def _has_blocks(body: Any) -> bool:
    found = (s_tir.SBlock, lambda node: tvm_ffi.VisitInterrupt(node))
    return tvm_ffi.structural_walk(body, [found], order="pre") is not None


def _is_open(func: Any) -> bool:
    shapes: Iterable[Any] = (p.shape for p in func.params if hasattr(p, "shape"))
    return any(not isinstance(extent, tirx.IntImm) for shape in shapes for extent in shape)
