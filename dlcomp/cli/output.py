"""What every command prints with: results to stdout, everything else to stderr, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcomp.errors import UsageError


def show(rendered: Any, value: Any, json_to: str | None) -> None:
    """Print ``rendered`` for people and write ``value`` to ``--json FILE``; ``--json -`` prints only that."""
    if json_to != "-":
        print_result(rendered)
    if json_to is not None:
        text = json.dumps(plain(value), indent=2)
        if json_to == "-":
            print(text)
            return
        try:
            Path(json_to).write_text(text + "\n", encoding="utf-8")
        except OSError as err:
            raise UsageError(f"cannot write {json_to}: {err.strerror}", hint="check the path") from err


def print_result(rendered: Any) -> None:
    """Text as it is; anything of rich through a console that is as wide as a pipe's reader may want."""
    if isinstance(rendered, str):
        print(rendered)
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(rendered)


def plain(value: Any) -> Any:
    """``value`` in the types of JSON; a value with ``to_json`` says itself how."""
    own = getattr(value, "to_json", None) or getattr(value, "to_dict", None)
    if callable(own):
        return plain(own())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def say(label: str, text: str, style: str) -> None:
    """One line to stderr, ``label: text``, the label in colour where there is colour."""
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{label}: ", style), text)
    Console(stderr=True).print(line, soft_wrap=True, highlight=False)


class _Handler(logging.Handler):
    _STYLES = ((logging.ERROR, "error", "bold red"), (logging.WARNING, "warning", "bold yellow"))

    def emit(self, record: logging.LogRecord) -> None:
        for level, label, style in self._STYLES:
            if record.levelno >= level:
                say(label, record.getMessage(), style)
                return
        say(record.name.removeprefix("dlcomp."), record.getMessage(), "dim")


def set_verbosity(count: int) -> None:
    """0: warnings, 1 (``-v``): a line a phase, 2 (``-vv``): a line a kernel, and tracebacks of errors."""
    logger = logging.getLogger("dlcomp")
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG))
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler())
        logger.propagate = False


def wants_traceback() -> bool:
    """Whether ``-vv`` was given."""
    return logging.getLogger("dlcomp").level == logging.DEBUG
