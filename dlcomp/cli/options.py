"""The flags that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcomp.cli.output import set_verbosity
from dlcomp.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from dlcomp.model import Signature


# zeros and ones stand at their values.
_FILLS = ("zeros", "ones", "random")


def _verbose(count: int) -> int:
    if count:
        set_verbosity(count)
    return count


ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX file, or Relay text.", show_default=False)
]
ArtifactPath = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A .dlc file.", show_default=False)]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME:DIMS",
        help="Shape of an input, as x:1,3,48,320; a name in it leaves a dimension open. Repeatable.",
    ),
]
Values = Annotated[
    Path | None,
    typer.Option("--values", metavar="FILE", help="Inputs to fix (weights of Relay text): .npz or .params."),
]
RunShapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME:DIMS", help="Shape of an input with open dimensions. Repeatable."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=@FILE", help="x=@x.npy, or @all.npz with every name. Repeatable."),
]
Fill = Annotated[str, typer.Option("--fill", help="Inputs not given: random, zeros or ones.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random inputs.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads to run on.")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write JSON; - is stdout.")]
Verbose = Annotated[
    int, typer.Option("-v", "--verbose", count=True, callback=_verbose, help="More to stderr; -vv yet more.")
]


def parse_shapes(given: list[str] | None) -> dict[str, tuple[int | str, ...]] | None:
    """``["x:1,3,48,W"]`` -> ``{"x": (1, 3, 48, "W")}``; a name may itself hold a colon."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in given or ():
        name, colon, dims = text.rpartition(":")
        try:
            shape = tuple(map(_dim, _split(dims))) if dims else ()
        except ValueError:
            shape, colon = (), ""
        if not colon or not name or any(isinstance(dim, int) and dim < 1 for dim in shape):
            raise UsageError(f"cannot read --shape {text!r}", hint="as in --shape x:1,3,48,320")
        if name in shapes:
            raise UsageError(f"--shape gives {name!r} twice", hint="give each input once")
        shapes[name] = shape
    return shapes or None


def _split(dims: str) -> list[str]:
    """At commas, or at the x between numbers."""
    return dims.split(",") if "," in dims else dims.split("x")


def _dim(text: str) -> int | str:
    """A size, or the name of a dimension that stays open."""
    text = text.strip()
    return text if text.isidentifier() else int(text)


def share(text: str | None, option: str) -> float | None:
    """``0.5%`` or ``0.005`` as a number."""
    if text is None:
        return None
    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError as err:
        raise UsageError(f"{option} {text!r} is no share", hint="0.5% or 0.005") from err
    return number / 100 if text.strip().endswith("%") else number


def read_inputs(
    given: list[str] | None,
    signature: Signature,
    fill: str = "random",
    seed: int = 0,
    shapes: list[str] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of ``--input``, and for every other input what ``--fill`` and ``--shape`` say."""
    import numpy as np

    from dlcomp.runtime.inputs import random_inputs

    if fill not in _FILLS:
        raise UsageError(f"unknown --fill {fill!r}", hint=f"one of {', '.join(_FILLS)}")
    loaded = load_arrays(given) or {}
    sizes = {name: shape for name, shape in (parse_shapes(shapes) or {}).items()}
    sizes |= {name: array.shape for name, array in loaded.items()}
    arrays = random_inputs(signature, seed, sizes)
    if fill != "random":
        value = _FILLS.index(fill)
        arrays = {name: np.full_like(array, value) for name, array in arrays.items()}
    return {**arrays, **loaded}


def load_arrays(given: list[str] | None) -> Mapping[str, np.ndarray] | None:
    """The arrays named by ``--input``; None without any."""
    arrays: dict[str, np.ndarray] = {}
    for text in given or ():
        name, _, path = text.rpartition("@")
        if not path or "@" not in text or (name and not name.endswith("=")):
            raise UsageError(
                f"cannot read --input {text!r}", hint="as in --input x=@x.npy or --input @all.npz"
            )
        arrays.update(_load(name.removesuffix("="), Path(path)))
    return arrays or None


def _load(name: str, path: Path) -> Mapping[str, np.ndarray]:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError as err:
        raise UsageError(f"no file {path}", hint="check the path after @") from err
    except (OSError, ValueError, EOFError) as err:
        raise UsageError(
            f"{path} is no .npy or .npz of plain arrays: {err}", hint="numpy.save writes one"
        ) from err
    if isinstance(found, np.ndarray):
        if not name:
            raise UsageError(f"{path} holds one array: which input is it?", hint=f"--input NAME=@{path}")
        return {name: found}
    with found:
        members = {key: found[key] for key in found.files}
    if not name:
        return members
    if name in members:
        return {name: members[name]}
    if len(members) == 1:
        return {name: next(iter(members.values()))}
    raise UsageError(f"{path} has no array {name!r}", hint=f"it has {', '.join(members)}")
