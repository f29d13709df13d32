"""``dlcomp compress``: a network made smaller, as ONNX or as an artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import Json, ModelPath, Shapes, Values, Verbose, parse_shapes
from dlcomp.cli.output import show

NAME = "compress"


def command(
    model: ModelPath,
    passes: Annotated[
        list[str],
        typer.Option("--pass", metavar="NAME[:OPTION=VALUE,...]", help="What to do, in order. Repeatable."),
    ],
    calib: Annotated[
        Path | None,
        typer.Option("--calib", metavar="FILE|DIR", help="Inputs to observe: .npz, or a folder of .npy."),
    ] = None,
    calib_cache: Annotated[
        Path | None,
        typer.Option("--calib-cache", metavar="FILE", help="What was observed: kept there, or read again."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help=".onnx or .dlc; MODEL_small.onnx."),
    ] = None,
    target: Annotated[str, typer.Option("--target", help="For a .dlc: what to compile for.")] = "host",
    shape: Shapes = None,
    values: Values = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Make a network smaller: quantize, equalize, smooth, sparsify, channels, lowrank, share."""
    import dlcomp
    from dlcomp.compress.recipe import parse
    from dlcomp.errors import UsageError
    from dlcomp.report.compression import compression_table

    path = output or Path(f"{model.stem}_small.onnx")
    if path.suffix not in (".onnx", ".dlc"):
        raise UsageError(f"cannot write {path}", hint="the output is an .onnx or a .dlc file")
    chosen = [parse(text) for text in passes]
    begin = time.perf_counter()
    loaded = dlcomp.load(model, parse_shapes(shape), values=values)
    small = loaded.compress(*chosen, calibration=calib, cache=calib_cache)
    if path.suffix == ".onnx":
        small.save(path)
    else:
        small.compile(target).save(path)
    seconds = time.perf_counter() - begin
    parts: dict[str, int] = {}
    if path.suffix == ".dlc":
        from dlcomp.runtime.coding.account import account

        parts = account(path).parts
    steps = [{"pass": s.name, "options": s.options, "effect": s.effect} for s in small.history[1:]]
    report = {
        "output": str(path),
        "bytes": path.stat().st_size,
        "seconds": seconds,
        "parts": parts,
        "passes": steps,
    }
    show(compression_table(small, model, path, seconds, parts), report, json)
    return 0
