"""What ``dlcomp inspect --check-saturation`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dlcomp.compress.quantize.saturation import LayerSaturation, Saturation


def saturation_table(found: Saturation) -> RenderableType:
    """A line a layer: what its weights prove, and what was counted on the data; then the sum of it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("operator")
    table.add_column("16-bit sums saturate")
    for column in ("pairs", "can", "share"):
        table.add_column(column, justify="right")
    if found.samples:
        for column in ("did", "of sums", "outputs wrong"):
            table.add_column(column, justify="right")
    for layer in found.layers:
        counts = [f"{layer.pairs:,}", f"{layer.risky:,}", _share(layer.risky, layer.pairs)]
        if found.samples:
            counts += [f"{layer.saturated or 0:,}", _share(layer.saturated, layer.sums)]
            counts.append(_share(layer.wrong, layer.outputs))
        table.add_row(Text(layer.layer), layer.operator, _verdict(layer), *counts)
    return Group(table, "", *map(Text, _summary(found)))


def _verdict(layer: LayerSaturation) -> str:
    if not layer.proven:
        return "can"
    return "never, in any order" if layer.any_order else "never, in this order"


def _summary(found: Saturation) -> list[str]:
    proven = sum(layer.proven for layer in found.layers)
    lines = [
        f"{proven} of {len(found.layers)} layers never saturate int16 (vpmaddubsw) in other runtimes'"
        " kernels, whatever the inputs: by their weights, in pairs along taps, then channels."
    ]
    if found.samples:
        did = sum(1 for layer in found.layers if layer.saturated)
        lines.append(f"On {found.samples} batches of data, {did} layers would have saturated.")
    if found.unchecked:
        lines.append(f"Not checked, since no weight is stored: {', '.join(found.unchecked)}.")
    lines.append("dlcomp's kernels add in 32 bits: its integers depend on no feature of the processor.")
    return lines


def _share(part: int | None, whole: int | None) -> str:
    return f"{100 * (part or 0) / whole:.3g} %" if whole else ""
