"""``dlcomp compile``: a network to an artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import Json, ModelPath, Shapes, Values, Verbose, parse_shapes
from dlcomp.cli.output import show

NAME = "compile"


def command(
    model: ModelPath,
    target: Annotated[
        str, typer.Option("--target", help="host, TRIPLE[:CPU][+FEATURE], cuda:sm_XY, vta:NAME, a preset.")
    ] = "host",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: MODEL with .dlc, here.")
    ] = None,
    shape: Shapes = None,
    values: Values = None,
    winograd: Annotated[
        bool, typer.Option("--winograd/--no-winograd", help="3x3 convolutions by minimal filtering.")
    ] = True,
    strassen: Annotated[
        bool, typer.Option("--strassen/--no-strassen", help="Large products by Strassen's algorithm.")
    ] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse/--no-sparse", help="Skip zeros of weights where that is faster.")
    ] = True,
    db: Annotated[
        Path | None, typer.Option("--db", metavar="DIR", help="What `dlcomp tune` measured on this target.")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option("--calib", metavar="FILE|DIR", help="Quantize to 8 bits first, observing these inputs."),
    ] = None,
    coded: Annotated[
        bool, typer.Option("--coded", help="Weights of few different values in fewer bytes.")
    ] = False,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Compile a network for a processor, into a .dlc file."""
    import dlcomp
    from dlcomp.compress.recipe import parse
    from dlcomp.report.tables import artifact_table
    from dlcomp.report.tuning import origins

    chosen = dlcomp.Target.parse(target)
    path = output or Path(f"{model.stem}.dlc")
    begin = time.perf_counter()
    network = dlcomp.load(model, parse_shapes(shape), values=values)
    if calib is not None:
        # The accelerator rescales by shifts.
        recipe = "quantize:scales=power_of_two" if chosen.kind == "vta" else "quantize"
        network = network.compress(parse(recipe), calibration=calib)
    artifact = network.compile(chosen, winograd=winograd, strassen=strassen, sparse=sparse, db=db)
    artifact.save(path, coded=coded)
    seconds = time.perf_counter() - begin
    report = {"artifact": str(path), "target": chosen, "bytes": path.stat().st_size, "seconds": seconds}
    report["kernels"] = origins([kernel.schedule for kernel in artifact.manifest.kernels])
    show(artifact_table(artifact, path, seconds), report, json)
    return 0
