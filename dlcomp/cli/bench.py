"""``dlcomp bench``: latency, alone or interleaved with a peer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import ArtifactPath, Inputs, Json, RunShapes, Threads, Verbose, read_inputs
from dlcomp.cli.output import show

NAME = "bench"


def command(
    artifact: ArtifactPath,
    input: Inputs = None,
    shape: RunShapes = None,
    compare: Annotated[
        str | None, typer.Option("--compare", help="A peer to run in turn: onnxruntime or openvino.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL", help="The ONNX file that the peer runs.")
    ] = None,
    warmup: Annotated[float, typer.Option("--warmup", min=0, help="Seconds.")] = 0.2,
    min_time: Annotated[float, typer.Option("--min-time", min=0, help="Seconds to measure at least.")] = 1.0,
    min_runs: Annotated[int, typer.Option("--min-runs", min=1, help="Runs to measure at least.")] = 20,
    threads: Threads = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Measure latency, alone or against a peer."""
    import dlcomp
    from dlcomp.report.tables import bench_table
    from dlcomp.runtime.bench import bench

    opened = dlcomp.open(artifact)
    result = bench(
        opened,
        read_inputs(input, opened.signature, shapes=shape),
        warmup_s=warmup,
        min_time_s=min_time,
        min_runs=min_runs,
        threads=threads,
        compare=compare,
        model=model,
    )
    show(bench_table(result), result, json)
    return 0
