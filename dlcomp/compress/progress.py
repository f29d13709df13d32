"""A bar on stderr while data are run through a network, where stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_is_shown = False


def shown(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """``items``, with how many are done, of how many if ``total`` is known, and the time that is left.

    Inside of another one nothing is shown: the outer one says how long all of it takes.
    """
    global _is_shown
    if _is_shown or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    _is_shown = True
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            for item in items:
                yield item
                bar.advance(task)
    finally:
        _is_shown = False
