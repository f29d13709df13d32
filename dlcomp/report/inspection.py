"""What ``dlcomp inspect`` shows of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlcomp.frontend.coverage import MEANING
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
        facts.add_row("open", Text(f"{symbol} in {', '.join(places)}; --shape binds it: a faster artifact"))
    operators = Table("operator", "nodes", "handled", box=None, pad_edge=False)
    for op, count in found.ops.items():
        operators.add_row(Text(op), str(count), Text(found.handling.get(op, "")))
    ways = {way for text in found.handling.values() for way in text.split(" / ")}
    meanings = Text("; ".join(f"{way}: {text}" for way, text in MEANING.items() if way in ways), style="dim")
    if not found.unsupported:
        facts.add_row("unsupported", "nothing")
        return Group(facts, "", operators, "", meanings)
    refused = Table("unsupported", "nodes", box=None, pad_edge=False)
    for entry in found.unsupported:
        refused.add_row(Text(entry.op), Text(", ".join(entry.nodes)))
    return Group(facts, "", operators, "", meanings, "", refused)
