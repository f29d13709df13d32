"""``dlcomp vta``: accelerator descriptions, and what a program of one holds and how long it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcomp.cli.options import Json, Shapes, parse_shapes
from dlcomp.cli.output import say, show

if TYPE_CHECKING:
    from dlcomp.codegen.vta import VtaNetwork
    from dlcomp.vta.config import VtaConfig
    from dlcomp.vta.program import Program

app = typer.Typer(help="VTA accelerators and their programs.", no_args_is_help=True, rich_markup_mode=None)
_Program = Annotated[Path, typer.Argument(metavar="PROGRAM", help="A binary VTA program, or a .dlc.")]
_On = Annotated[str, typer.Option("--target", "-t", metavar="NAME", help="A description, or @file.json.")]
_Region = Annotated[int, typer.Option("--region", help="Which program of a .dlc, from 0.")]
_Preset = Annotated[str, typer.Option("--preset", help="Timing: pipelined or older.")]


@app.command("targets")
def targets(json: Json = None) -> int:
    """List the accelerators with the sizes that follow from their descriptions."""
    from dlcomp.report.vta import sizes, sizes_table
    from dlcomp.vta_targets import load, names

    configs = {name: load(name) for name in names()}
    show(sizes_table(configs), {name: sizes(config) for name, config in configs.items()}, json)
    return 0


def _network(path: Path) -> VtaNetwork | None:
    """The network of a .dlc, or None of a bare program."""
    if path.suffix != ".dlc":
        return None
    import dlcomp
    from dlcomp.errors import UsageError
    from dlcomp.runtime.vta import VtaSession

    artifact = dlcomp.open(path)
    session = artifact.session()
    if not isinstance(session, VtaSession):
        hint = "dlcomp compile --target vta:pynq makes one for VTA"
        raise UsageError(f"the artifact is for {artifact.target}", where=str(path), hint=hint)
    return session.network


def _read(path: Path, target: str, region: int) -> tuple[Program, VtaConfig]:
    """A program and its accelerator, from a file of its own or one of a .dlc's."""
    from dlcomp.errors import UsageError
    from dlcomp.vta.program import read
    from dlcomp.vta_targets import load

    network = _network(path)
    if network is None:
        return read(path), load(target)
    programs = [one.program for one in network.regions.values()]
    if not 0 <= region < len(programs):
        raise UsageError(f"there is no region {region}", hint=f"0 to {len(programs) - 1}", where=str(path))
    return programs[region], network.config


@app.command("disasm")
def disasm(program: _Program, target: _On = "pynq", region: _Region = 0) -> int:
    """Print the instructions of a program."""
    from dlcomp.vta.assembly import disassemble

    made, config = _read(program, target, region)
    print(disassemble(made.instructions(config)), end="")
    return 0


@app.command("stat")
def stat(program: _Program, target: _On = "pynq", preset: _Preset = "pipelined", json: Json = None) -> int:
    """Show cycles, utilisation and stalls of a program, or the cycles of every layer of a .dlc."""
    from dlcomp.report.vta import cycles, cycles_table, layers, layers_table
    from dlcomp.vta.cycles import simulate
    from dlcomp.vta.program import read
    from dlcomp.vta.timing import preset as timing
    from dlcomp.vta_targets import load

    network = _network(program)
    if network is not None:
        rows, config = network.cycles(timing(preset)), network.config
        show(layers_table(rows, config), layers(rows, config), json)
        return 0
    result = simulate(read(program), load(target), timing(preset))
    show(cycles_table(result), cycles(result), json)
    return 0


def _sizes(text: str | None, option: str) -> list[int]:
    """Numbers with commas between; K stands for 1024."""
    from dlcomp.errors import UsageError

    found = []
    for word in text.split(",") if text else ():
        digits = word.strip().upper().removesuffix("K")
        if not digits.isdigit():
            raise UsageError(f"cannot read {option} {text!r}", hint=f"as in {option} 8,16,32 or 32K,64K")
        found.append(int(digits) * (1024 if word.strip().upper().endswith("K") else 1))
    return found


_Sizes = Annotated[str | None, typer.Option(metavar="N,N", help="Sizes to try; K is 1024.")]


@app.command("sweep")
def sweep(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A network quantized to powers of two.")],
    target: _On = "pynq",
    blocks: _Sizes = None,
    batches: _Sizes = None,
    bus: _Sizes = None,
    uop: _Sizes = None,
    inp: _Sizes = None,
    wgt: _Sizes = None,
    acc: _Sizes = None,
    shape: Shapes = None,
    png: Annotated[Path | None, typer.Option("--png", help="A picture, with the extra plots.")] = None,
    json: Json = None,
) -> int:
    """Cycles and bytes of a network on accelerators of many sizes; what is not given is the target's."""
    import dlcomp
    from dlcomp.codegen.vta.sweep import descriptions, pareto
    from dlcomp.codegen.vta.sweep import sweep as run
    from dlcomp.report.vta import sweep as rows
    from dlcomp.report.vta import sweep_table
    from dlcomp.vta_targets import load

    given = {"uop": uop, "inp": inp, "wgt": wgt, "acc": acc}
    pads = {name: _sizes(text, f"--{name}") for name, text in given.items() if text}
    axes = (_sizes(blocks, "--blocks"), _sizes(batches, "--batches"), _sizes(bus, "--bus"))
    points = list(descriptions(load(target), *axes, pads))
    found = run(dlcomp.load(model, parse_shapes(shape)), points)
    best = pareto(found)
    if png is not None:
        from dlcomp.report.vta_plots import sweep_picture

        say("wrote", str(sweep_picture(found, png)), "dim")
    show(sweep_table(found, best), rows(found, best), json)
    return 0


@app.command("roofline")
def roofline(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A .dlc for VTA.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="The picture.")],
) -> int:
    """Draw the layers under what the array and the bus allow."""
    from dlcomp.codegen.vta import region_cycles
    from dlcomp.errors import UsageError
    from dlcomp.report.vta_plots import layer_bytes
    from dlcomp.report.vta_plots import roofline as draw

    network = _network(artifact)
    if network is None:
        hint = "a bare program has no layers; dlcomp compile --target vta:pynq makes an artifact"
        raise UsageError("not an artifact", where=str(artifact), hint=hint)
    rows = []
    for region in network.regions.values():
        for layer, row in zip(
            region.layers, region_cycles(region, network.config, network.timing), strict=True
        ):
            moved = layer_bytes(region.program, network.config, layer.begin, layer.end)
            rows.append((layer.name, layer.macs, moved, row.cycles))
    print(draw(rows, network.config, output))
    return 0


@app.command("trace")
def trace(
    program: _Program,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the JSON trace.")],
    target: _On = "pynq",
    preset: _Preset = "pipelined",
    region: _Region = 0,
    png: Annotated[Path | None, typer.Option("--png", help="The stages over time as a picture, too.")] = None,
) -> int:
    """Write the times of a program as a trace for Perfetto."""
    from dlcomp.vta.cycles import simulate
    from dlcomp.vta.timing import preset as timing
    from dlcomp.vta.trace import write

    made, config = _read(program, target, region)
    times = simulate(made, config, timing(preset))
    print(write(times, made, config, output))
    if png is not None:
        from dlcomp.report.vta_plots import gantt

        print(gantt(times, made, config, png))
    return 0
