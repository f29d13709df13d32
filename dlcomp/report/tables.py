"""Results as tables for people."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from dlcomp.report.tuning import origins

if TYPE_CHECKING:
    from dlcomp.runtime.artifact import Artifact
    from dlcomp.runtime.bench import BenchResult, Latency
    from dlcomp.runtime.profile import KernelProfile, ProfileResult
    from dlcomp.runtime.verify import VerifyResult


def bench_table(result: BenchResult) -> RenderableType:
    """Latency in milliseconds, one row a side, and the ratio beneath."""
    plural = "thread" if result.threads == 1 else "threads"
    table = _table(f"{result.name}, {result.threads} {plural}, milliseconds a run")
    table.add_column("")
    for column in ("median", "min", "mean", "p90", "p95", "p99", "spread", "runs", "runs/s"):
        table.add_column(column, justify="right")
    table.add_row("dlcomp", *_latency(result.latency))
    if result.peer_latency is None or result.ratio is None:
        return table
    table.add_row(result.peer, *_latency(result.peer_latency))
    ratio = result.ratio
    line = (
        f"{result.peer} / dlcomp: {ratio.median:.2f} (quartiles {ratio.low:.2f} to {ratio.high:.2f}, "
        f"{len(ratio.turns)} turns); above 1 dlcomp is the faster"
    )
    return Group(table, line)


def _latency(latency: Latency) -> list[str]:
    times = (latency.median, latency.min, latency.mean, latency.p90, latency.p95, latency.p99)
    rest = [f"{latency.spread:.1%}", str(latency.count), f"{latency.throughput:.1f}"]
    return [f"{seconds * 1e3:.3f}" for seconds in times] + rest


def profile_table(result: ProfileResult) -> RenderableType:
    """One row a kernel, longest first; the sum, the wall time and the gap beneath."""
    table = _table(f"{result.name}, {result.threads} threads, {result.runs} runs")
    for column in ("kernel", "operators"):
        table.add_column(column, overflow="fold")
    for column in ("calls", "ms", "share", "GFLOP/s", "GB/s", "% of peak"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("schedule", overflow="fold")
    for kernel in result.kernels:
        table.add_row(*_kernel(kernel))
    peaks = result.peaks
    return Group(
        table,
        f"kernels {result.kernel_s * 1e3:.3f} ms, wall {result.wall_s * 1e3:.3f} ms, "
        f"gap {result.gap_s * 1e3:.3f} ms (in it the virtual machine's own calls)",
        f"peaks measured here: {peaks.flops / 1e9:.1f} GFLOP/s, {peaks.bytes / 1e9:.1f} GB/s from memory, "
        f"{peaks.threads} threads; % of the nearer one, above 100 from caches",
    )


def _kernel(kernel: KernelProfile) -> list[str]:
    known = bool(kernel.bound)
    return [
        kernel.name,
        kernel.op,
        str(kernel.calls),
        f"{kernel.seconds * 1e3:.3f}",
        f"{kernel.share:.1%}",
        f"{kernel.flops_rate / 1e9:.1f}" if known else "",
        f"{kernel.bytes_rate / 1e9:.1f}" if known else "",
        f"{kernel.peak:.0%} {kernel.bound}" if known else "",
        kernel.schedule,
    ]


def verify_table(result: VerifyResult) -> RenderableType:
    """One row an output, worst first, and with ``per_layer`` the first node that diverges."""
    table = _table(f"{result.name} against {result.reference}: {'passed' if result.ok else 'FAILED'}")
    for column in ("output", "error / range", "limit", ""):
        table.add_column(column, justify="left" if column in ("output", "") else "right", overflow="fold")
    for name, found in result.worst:
        limit = "equal" if found.exact else f"{result.rtol:g}"
        verdict = "ok" if found.within(result.rtol) else (found.problem or "too large")
        table.add_row(name, f"{found.error:.2e}", limit, verdict)
    if result.layers is None:
        return table
    worst = _table("largest errors of inner values")
    for column in ("node", "operator", "output", "error / range"):
        worst.add_column(column, overflow="fold")
    for layer in result.layers.worst:
        gap = layer.difference
        worst.add_row(layer.node, layer.op, layer.output, gap.problem or f"{gap.error:.2e}")
    return Group(table, worst, str(result.layers))


def outputs_table(outputs: Mapping[str, np.ndarray]) -> RenderableType:
    """Shape, range and first values of each output."""
    table = _table("outputs")
    for column in ("name", "dtype", "shape", "min", "mean", "max", "first values"):
        table.add_column(column, overflow="fold")
    for name, array in outputs.items():
        shape = ", ".join(map(str, array.shape))
        values = [v if isinstance(v, str) else f"{v:.6g}" for v in array.reshape(-1)[:4].tolist()]
        table.add_row(name, array.dtype.name, f"[{shape}]", *_range(array), ", ".join(values))
    return table


def _range(array: np.ndarray) -> list[str]:
    if array.size == 0 or array.dtype.kind in "OU":
        return ["", "", ""]
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        return [f"{value:.6g}" for value in (wide.min(), wide.mean(), wide.max())]


def save_outputs(outputs: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """To ``.npz`` with every output by name, or to ``.npy`` where there is only one."""
    where = Path(path)
    if where.suffix == ".npy" and len(outputs) == 1:
        with where.open("wb") as file:
            np.save(file, next(iter(outputs.values())), allow_pickle=False)
        return
    # numpy.savez takes names as keywords, and an output may well be called "file", which is one of its own.
    with zipfile.ZipFile(where, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def artifact_table(artifact: Artifact, path: str | os.PathLike[str], seconds: float) -> RenderableType:
    """What a compilation made."""
    size = Path(path).stat().st_size
    absent = artifact.manifest.check.get("absent")
    vector = f"test vector absent: {absent}" if absent else "test vector included"
    kinds = origins([kernel.schedule for kernel in artifact.manifest.kernels])
    chosen = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    options = "; ".join(spec.shape_option() for spec in artifact.signature.inputs if spec.is_open)
    fixed = f"\n  open    runs any size; for one size alone, mostly faster: {options}" if options else ""
    return (
        f"{artifact}{fixed}\n  kernels {chosen}"
        f"\n  file    {os.fspath(path)}, {size / 2**20:.2f} MiB, in {seconds:.1f} s; {vector}"
    )


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
