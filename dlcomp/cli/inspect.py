"""``dlcomp inspect``: what is in a network, before compiling it, or in a compiled one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import Json, Shapes, Values, Verbose, parse_shapes
from dlcomp.cli.output import plain, show

NAME = "inspect"


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An ONNX file, Relay text or a .dlc.", show_default=False)
    ],
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
    """What is in a network, and what is unsupported; or what is in a .dlc file."""
    import dlcomp
    from dlcomp.errors import UsageError
    from dlcomp.frontend.inspect import inspect
    from dlcomp.report.inspection import inspection_table

    if model.suffix == ".dlc":
        if shape or values or calib or check_saturation:
            raise UsageError("these options are for networks; a .dlc is compiled", hint="leave them out")
        from dlcomp.report.artifact import contents_table

        artifact = dlcomp.open(model, check_host=False)
        show(contents_table(artifact), artifact.manifest, json)
        return 0
    if calib is not None and not check_saturation:
        raise UsageError("--calib is for --check-saturation", hint="give both, or neither")
    found = inspect(model, parse_shapes(shape), values)
    if not check_saturation:
        show(inspection_table(found), found, json)
        return 0
    from rich.console import Group

    from dlcomp.report.saturation import saturation_table

    loaded = dlcomp.load(model, parse_shapes(shape), values=values)
    saturation = dlcomp.check_saturation(loaded, calib)
    table = Group(inspection_table(found), "", saturation_table(saturation))
    show(table, {**plain(found), "saturation": saturation}, json)
    return 0
