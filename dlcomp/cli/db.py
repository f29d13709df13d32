"""``dlcomp db``: what a tuning database holds, and its care."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import Json, Verbose
from dlcomp.cli.output import show

NAME = "db"

app = typer.Typer(help="Look after a tuning database: ls, best, merge, prune.", no_args_is_help=True)

DatabasePath = Annotated[Path, typer.Argument(metavar="DIR", help="A database.", show_default=False)]
TargetName = Annotated[str, typer.Option("--target", help="Whose records.")]


@app.command("ls")
def ls(path: DatabasePath, target: TargetName = "host", json: Json = None, verbose: Verbose = 0) -> int:
    """Count the records by target, and say which of them a compilation would use."""
    import dlcomp
    from dlcomp.report.tuning import database_rows, database_table
    from dlcomp.tune.candidates import current
    from dlcomp.tune.database import Database
    from dlcomp.tune.records import target_key

    database = Database.open(path)
    records = database.records()
    here = target_key(dlcomp.Target.parse(target))
    rows = database_rows(records, here, [current(record) for record in records])
    show(database_table(rows), {"rows": rows, "damaged": database.damaged()}, json)
    return 0


@app.command("best")
def best(path: DatabasePath, target: TargetName = "host", json: Json = None, verbose: Verbose = 0) -> int:
    """Show the schedule that each workload gets."""
    import dlcomp
    from dlcomp.report.tuning import best_table
    from dlcomp.tune.candidates import best_rows
    from dlcomp.tune.database import Database

    rows = best_rows(Database.open(path), dlcomp.Target.parse(target))
    show(best_table(rows), rows, json)
    return 0


@app.command("merge")
def merge(
    path: DatabasePath,
    others: Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Databases to read from.")],
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Add the records of other databases to one; nothing is added twice."""
    from dlcomp.tune.database import Database

    database = Database(path)
    added = database.merge([Database.open(other) for other in others])
    show(f"{added} records added to {path}", {"added": added}, json)
    return 0


@app.command("prune")
def prune(
    path: DatabasePath,
    target: TargetName = "host",
    foreign: Annotated[
        bool, typer.Option("--foreign", help="Also the records of other targets than --target.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also failures, to have them tried again.")
    ] = False,
    json: Json = None,
    verbose: Verbose = 0,
) -> int:
    """Remove damaged lines and what was measured with other versions of the templates."""
    import dlcomp
    from dlcomp.tune.candidates import current
    from dlcomp.tune.database import Database
    from dlcomp.tune.records import target_key

    here = target_key(dlcomp.Target.parse(target))
    removed = Database.open(path).prune(
        lambda record: (
            current(record)
            and not (foreign and record.target != here)
            and not (failed and record.status != "ok")
        )
    )
    show(f"{removed} lines removed from {path}", {"removed": removed}, json)
    return 0
