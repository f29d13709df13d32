"""``dlcomp targets``: the presets and what a target resolves to."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcomp.cli.options import Json, Verbose
from dlcomp.cli.output import show

NAME = "targets"


def command(
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="Show this one resolved.", show_default=False)
    ] = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """List named targets, or show one in full."""
    from dlcomp.report.targets import target_table, targets_table
    from dlcomp.target import Target
    from dlcomp.target_data import presets

    if target is not None:
        one = Target.parse(target)
        show(target_table(one), one, json)
        return 0
    every = {name: Target.parse(name) for name in ("host", *presets())}
    show(targets_table(every), every, json)
    return 0
