"""The command line: one file a command, which parses, calls the public API and renders; no logic here.

Exit codes: 0 ok, 1 check failed, 2 usage, 3 model or artifact refused, 4 tool or device missing, 5 internal,
130 interrupted. Commands import what they need when they run, so that ``dlcomp --help`` is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from dlcomp.cli import bench, compile, compress, db, doctor, inspect, profile, run, targets, tune, verify, vta
from dlcomp.cli.output import say, set_verbosity, wants_traceback
from dlcomp.errors import DlcompError

app = typer.Typer(
    name="dlcomp",
    help="Make a trained network smaller, and fast on the processor you name, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (inspect, compress, compile, tune, run, bench, profile, verify, targets, doctor):
    app.command(_module.NAME)(_module.command)
app.add_typer(db.app, name=db.NAME)


app.add_typer(vta.app, name="vta")


def _version(wanted: bool) -> None:
    if wanted:
        from dlcomp.cli.version import versions

        print(versions())
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Versions of dlcomp and its packages."
        ),
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and never lets a traceback out (``-vv`` shows it)."""
    set_verbosity(0)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) has all it wanted; the interpreter must not complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        say("interrupted", "stopped", "bold red")
        return 130
    except DlcompError as err:
        if wants_traceback():
            traceback.print_exc()
        say("error", f"{err.where}: {err.message}" if err.where else err.message, "bold red")
        if err.hint:
            say("hint", err.hint, "bold cyan")
        return err.exit_code
    except Exception as err:
        return _internal(err)


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    args = None if arguments is None else list(arguments)
    try:
        result = command.main(args, prog_name="dlcomp", standalone_mode=False)
    except typer.Abort as err:
        raise KeyboardInterrupt from err
    except Exception as err:
        if not hasattr(err, "format_message"):  # typer's errors about the command line have it
            raise
        message = err.format_message()
        if message.startswith("Usage:"):  # no command at all: the help, as it is
            print(message, file=sys.stderr)
            return 2
        if message:
            say("error", message, "bold red")
        context = getattr(err, "ctx", None)
        say("hint", f"{context.command_path if context else 'dlcomp'} --help", "bold cyan")
        return 2
    return result if isinstance(result, int) else 0


def _internal(err: Exception) -> int:
    if wants_traceback():
        traceback.print_exc()
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    say("error", f"internal: {type(err).__name__}: {lines[-1] if lines else ''}", "bold red")
    say("hint", "run again with -vv for the traceback", "bold cyan")
    return 5
