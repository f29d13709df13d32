"""Pictures of accelerators and programs: a design-space sweep, stages over time, and a roofline.

They need matplotlib (the extra ``plots``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcomp.errors import ToolMissing, UsageError
from dlcomp.vta.schedule import STAGES

if TYPE_CHECKING:
    from dlcomp.codegen.vta.sweep import Point
    from dlcomp.vta.config import VtaConfig
    from dlcomp.vta.cycles import CycleResult
    from dlcomp.vta.program import Program

_COLOURS = {"LOAD": "tab:blue", "STORE": "tab:green", "GEMM": "tab:red", "ALU": "tab:orange", "FINISH": "0.5"}


def sweep_picture(points: Sequence[Point], path: Path) -> Path:
    """Milliseconds against bytes of scratchpads, one colour a size of the array."""
    figure, axes = _figure()
    for size in sorted({point.macs_per_cycle for point in points}):
        mine = [point for point in points if point.macs_per_cycle == size and point.cycles]
        if mine:
            kib, times = [p.on_chip / 1024 for p in mine], [p.milliseconds for p in mine]
            axes.scatter(kib, times, label=f"{size} MAC a cycle")
    axes.set(xlabel="scratchpads, KiB", ylabel="ms", xscale="log", yscale="log")
    axes.legend()
    return _saved(figure, path)


def gantt(result: CycleResult, program: Program, config: VtaConfig, path: Path) -> Path:
    """When each stage runs which kind of instruction."""
    code = program.instructions(config)
    figure, axes = _figure(height=2.5)
    for kind, colour in _COLOURS.items():
        for stage, name in enumerate(STAGES):
            bars = [
                (span.start, span.end - span.start)
                for span in result.spans
                if span.stage == stage and type(code[span.index]).__name__.upper() == kind
            ]
            if bars:
                axes.broken_barh(bars, (2 - stage - 0.4, 0.8), facecolors=colour, label=f"{name}: {kind}")
    axes.set(xlabel="cycles", xlim=(0, result.cycles), yticks=range(3), yticklabels=STAGES[::-1])
    axes.legend(fontsize=6, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return _saved(figure, path)


def roofline(rows: Sequence[tuple[str, int, int, int]], config: VtaConfig, path: Path) -> Path:
    """Layers as (name, MACs, bytes, cycles) under what array and bus allow: MACs a cycle over MACs a byte."""
    figure, axes = _figure()
    placed = [(name, macs / moved, macs / cycles) for name, macs, moved, cycles in rows if macs and moved]
    if not placed:
        raise UsageError("no layer multiplies", hint="a network with convolutions or dense layers")
    peak, bus = config.macs_per_cycle, config.bus_bits / 8
    low = min(0.5 * peak / bus, *(x for _, x, _ in placed))
    high = max(2 * peak / bus, *(x for _, x, _ in placed))
    axes.plot([low, peak / bus, high], [low * bus, peak, peak], color="black", linewidth=1)
    axes.scatter([x for _, x, _ in placed], [y for _, _, y in placed], s=14)
    for name, x, y in placed:
        axes.annotate(name, (x, y), fontsize=5)
    axes.set(xlabel="MACs a byte", ylabel="MACs a cycle", xscale="log", yscale="log")
    return _saved(figure, path)


def layer_bytes(program: Program, config: VtaConfig, begin: int, end: int) -> int:
    """Bytes that the loads and stores of instructions ``[begin, end)`` move."""
    from dlcomp.codegen.vta.sweep import moved

    return moved(program.instructions(config)[begin:end], config)


def _figure(height: float = 5.0) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ToolMissing("matplotlib is not installed", hint="pip install 'dlcomp[plots]'") from error
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


def _saved(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the picture: {error}", where=str(path)) from error
    return path
