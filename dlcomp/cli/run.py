"""``dlcomp run``: an artifact once, on given or made-up inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import (
    ArtifactPath,
    Fill,
    Inputs,
    Json,
    RunShapes,
    Seed,
    Threads,
    Verbose,
    read_inputs,
)
from dlcomp.cli.output import show
from dlcomp.errors import UsageError

NAME = "run"


def command(
    artifact: ArtifactPath,
    input: Inputs = None,
    shape: RunShapes = None,
    fill: Fill = "random",
    seed: Seed = 0,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Outputs to .npz or .npy.")
    ] = None,
    threads: Threads = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Run an artifact once and show its outputs."""
    import dlcomp
    from dlcomp.report.tables import outputs_table, save_outputs

    opened = dlcomp.open(artifact)
    outputs = opened.run(read_inputs(input, opened.signature, fill, seed, shape), threads=threads)
    if save is not None:
        try:
            save_outputs(outputs, save)
        except OSError as err:
            raise UsageError(f"cannot write {save}: {err.strerror}", hint="check the path") from err
    show(outputs_table(outputs), outputs, json)
    return 0
