"""What a workload must compute, in NumPy: its operands and its result, to judge candidates by.

Results are accumulated in float64, so that the error found is the candidate's alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from dlcomp.schedules.coding import Coded, Shared, coding_of, is_coded
from dlcomp.schedules.coding import example as coded_example
from dlcomp.schedules.cpu.arithmetic import arithmetic_of
from dlcomp.schedules.sparsity import example
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload, to_text


def operands(workload: Workload) -> tuple[list[Any], bool]:
    """Random operands, the same ones every time, and whether those after the first are constants."""
    rng = np.random.default_rng(zlib.crc32(to_text(workload).encode()))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    if isinstance(workload, Gemm) and is_coded(workload.arithmetic):
        coded = coded_example(workload.k, workload.n, coding_of(workload.arithmetic), rng)
        return [normal(workload.m, workload.k), coded], True
    if isinstance(workload, Window2d) and workload.arithmetic in ("uint8", "int8"):
        info, wl = np.iinfo(workload.arithmetic), workload
        return [rng.integers(info.min, info.max + 1, (wl.n, wl.h, wl.w, wl.c)).astype(info.dtype)], True
    if isinstance(workload, Gemm | Conv2d | Window2d) and workload.arithmetic != "float32":
        return _integers(workload, rng), True
    if isinstance(workload, Gemm):
        weight = normal(workload.k, workload.n)
        if workload.stored:
            weight = example(workload.k, workload.n, workload.stored, rng)
        return [normal(workload.m, workload.k), weight], True
    if isinstance(workload, BatchMatmul):
        wl = workload
        return [normal(wl.batch, wl.m, wl.k), normal(wl.batch, wl.k, wl.n)], False
    if isinstance(workload, Conv2d):
        c = workload
        image = normal(c.n, c.h, c.w, c.ci * c.groups)
        if c.stored:
            weight = example(c.kh * c.kw * c.ci, c.co, c.stored, rng).T.reshape(c.co, c.kh, c.kw, c.ci)
            return [image, weight], True
        return [image, normal(c.co * c.groups, c.kh, c.kw, c.ci)], True
    image = normal(workload.n, workload.h, workload.w, workload.c)
    if workload.kind == "depthwise":
        return [image, normal(workload.c, workload.kh, workload.kw, 1)], True
    return [image], True


def _integers(workload: Gemm | Conv2d | Window2d, rng: np.random.Generator) -> list[np.ndarray]:
    """Any 8-bit data and weights, in the types of the arithmetic."""
    kinds = arithmetic_of(workload.arithmetic)
    shapes: list[tuple[int, ...]]
    kind = kinds.data
    if isinstance(workload, Window2d):
        w, kind = workload, "uint8"
        shapes = [(w.n, w.h, w.w, w.c), (w.c, w.kh, w.kw, 1)]
    elif isinstance(workload, Gemm):
        shapes = [(workload.m, workload.k), (workload.k, workload.n)]
    else:
        c = workload
        shapes = [(c.n, c.h, c.w, c.ci * c.groups), (c.co * c.groups, c.kh, c.kw, c.ci)]
    data = rng.integers(0, 256, shapes[0]).astype(kind)
    weight = rng.integers(-128, 128, shapes[1])
    if isinstance(workload, Gemm) and workload.stored:
        weight = np.where(example(*shapes[1], workload.stored, rng) != 0, weight | 1, 0)
    elif isinstance(workload, Conv2d) and workload.stored:
        kept = example(c.kh * c.kw * c.ci, c.co, c.stored, rng).T.reshape(shapes[1]) != 0
        weight = np.where(kept, weight | 1, 0)
    return [data, weight.astype(kinds.weight)]


def expected(workload: Workload, given: list[Any]) -> np.ndarray:
    """The float64 result for ``given`` operands."""
    given = [value.reals() if isinstance(value, Coded | Shared) else value for value in given]
    if isinstance(workload, Gemm | BatchMatmul):
        return np.asarray(np.matmul(given[0].astype(np.float64), given[1].astype(np.float64)))
    if isinstance(workload, Conv2d):
        return _conv2d(workload, *(value.astype(np.float64) for value in given))
    return _window(workload, given)


def _taps(wl: Any, image: np.ndarray, fill: float, visit: Callable[[int, int, np.ndarray], None]) -> None:
    """``visit(ky, kx, pixels)`` for each tap: the (n, oh, ow, c) pixels under it, ``fill`` outside."""
    high, wide = (wl.oh - 1) * wl.sh + 1, (wl.ow - 1) * wl.sw + 1
    below = max(0, high + (wl.kh - 1) * wl.dh - wl.top - wl.h)
    right = max(0, wide + (wl.kw - 1) * wl.dw - wl.left - wl.w)
    padded = np.pad(image, ((0, 0), (wl.top, below), (wl.left, right), (0, 0)), constant_values=fill)
    for ky in range(wl.kh):
        for kx in range(wl.kw):
            y, x = ky * wl.dh, kx * wl.dw
            visit(ky, kx, padded[:, y : y + high : wl.sh, x : x + wide : wl.sw])


def _conv2d(wl: Conv2d, image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    out = np.zeros((wl.n, wl.oh, wl.ow, wl.groups, wl.co))
    grouped = weight.reshape(wl.groups, wl.co, wl.kh, wl.kw, wl.ci)

    def visit(ky: int, kx: int, pixels: np.ndarray) -> None:
        for g in range(wl.groups):
            part = pixels[..., g * wl.ci : (g + 1) * wl.ci]
            out[..., g, :] += part @ grouped[g, :, ky, kx].T

    _taps(wl, image, 0.0, visit)
    return out.reshape(wl.n, wl.oh, wl.ow, wl.groups * wl.co)


def _window(wl: Window2d, given: list[np.ndarray]) -> np.ndarray:
    image = given[0].astype(np.float64)
    start = -np.inf if wl.kind == "max" else 0.0
    out = np.full((wl.n, wl.oh, wl.ow, wl.c), start)

    def visit(ky: int, kx: int, pixels: np.ndarray) -> None:
        if wl.kind == "max":
            np.maximum(out, pixels, out=out)
        elif wl.kind == "depthwise":
            np.add(out, pixels * given[1][:, ky, kx, 0], out=out)
        else:
            np.add(out, pixels, out=out)

    _taps(wl, image, start + wl.filling, visit)
    if wl.kind.startswith("avg"):
        inside = "avg" == wl.kind
        rows = _covered(wl.oh, wl.kh, wl.sh, wl.dh, wl.top, wl.h, 0 if inside else wl.bottom, inside)
        columns = _covered(wl.ow, wl.kw, wl.sw, wl.dw, wl.left, wl.w, 0 if inside else wl.right, inside)
        out /= np.maximum(1, rows[:, None] * columns[None, :])[None, :, :, None]
    return out


def _covered(
    out: int, kernel: int, stride: int, dilation: int, before: int, size: int, after: int, inside: bool
) -> np.ndarray:
    """How many taps of each output position count for an average."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    first = 0 if inside else -before
    return np.asarray(((at >= first) & (at < size + after)).sum(axis=1))
