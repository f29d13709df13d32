"""``dlcomp inspect``: what is in a network, before compiling it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import Json, ModelPath, Shapes, Values, Verbose, parse_shapes
from dlcomp.cli.output import plain, show

NAME = "inspect"


def command(
    model: ModelPath,
    shape: Shapes = None,
    values: Values = None,
    check_saturation: Annotated[
        bool,
        typer.Option("--check-saturation", help="Which int8 layers other runtimes' 16-bit sums get wrong."),
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option("--calib", metavar="FILE|DIR", help="Inputs to count saturated sums on: .npz, folder."),
    ] = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """What is in a network, and what is unsupported."""
    from dlcomp.errors import UsageError
    from dlcomp.frontend.inspect import inspect
    from dlcomp.report.inspection import inspection_table

    if calib is not None and not check_saturation:
        raise UsageError("--calib is for --check-saturation", hint="give both, or neither")
    found = inspect(model, parse_shapes(shape), values)
    if not check_saturation:
        show(inspection_table(found), found, json)
        return 0
    from rich.console import Group

    import dlcomp
    from dlcomp.report.saturation import saturation_table

    loaded = dlcomp.load(model, parse_shapes(shape), values=values)
    saturation = dlcomp.check_saturation(loaded, calib)
    table = Group(inspection_table(found), "", saturation_table(saturation))
    show(table, {**plain(found), "saturation": saturation}, json)
    return 0
