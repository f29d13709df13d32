"""``dlcomp inspect``: what is in a network, before compiling it."""

from __future__ import annotations

from dlcomp.cli.options import Json, ModelPath, Shapes, Values, Verbose, parse_shapes
from dlcomp.cli.output import show

NAME = "inspect"


def command(
    model: ModelPath, shape: Shapes = None, values: Values = None, json: Json = None, verbose: Verbose = 0
) -> int:
    """What is in a network, and what is unsupported."""
    from dlcomp.frontend.inspect import inspect
    from dlcomp.report.inspection import inspection_table

    found = inspect(model, parse_shapes(shape), values)
    show(inspection_table(found), found, json)
    return 0
