"""One measurement as one line of JSON that can be trusted: what was measured, where, and a checksum.

A line is ``{"sum": digest, "record": {...}}``. What does not parse, or whose digest does not fit, is no
record: the torn end of a file whose writer was killed, or damage.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dlcomp.target import Target

# Part of every version: raised when a measurement means something else than before.
_FORMAT = 1
# What a template estimates is no part of the code that was measured.
_NOT_CODE = ("estimate", "choose", "space")


@dataclass(frozen=True)
class Record:
    """A candidate that was measured, or failed.

    Attributes
    ----------
    workload : str
        The text of :func:`dlcomp.schedules.workload.to_text`.
    target : str
        :func:`target_key` of the processor.
    version : str
        :func:`template_version` of the template.
    template : str
    knobs : mapping of str to int
    status : str
        ``ok``, or why it failed: ``build``, ``timeout``, ``crash``, ``wrong`` or ``invalid``.
    seconds : float
        Of one run, as if measured beside the incumbent; 0 if it failed.
    spread : float
        Interquartile range over the median.
    confirmed : bool
        It was the best of its workload when it was written, by a second measurement.
    time : float
        Seconds since the epoch.
    message : str
        The first line of the failure.
    """

    workload: str
    target: str
    version: str
    template: str
    knobs: Mapping[str, int] = field(default_factory=dict)
    status: str = "ok"
    seconds: float = 0.0
    spread: float = 0.0
    confirmed: bool = False
    time: float = 0.0
    message: str = ""

    def to_line(self) -> bytes:
        """The record as one line, newline included."""
        content = _canonical(asdict(self))
        return f'{{"sum":"{_digest(content)}","record":{content}}}\n'.encode()


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "float": (int, float),
    "bool": bool,
    "Mapping[str, int]": dict,
}


def parse_line(line: bytes) -> Record | None:
    """The record of a line; None for anything that is not exactly one whole record."""
    try:
        outer = json.loads(line)
        content = outer["record"]
        if outer["sum"] != _digest(_canonical(content)):
            return None
        wanted = {f.name: _TYPES[str(f.type)] for f in fields(Record)}
        if set(content) != set(wanted) or not all(isinstance(content[k], t) for k, t in wanted.items()):
            return None
        if not math.isfinite(content["seconds"]) or not all(
            type(v) is int for v in content["knobs"].values()
        ):
            return None
        return Record(**content)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def target_key(target: Target) -> str:
    """Everything about ``target`` that a measurement depends on: measurements of any other are foreign."""
    return _canonical({**target.to_dict(), "features": sorted(target.features)})


def template_version(cls: type) -> str:
    """A digest of the code that a template generates kernels with: of its file and of all that it uses.

    Estimates, spaces, comments and layout of the source are not part of it.
    """
    return code_version(cls.__module__)


@functools.cache
def code_version(module: str, folders: tuple[str, ...] = ("dlcomp.schedules.",)) -> str:
    """A digest of the code of a module and of all that it uses from ``folders``."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in sys.modules:
            continue
        seen.add(name)
        values = list(vars(sys.modules[name]).values())
        waiting += [m for v in values if (m := _module_of(v)).startswith(folders)]
    source = "\n".join(_code(name) for name in sorted(seen))
    return f"{_FORMAT}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def _module_of(value: Any) -> str:
    return str(value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or "")


def _code(module: str) -> str:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        kept = [
            child
            for child in body
            if not (isinstance(child, ast.FunctionDef) and child.name in _NOT_CODE)
            and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
        ]
        node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return f"{module}\n{ast.unparse(tree)}"


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
