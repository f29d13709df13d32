"""``dlcomp profile``: where the time goes, kernel by kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import ArtifactPath, Inputs, Json, RunShapes, Threads, Verbose, read_inputs
from dlcomp.cli.output import show

NAME = "profile"


def command(
    artifact: ArtifactPath,
    input: Inputs = None,
    shape: RunShapes = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="A trace for Perfetto.")
    ] = None,
    threads: Threads = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Where the time goes, kernel by kernel."""
    import dlcomp
    from dlcomp.report.tables import profile_table
    from dlcomp.runtime.profile import profile

    opened = dlcomp.open(artifact)
    arrays = read_inputs(input, opened.signature, shapes=shape)
    result = profile(opened, arrays, threads=threads, trace=trace)
    show(profile_table(result), result, json)
    return 0
