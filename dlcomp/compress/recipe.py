"""Passes as text: ``quantize:method=mse,keep=head|stem``, as the command line and the history write them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from dlcomp.compress import Pass
from dlcomp.errors import UsageError

# Where each pass is: imported when it is asked for.
PASSES: Mapping[str, tuple[str, str]] = {
    "channels": ("dlcomp.compress.channels", "PruneChannels"),
    "equalize": ("dlcomp.compress.equalize", "Equalize"),
    "lowrank": ("dlcomp.compress.lowrank", "LowRank"),
    "lowrank_sparse": ("dlcomp.compress.lowrank", "LowRankSparse"),
    "quantize": ("dlcomp.compress.quantize", "Quantize"),
    "share": ("dlcomp.compress.codebook", "ShareWeights"),
    "smooth": ("dlcomp.compress.smooth", "Smooth"),
    "sparsify": ("dlcomp.compress.sparsify", "Sparsify"),
}
_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def parse(text: str) -> Pass:
    """The pass that ``NAME`` or ``NAME:OPTION=VALUE,...`` describes; several values are split by ``|``,
    and those for layers by name are ``LAYER@VALUE``.

    Raises
    ------
    UsageError
        No such pass or option, or a value that the option cannot have.
    """
    name, _, rest = text.partition(":")
    if name not in PASSES:
        near = difflib.get_close_matches(name, PASSES) or PASSES
        raise UsageError(f"there is no pass {name!r}", hint=f"there are: {', '.join(near)}")
    module, attribute = PASSES[name]
    kind: Any = getattr(importlib.import_module(module), attribute)
    known = {field.name for field in fields(kind)} - {"name"}
    types = get_type_hints(kind)
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        option = option.replace("-", "_")
        if option not in known or not equals:
            raise UsageError(
                f"the pass {name} has no option {part!r}", hint=f"as OPTION=VALUE: {', '.join(sorted(known))}"
            )
        options[option] = _value(types[option], value, f"{name}:{part}")
    made: Pass = kind(**options)
    return made


def _value(kind: Any, text: str, where: str) -> Any:
    wanted = str(kind)
    try:
        if kind is bool:
            return _YES[text.lower()]
        if kind is int:
            return int(text)
        if "Mapping" in wanted:
            number = int if "int" in wanted else float
            pairs = (part.rpartition("@") for part in text.split("|"))
            return {layer: number(share) for layer, _, share in pairs}
        if "float" in wanted:
            return float(text)
        if "tuple" in wanted:
            return tuple(text.split("|"))
    except (ValueError, KeyError) as error:
        raise UsageError(f"{text!r} is no {getattr(kind, '__name__', wanted)}", where=where) from error
    return text
