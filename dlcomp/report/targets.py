"""Tables of targets and of the doctor's checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dlcomp.target_data import presets

if TYPE_CHECKING:
    from dlcomp.doctor import Check
    from dlcomp.target import Target

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def targets_table(targets: Mapping[str, Target]) -> Table:
    """One row a named target."""
    table = Table("name", "target", "cores", "SIMD", "int8", box=None, pad_edge=False)
    for name, target in targets.items():
        spelled = presets()[name]["target"] if name in presets() else str(target).split(",")[0]
        table.add_row(name, spelled, *_columns(target))
    return table


def _columns(target: Target) -> tuple[str, str, str]:
    if target.kind == "cuda":
        return "", "", ""
    return str(target.cores), f"{target.vector_registers} x {target.vector_bits}", int8_path(target)


def int8_path(target: Target) -> str:
    """The instruction that int8 products can use."""
    for feature, name in (
        ("avx512vnni", "vnni"),
        ("avxvnni", "vnni"),
        ("i8mm", "i8mm"),
        ("dotprod", "dotprod"),
        ("avx2", "pmaddwd"),
    ):
        if target.has(feature):
            return name
    return "none"


def target_table(target: Target) -> Table:
    """Every field of one target."""
    table = Table("field", "value", box=None, pad_edge=False, show_header=False)
    for name, value in target.to_dict().items():
        shown = " ".join(value) if isinstance(value, list) else str(value)
        table.add_row(name, shown or "-")
    return table


def doctor_table(checks: Sequence[Check]) -> Table:
    """One row a check, with what to do where it is not ok."""
    table = Table("", "check", "found", "fix", box=None, pad_edge=False)
    for check in checks:
        table.add_row(
            Text(check.status, style=_STYLES[check.status]), check.name, Text(check.detail), Text(check.fix)
        )
    return table
