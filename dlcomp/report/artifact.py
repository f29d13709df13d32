"""What ``dlcomp inspect`` shows of a ``.dlc`` file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlcomp.report.describe import scaled

if TYPE_CHECKING:
    from dlcomp.runtime.artifact import Artifact


def contents_table(artifact: Artifact) -> RenderableType:
    """What it is for, what it needs, and its members and kernels."""
    manifest = artifact.manifest
    facts = Table.grid(padding=(0, 2))
    if manifest.required_features:
        facts.add_row("  needs", Text(", ".join(manifest.required_features)))
    facts.add_row("  made by", Text(", ".join(f"{name} {v}" for name, v in manifest.versions.items())))
    if manifest.source:
        facts.add_row("  from", Text(manifest.source["path"]))
    members = Table("member", "size", box=None, pad_edge=False)
    for name, member in manifest.members.items():
        members.add_row(Text(name), scaled(member.bytes, "B"))
    kernels = Table("kernel", "operations", "bytes", "schedule", box=None, pad_edge=False)
    for kernel in manifest.kernels:
        work = scaled(kernel.flops, "") if kernel.flops else ""
        moved = scaled(kernel.bytes, "B") if kernel.bytes else ""
        kernels.add_row(Text(kernel.name), work, moved, Text(kernel.schedule))
    return Group(Text(str(artifact)), facts, "", members, "", kernels)
