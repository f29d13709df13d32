"""``dlcomp verify``: does an artifact compute what its network does?"""

from __future__ import annotations

from typing import Annotated

import typer

from dlcomp.cli.options import (
    ArtifactPath,
    Inputs,
    Json,
    ModelPath,
    RunShapes,
    Seed,
    Values,
    Verbose,
    read_inputs,
)
from dlcomp.cli.output import show

NAME = "verify"


def command(
    model: ModelPath,
    artifact: ArtifactPath,
    input: Inputs = None,
    shape: RunShapes = None,
    values: Values = None,
    rtol: Annotated[
        float, typer.Option("--rtol", min=0, help="Largest error, relative to the output's range.")
    ] = 1e-4,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Find the first node that diverges.")
    ] = False,
    seed: Seed = 0,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Compare an artifact with onnxruntime."""
    import dlcomp
    from dlcomp.report.tables import verify_table

    opened = dlcomp.open(artifact)
    shapes = {spec.name: spec.shape for spec in opened.signature.inputs}
    loaded = dlcomp.load(model, shapes, values=values)
    arrays = read_inputs(input, opened.signature, seed=seed, shapes=shape)
    result = dlcomp.verify(loaded, opened, arrays, rtol=rtol, per_layer=per_layer, seed=seed)
    show(verify_table(result), result, json)
    return 0 if result.ok else 1
