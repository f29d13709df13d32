"""Tables of VTA accelerators and of the cycles of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from dlcomp.codegen.vta.network import LayerCycles
    from dlcomp.codegen.vta.sweep import Point
    from dlcomp.vta.config import VtaConfig
    from dlcomp.vta.cycles import CycleResult

_MEMORIES = ("uop", "inp", "wgt", "acc")


def sizes(config: VtaConfig) -> dict[str, Any]:
    """What follows from a description, for JSON: depths in elements, element sizes in bytes."""
    return {
        **config.to_dict(),
        "model": config.model_string,
        "hash": config.hash,
        "macs_per_cycle": config.macs_per_cycle,
        "depth": {memory: config.depth(memory) for memory in _MEMORIES},
        "element_bytes": {memory: config.element_bytes(memory) for memory in _MEMORIES},
    }


def sizes_table(configs: Mapping[str, VtaConfig]) -> Table:
    """One row an accelerator; depths and element sizes are of uop, inp, wgt and acc."""
    columns = ("name", "model", "hash", "MAC/cycle", "depth", "element bytes", "MHz", "bus", "features")
    table = Table(*columns, box=None, pad_edge=False)
    for name, config in configs.items():
        table.add_row(
            f"vta:{name}",
            config.model_string,
            config.hash,
            str(config.macs_per_cycle),
            "/".join(str(config.depth(memory)) for memory in _MEMORIES),
            "/".join(str(config.element_bytes(memory)) for memory in _MEMORIES),
            str(config.clock_mhz),
            str(config.bus_bits),
            " ".join(config.features) or "-",
        )
    return table


def cycles(result: CycleResult) -> dict[str, Any]:
    """The cycles of a program, for JSON."""
    return {
        "cycles": result.cycles,
        "gemm_cycles": result.gemm_cycles,
        "utilisation": result.utilisation,
        "instructions": len(result.spans),
        "busy": result.busy,
        "stalls": result.stalls,
    }


def cycles_table(result: CycleResult) -> Table:
    """The whole, then the busy cycles of each stage and what it waited for."""
    table = Table("stage", "cycles", "waits for", box=None, pad_edge=False)
    table.add_row("all", f"{result.cycles:,}", f"GEMM utilisation {result.utilisation:.1%}")
    for stage, busy in result.busy.items():
        waits = sorted(result.stalls[stage].items(), key=lambda one: -one[1])
        table.add_row(stage, f"{busy:,}", ", ".join(f"{reason} {count:,}" for reason, count in waits))
    return table


def sweep(points: Sequence[Point], best: Sequence[Point]) -> list[dict[str, Any]]:
    """Every point of a design-space sweep, for JSON; ``best`` are those that no other beats."""
    return [{**asdict(point), "pareto": point in best} for point in points]


def sweep_table(points: Sequence[Point], best: Sequence[Point]) -> Table:
    """One row an accelerator; a star stands at those that no other beats in time and scratchpads."""
    columns = ("accelerator", "MAC/cycle", "KiB on chip", "cycles", "ms", "utilisation", "MB moved", "")
    table = Table(*columns, box=None, pad_edge=False)
    for point in points:
        figures = [str(point.macs_per_cycle), f"{point.on_chip / 1024:g}"]
        if point.refused:
            table.add_row(point.name, *figures, "-", "-", "-", "-", point.refused)
            continue
        figures += [f"{point.cycles:,}", f"{point.milliseconds:.3f}", f"{point.utilisation:.1%}"]
        table.add_row(point.name, *figures, f"{point.bytes / 1e6:.3f}", "*" if point in best else "")
    return table


def layers(rows: Sequence[LayerCycles], config: VtaConfig) -> dict[str, Any]:
    """The cycles of every layer of a network, for JSON."""
    found = [
        {
            "name": row.name,
            "kind": row.kind,
            "cycles": row.cycles,
            "gemm_cycles": row.gemm_cycles,
            "macs": row.macs,
            "utilisation": row.utilisation(config.macs_per_cycle),
        }
        for row in rows
    ]
    total = sum(row.cycles for row in rows)
    return {"layers": found, "cycles": total, "milliseconds": total / config.clock_mhz / 1000}


def layers_table(rows: Sequence[LayerCycles], config: VtaConfig) -> Table:
    """One row a layer; utilisation counts nominal multiply-accumulates, of which padding is not computed."""
    table = Table("layer", "kind", "cycles", "MACs", "utilisation", "tile", box=None, pad_edge=False)
    for row in rows:
        cut = row.tiling
        tile = f"{cut.oc}x{cut.ic} blocks, {cut.rows}x{cut.columns}" if cut else "-"
        use = f"{row.utilisation(config.macs_per_cycle):.1%}" if row.macs else "-"
        table.add_row(row.name, row.kind, f"{row.cycles:,}", f"{row.macs:,}", use, tile)
    total, macs = sum(row.cycles for row in rows), sum(row.macs for row in rows)
    use = f"{macs / config.macs_per_cycle / total:.1%}" if total else "-"
    time = f"{total / config.clock_mhz / 1000:.2f} ms at {config.clock_mhz} MHz"
    table.add_row("all", "", f"{total:,}", f"{macs:,}", use, time)
    return table
