"""What every benchmark shares: its options, its table and its JSON."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# These files are run as `python benchmarks/NAME.py` and imported from tests; both must find the siblings.
sys.path.insert(0, str(Path(__file__).parent))

from dlcomp.errors import DlcompError
from dlcomp.report.json_report import report, write

Row = Mapping[str, Any]


def options(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a part that ends within 50 seconds")
    parser.add_argument("--json", metavar="FILE", help="where to write machine, rows and summary")
    return parser


def finish(rows: Sequence[Row], summary: Mapping[str, float], json_path: str | None) -> None:
    """Print the summary, and write the JSON if it was asked for."""
    print()
    for name, value in summary.items():
        print(f"{name}: {value if isinstance(value, int) else format(value, '.3g')}")
    if json_path:
        write(report(rows, summary), json_path)


def table_row(cells: Iterable[object]) -> str:
    """One line of a Markdown table, so that what is printed can be put into the README."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def header(*names: str) -> str:
    """The head of a Markdown table; all columns but the first are numbers."""
    return table_row(names) + "\n" + "|" + "|".join(["---", *["---:"] * (len(names) - 1)]) + "|"


def geomean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def run(main: Callable[[], None]) -> None:
    """``main``, with dlcomp's errors as a line and an exit code."""
    try:
        main()
    except DlcompError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
