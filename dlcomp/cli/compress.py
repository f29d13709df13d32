"""``dlcomp compress``: a network made smaller, as ONNX or as an artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcomp.cli.options import Json, ModelPath, Shapes, Values, Verbose, parse_shapes, share
from dlcomp.cli.output import show

if TYPE_CHECKING:
    from dlcomp.compress.search import Found

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
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Classes of the samples, for --max-drop: .npy."),
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option("--eval", metavar="FILE|DIR", help="Inputs to judge by; a part of --calib without it."),
    ] = None,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", metavar="0.5%", help="Of the accuracy.")
    ] = None,
    min_agreement: Annotated[
        str | None, typer.Option("--min-agreement", metavar="98%", help="Samples with the same class.")
    ] = None,
    max_kl: Annotated[float | None, typer.Option("--max-kl", help="Mean relative entropy, in nats.")] = None,
    max_error: Annotated[
        float | None, typer.Option("--max-error", help="Squared error of the outputs over their squares.")
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", help="Milliseconds a run, on this machine.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option("--max-bytes", help="Of all weights.")] = None,
    goal: Annotated[
        str, typer.Option("--for", metavar="speed|size", help="With speed, layers that are not faster stay.")
    ] = "speed",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Sensitivities as a picture: .png.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time every layer before and after, and the whole network.")
    ] = False,
    target: Annotated[str, typer.Option("--target", help="For a .dlc: what to compile for.")] = "host",
    shape: Shapes = None,
    values: Values = None,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Make a network smaller: quantize, equalize, smooth, sparsify, channels, lowrank, lowrank_sparse,
    share.

    With a limit (--max-drop, --min-agreement, --max-kl, --max-error, --max-ms, --max-bytes) each layer gets
    what that allows, and the report is on samples that nothing was chosen by.
    """
    import dlcomp
    from dlcomp.compress.recipe import parse
    from dlcomp.errors import UsageError
    from dlcomp.report.compression import compression_table
    from dlcomp.report.search import needs_plots, save_search_plot

    path = output or Path(f"{model.stem}_small.onnx")
    if path.suffix not in (".onnx", ".dlc"):
        raise UsageError(f"cannot write {path}", hint="the output is an .onnx or a .dlc file")
    chosen = [parse(text) for text in passes]
    limits: dict[str, Any] = {
        "max_drop": share(max_drop, "--max-drop"),
        "min_agreement": share(min_agreement, "--min-agreement"),
        "max_kl": max_kl,
        "max_error": max_error,
        "max_ms": max_ms,
        "max_bytes": max_bytes,
    }
    wanted = any(limit is not None for limit in limits.values())
    if not wanted and (labels or evaluate or plot or goal != "speed"):
        raise UsageError(
            "--labels, --eval, --for and --plot are for a search", hint="--max-drop 0.5% or another limit"
        )
    if wanted and goal == "speed" and target != "host":
        raise UsageError(
            f"layers are timed on this machine, and the target is {target}",
            hint="--for size, or a search where it runs: -o small.onnx there, and compile that",
        )
    if plot is not None:
        needs_plots()
    begin = time.perf_counter()
    network = dlcomp.load(model, parse_shapes(shape), values=values)
    found: list[Found] = []
    if wanted and calib_cache is not None:
        raise UsageError("a search keeps what it observes by itself", hint="leave out --calib-cache")
    if wanted:
        from dlcomp.compress.search import searches

        budget = dlcomp.Budget(**limits, goal=goal)
        found = searches(network, chosen, budget, calibration=calib, labels=labels, evaluate=evaluate)
        small = found[-1].model
    else:
        small = network.compress(*chosen, calibration=calib, cache=calib_cache)
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
        "searches": [one.to_json() for one in found],
    }
    if plot is not None:
        for number, one in enumerate(found):
            save_search_plot(
                one.to_json(), plot if number == 0 else plot.with_stem(f"{plot.stem}_{number + 1}")
            )
    measured = None
    if measure:
        from dlcomp.compress.compare import compare

        measured = compare(network, small)
        report["measured"] = measured.to_json()
    show(compression_table(small, model, path, seconds, parts, found, measured), report, json)
    return 0
