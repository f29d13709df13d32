"""``dlcomp tune``: measured search for the fastest kernels of a network, or of one matrix product."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcomp.cli.options import Json, Shapes, Values, Verbose, parse_shapes
from dlcomp.cli.output import say, show
from dlcomp.errors import UsageError

if TYPE_CHECKING:
    from dlcomp.tune.state import Progress

NAME = "tune"
_USAGE = "as in dlcomp tune MODEL.onnx, or dlcomp tune gemm 1024 1024 1024 (M N K)"


def command(
    what: Annotated[
        list[str], typer.Argument(metavar="MODEL | gemm M N K", help="What to tune.", show_default=False)
    ],
    target: Annotated[
        str, typer.Option("--target", help="This machine, a target that it can run, or vta:NAME.")
    ] = "host",
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The database, made or continued.")
    ] = Path("db"),
    effort: Annotated[
        int | None,
        typer.Option("--effort", min=0, max=3, help="0 measures nothing, 3 all candidates. Default: 2."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=0, help="Measurements a task; overrides --effort.")
    ] = None,
    time: Annotated[float | None, typer.Option("--time", min=0, help="Seconds at most, in all.")] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="REGEX", help="Only tasks whose name this is found in.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Build on what the database holds.")
    ] = True,
    curve: Annotated[
        Path | None,
        typer.Option("--curve", metavar="PNG", help="Default: curve.png and .json in the database."),
    ] = None,
    shape: Shapes = None,
    values: Values = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the search.")] = 0,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Search for the fastest kernels by measuring them on this machine."""
    import dlcomp
    from dlcomp.report.tuning import save_curve, tuning_table
    from dlcomp.tune import EFFORTS
    from dlcomp.tune.tuner import Budget

    subject = _subject(what, shape, values)
    count = trials if trials is not None else EFFORTS[2 if effort is None else effort]
    with _Live() as live:
        result: Progress = dlcomp.tune(
            subject,
            target,
            Budget(count, time),
            db=output,
            tasks=tasks,
            resume=resume,
            seed=seed,
            shown=live.update,
        )
    report = result.to_json()
    if result.trials:
        for path in save_curve(report, curve or output / "curve.png"):
            say("wrote", str(path), "dim")
    for state in result.states:
        for reason, message in state.messages.items():
            say(reason, message, "yellow")
    show(tuning_table(result), report, json)
    return 130 if result.interrupted else 0


def _subject(what: list[str], shape: list[str] | None, values: Path | None) -> Any:
    """A model, or the workload that the words name."""
    if what[0] == "gemm" and len(what) > 1:
        from dlcomp.schedules.workload import Gemm

        sizes = [int(word) if word.isdigit() else 0 for word in what[1:]]
        if len(sizes) != 3 or 0 in sizes:
            raise UsageError(f"cannot read {' '.join(what)!r}", hint=_USAGE)
        return Gemm(*sizes)
    if len(what) != 1:
        raise UsageError(f"one model, not {len(what)}", hint=_USAGE)
    import dlcomp

    return dlcomp.load(Path(what[0]), parse_shapes(shape), values=values)


class _Live:
    """The table, redrawn on stderr while it is a terminal."""

    def __init__(self) -> None:
        self._live: Any = None

    def __enter__(self) -> _Live:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        if self._live is not None:
            from dlcomp.report.tuning import tuning_table

            self._live.update(tuning_table(progress))
