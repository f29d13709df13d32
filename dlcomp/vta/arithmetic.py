"""GEMM and ALU of a whole instruction at once, exact.

A block product of int8 is at most ``block * 2^14`` in magnitude, below 2^24 for every block that encodes
(64 at most), so single-precision BLAS computes it exactly; sums are then kept in int32, which wraps as the
hardware does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcomp.vta import isa

Indices = npt.NDArray[np.int64]
# Elements of a gathered operand that are worked on at a time (16 MiB of float32).
_CHUNK = 1 << 22


def indices(base: Indices, factor_out: int, factor_in: int, loops: isa.Loops) -> Indices:
    """Scratchpad indices ``(iter_out * iter_in, uops)`` in the order of execution."""
    outer = np.arange(loops.iter_out, dtype=np.int64) * factor_out
    inner = np.arange(loops.iter_in, dtype=np.int64) * factor_in
    nest: Indices = (outer[:, None] + inner[None, :]).reshape(-1, 1) + base[None, :]
    return nest


def gemm(
    acc: npt.NDArray[np.int32],
    inp: npt.NDArray[np.int8],
    wgt: npt.NDArray[np.int8],
    dst: Indices,
    src: Indices,
    weight: Indices,
) -> None:
    """``acc[dst] += inp[src] @ wgt[weight].T`` for indices ``(iterations, uops)``, in place."""
    batch, block = inp.shape[1:]
    constant = bool((weight == weight[:1]).all())
    if not constant:
        _each(acc, inp, wgt, dst.ravel(), src.ravel(), weight.ravel())
        return
    # One weight tile a micro-op: a matrix product of (iterations * batch, block) by (block, block) each.
    count = len(dst)
    unique = _distinct_columns(dst)
    uops = max(1, _CHUNK // max(1, count * batch * block))
    for at in range(0, dst.shape[1], uops):
        cut = slice(at, at + uops)
        left = inp[src[:, cut].T].astype(np.float32).reshape(-1, count * batch, block)
        right = wgt[weight[0, cut]].astype(np.float32).transpose(0, 2, 1)
        products = np.matmul(left, right).astype(np.int32).reshape(-1, count, batch, block)
        for column, product in zip(dst[:, cut].T, products, strict=True):
            if unique:
                acc[column] += product
            else:
                np.add.at(acc, column, product)


def _distinct_columns(dst: Indices) -> bool:
    """Whether no micro-op writes an element twice; all columns are the first one plus a constant."""
    first = dst[:, 0]
    return len(np.unique(first)) == len(first)


def _each(
    acc: npt.NDArray[np.int32],
    inp: npt.NDArray[np.int8],
    wgt: npt.NDArray[np.int8],
    dst: Indices,
    src: Indices,
    weight: Indices,
) -> None:
    """Every step has a weight tile of its own."""
    step = max(1, _CHUNK // wgt[0].size)
    for at in range(0, len(dst), step):
        cut = slice(at, at + step)
        right = wgt[weight[cut]].astype(np.float32).transpose(0, 2, 1)
        product = np.matmul(inp[src[cut]].astype(np.float32), right).astype(np.int32)
        np.add.at(acc, dst[cut], product)


def apply(op: isa.AluOp, left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """One ALU operation on int32 lanes; ADD and MUL wrap, amounts of SHR beyond 31 shift everything out."""
    if op is isa.AluOp.MIN:
        result = np.minimum(left, right)
    elif op is isa.AluOp.MAX:
        result = np.maximum(left, right)
    elif op is isa.AluOp.ADD:
        result = left + right
    elif op is isa.AluOp.MUL:
        result = left * right
    elif op is isa.AluOp.SHR:
        wide = right.astype(np.int64)
        down = left >> np.clip(wide, 0, 31).astype(np.int32)
        amount = np.clip(-wide, 0, 32)
        up = (left.astype(np.int64) << amount).astype(np.int32)
        result = np.where(wide >= 0, down, up)
    elif op is isa.AluOp.CLP:
        # -(-2^31) wraps to -2^31, which would turn the bounds round: widen first.
        bound = right.astype(np.int64)
        result = np.minimum(np.maximum(left.astype(np.int64), -bound), bound).astype(np.int32)
    else:
        result = np.broadcast_to(right, left.shape).copy()
    return np.asarray(result, np.int32)


def alu(acc: npt.NDArray[np.int32], op: isa.AluOp, dst: Indices, src: Indices | None, imm: int) -> None:
    """``acc[dst] = op(acc[dst], acc[src] or imm)`` for indices ``(iterations, uops)``, in the order given.

    Runs of steps in which nothing written is read or written again are done at once.
    """
    flat_dst = dst.ravel()
    flat_src = None if src is None else src.ravel()
    for cut in _runs(flat_dst, flat_src):
        left = acc[flat_dst[cut]]
        right = np.int32(imm) if flat_src is None else acc[flat_src[cut]]
        acc[flat_dst[cut]] = apply(op, left, np.asarray(right, np.int32))


def _runs(dst: Indices, src: Indices | None) -> list[slice]:
    """Longest stretches of steps that neither write an element twice nor read one that they wrote before."""
    count = len(dst)
    previous = _last_write_before(dst, dst)
    if src is not None:
        previous = np.maximum(previous, _last_write_before(src, dst))
    if previous.max(initial=-1) < 0:
        return [slice(0, count)]
    cuts = [0]
    for at in np.flatnonzero(previous >= 0).tolist():
        if previous[at] >= cuts[-1]:
            cuts.append(at)
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], count], strict=True)]


def _last_write_before(wanted: Indices, dst: Indices) -> Indices:
    """For every step the latest earlier step that writes ``wanted``, or -1."""
    count = len(dst)
    order = np.arange(count, dtype=np.int64)
    keys = np.sort(dst * count + order)
    place = np.searchsorted(keys, wanted * count + order, side="left") - 1
    found = keys[np.maximum(place, 0)]
    good = (place >= 0) & (found // count == wanted)
    return np.where(good, found % count, -1)
