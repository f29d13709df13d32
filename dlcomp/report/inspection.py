"""What ``dlcomp inspect`` shows of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlcomp.report.describe import scaled

if TYPE_CHECKING:
    from dlcomp.frontend.inspect import Inspection


def inspection_table(found: Inspection) -> RenderableType:
    """Signature, sizes, operators, symbolic dimensions and everything unsupported."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row(
        "network", Text(f"{found.name} (opset {found.opset}, {found.producer or 'unknown producer'})")
    )
    for spec in found.inputs:
        facts.add_row("input", Text(str(spec)))
    for spec in found.outputs:
        facts.add_row("output", Text(str(spec)))
    parameters = scaled(found.parameters, "")
    facts.add_row("parameters", f"{parameters.strip()} in {scaled(found.parameter_bytes, 'B')}")
    macs = "unknown until every shape is given" if found.macs is None else scaled(found.macs, "MACs")
    facts.add_row("work", macs)
    for symbol, places in found.symbols.items():
        facts.add_row("symbolic", Text(f"{symbol} in {', '.join(places)}; bind it with --shape"))
    facts.add_row("operators", Text(", ".join(f"{op} x{count}" for op, count in found.ops.items())))
    if not found.unsupported:
        facts.add_row("unsupported", "nothing")
        return facts
    refused = Table("unsupported", "nodes", box=None, pad_edge=False)
    for op in found.unsupported:
        refused.add_row(Text(op.op), Text(", ".join(op.nodes)))
    return Group(facts, "", refused)
