"""``dlcomp vta``: accelerator descriptions, and what a program of one holds and how long it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcomp.cli.options import Json
from dlcomp.cli.output import show

app = typer.Typer(help="VTA accelerators and their programs.", no_args_is_help=True, rich_markup_mode=None)
_Program = Annotated[Path, typer.Argument(metavar="PROGRAM", help="A binary VTA program.")]
_On = Annotated[str, typer.Option("--target", "-t", metavar="NAME", help="A description, or @file.json.")]
_Preset = Annotated[str, typer.Option("--preset", help="Timing: pipelined or older.")]


@app.command("targets")
def targets(json: Json = None) -> int:
    """List the accelerators with the sizes that follow from their descriptions."""
    from dlcomp.report.vta import sizes, sizes_table
    from dlcomp.vta_targets import load, names

    configs = {name: load(name) for name in names()}
    show(sizes_table(configs), {name: sizes(config) for name, config in configs.items()}, json)
    return 0


@app.command("disasm")
def disasm(program: _Program, target: _On = "pynq") -> int:
    """Print the instructions of a program."""
    from dlcomp.vta.assembly import disassemble
    from dlcomp.vta.program import read
    from dlcomp.vta_targets import load

    print(disassemble(read(program).instructions(load(target))), end="")
    return 0


@app.command("stat")
def stat(program: _Program, target: _On = "pynq", preset: _Preset = "pipelined", json: Json = None) -> int:
    """Show cycles, utilisation and stalls of a program."""
    from dlcomp.report.vta import cycles, cycles_table
    from dlcomp.vta.cycles import simulate
    from dlcomp.vta.program import read
    from dlcomp.vta.timing import preset as timing
    from dlcomp.vta_targets import load

    result = simulate(read(program), load(target), timing(preset))
    show(cycles_table(result), cycles(result), json)
    return 0


@app.command("trace")
def trace(
    program: _Program,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the JSON trace.")],
    target: _On = "pynq",
    preset: _Preset = "pipelined",
) -> int:
    """Write the times of a program as a trace for Perfetto."""
    from dlcomp.vta.cycles import simulate
    from dlcomp.vta.program import read
    from dlcomp.vta.timing import preset as timing
    from dlcomp.vta.trace import write
    from dlcomp.vta_targets import load

    made, config = read(program), load(target)
    print(write(simulate(made, config, timing(preset)), made, config, output))
    return 0
