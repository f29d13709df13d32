"""What was done to a network, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from dlcomp.model import Model
from dlcomp.report.search import search_table

if TYPE_CHECKING:
    from dlcomp.compress.compare import Comparison
    from dlcomp.compress.search import Found
    from dlcomp.compress.search.stopwatch import Timing


def compression_table(
    model: Model,
    source: Path,
    output: Path,
    seconds: float,
    parts: Mapping[str, int] | None = None,
    searches: Sequence[Found] = (),
    measured: Comparison | None = None,
) -> RenderableType:
    """What searches found; a line a pass: its options and its effect; then the files, and what the bytes of a
    ``.dlc`` are for.
    """
    table = Table(box=None, show_header=True, pad_edge=False, header_style="bold")
    for column in ("pass", "options", "effect"):
        table.add_column(column, overflow="fold")
    for step in model.history[1:]:
        options = ", ".join(f"{k}={_plain(v)}" for k, v in step.options.items())
        table.add_row(step.name, options, ", ".join(f"{k} {_plain(v)}" for k, v in step.effect.items()))
    sizes = f"{source.stat().st_size / 1e6:.2f} MB to {output.stat().st_size / 1e6:.2f} MB"
    table.add_row("", "", f"{source} to {output}: {sizes}, {seconds:.0f} s")
    if parts:
        table.add_row("", "", "bytes: " + ", ".join(f"{part} {size}" for part, size in parts.items()))
    shown = [] if measured is None else [comparison_table(measured)]
    return Group(*map(search_table, searches), *shown, table)


def comparison_table(found: Comparison) -> RenderableType:
    """A line a layer and one of the whole; then the speed that the layers promise and what was measured."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("is now", overflow="fold")
    for column in ("bytes", "after", "MACs", "after", "error", "ms", "after", "faster"):
        table.add_column(column, justify="right")
    for one in found.layers:
        error = "" if one.error is None else f"{one.error:.2g}"
        counts = [f"{number:,}" for pair in (one.bytes, one.macs) for number in pair]
        table.add_row(one.layer, one.form, *counts, error, *_times(one.timing))
    counts = [f"{number:,}" for pair in (found.bytes, found.macs) for number in pair]
    table.add_row("the whole network", "", *counts, "", *_times(found.timing))
    timing = found.timing
    line = (
        f"speed: {found.predicted:.2f} predicted from the layers alone, {timing.ratio:.2f} measured in turn "
        f"(quartiles {timing.low:.2f} to {timing.high:.2f})"
    )
    return Group(table, line)


def _times(timing: Timing | None) -> list[str]:
    if timing is None:
        return ["", "", ""]
    return [f"{timing.before * 1e3:.4f}", f"{timing.after * 1e3:.4f}", f"{timing.ratio:.2f}"]


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return _summary(value)
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value)) if value else "none"
    return str(value)


def _summary(values: Mapping[str, object]) -> str:
    """Numbers of many layers by their extremes, other things by how many there are; few by their names."""
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    if len(numbers) == len(values) > 3:
        return f"{min(numbers):g} to {max(numbers):g} in {len(numbers)} layers"
    if len(values) > 3:
        return f"of {len(values)} layers"
    return "; ".join(f"{name}: {_plain(value)}" for name, value in values.items()) or "none"
