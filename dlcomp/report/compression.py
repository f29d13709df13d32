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
    from dlcomp.compress.search import Found


def compression_table(
    model: Model,
    source: Path,
    output: Path,
    seconds: float,
    parts: Mapping[str, int] | None = None,
    searches: Sequence[Found] = (),
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
    return Group(*map(search_table, searches), table)


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
