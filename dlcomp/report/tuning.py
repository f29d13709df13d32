"""The tuning of a network as a live table, as a curve of best-so-far, and the database as tables."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from dlcomp.errors import ToolMissing, UsageError

if TYPE_CHECKING:
    from dlcomp.tune.records import Record
    from dlcomp.tune.state import Progress, TaskState

_COLUMNS = ("share", "default ms", "best ms", "gain", "% of peak", "trials", "failures")


def tuning_table(progress: Progress) -> RenderableType:
    """One row a task, largest share first, and a line about the whole."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("schedule", overflow="fold")
    for state in progress.states:
        table.add_row(*_row(progress, state))
    return Group(table, summary(progress))


def _row(progress: Progress, state: TaskState) -> list[str]:
    peak = progress.percent_of_peak(state)
    measured = bool(state.best_s)
    return [
        state.task.name + (f" (x{state.task.count})" if state.task.count > 1 else ""),
        f"{state.task.share:.1%}",
        f"{state.default_s * 1e3:.4f}" if state.default_s else "",
        f"{state.best_s * 1e3:.4f}" if measured else "",
        f"{state.gain():.2f}x" if measured and state.default_s else "",
        f"{peak:.0f}%" if peak is not None else "",
        f"{state.trials}/{state.planned}",
        str(state.failures.total() or ""),
        str(state.best or state.task.space[0]),
    ]


def summary(progress: Progress) -> str:
    """Trials, failures by reason, what the network gains, and how long it takes yet."""
    before, after = progress.seconds_of_network()
    parts = [f"{progress.trials} of {progress.planned} trials"]
    if progress.failures:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(progress.failures.items()))
        parts.append(f"failed: {reasons}")
    if after:
        parts.append(f"tuned operators {before * 1e3:.3f} -> {after * 1e3:.3f} ms ({before / after:.2f}x)")
    eta = progress.eta()
    if progress.seconds:
        parts.append(f"{progress.seconds:.0f} s" + (", interrupted" if progress.interrupted else ""))
    elif eta is not None:
        parts.append(f"{eta:.0f} s to go")
    return "; ".join(parts)


def save_curve(result: Mapping[str, Any], path: str | os.PathLike[str]) -> list[Path]:
    """Write best-so-far against trials and seconds: ``path`` (.png) and the numbers beside it (.json).

    Without matplotlib only the JSON is written.

    Raises
    ------
    UsageError
        A file cannot be written.
    """
    picture = Path(path)
    numbers = picture.with_suffix(".json")
    try:
        numbers.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return [numbers, _plot(result, picture)]
    except ToolMissing:
        return [numbers]
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(picture)) from error


def _plot(result: Mapping[str, Any], picture: Path) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ToolMissing("matplotlib is not installed", hint="pip install 'dlcomp[plots]'") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, at, label in zip(
        figure.subplots(1, 2, sharey=True), (0, 1), ("trials", "seconds"), strict=True
    ):
        for task in result["tasks"]:
            if task["curve"] and task["default_seconds"]:
                x = [point[at] for point in task["curve"]]
                y = [point[2] / task["default_seconds"] for point in task["curve"]]
                axes.step(x, y, where="post", label=task["task"], linewidth=1)
        axes.set_xlabel(label)
        axes.axhline(1.0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_ylabel("best so far / default" if at == 0 else "")
    if 0 < len(result["tasks"]) <= 12:
        figure.axes[1].legend(fontsize=6)
    figure.savefig(picture, dpi=150)
    return picture


def database_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One row a target and version of templates, as :func:`database_rows` makes them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("target", "use"):
        table.add_column(column, overflow="fold")
    for column in ("workloads", "records", "failed"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["target"], row["use"], str(row["workloads"]), str(row["records"]), str(row["failed"])
        )
    return table


def database_rows(records: Sequence[Record], here: str, usable: Sequence[bool]) -> list[dict[str, Any]]:
    """Records counted by target and by whether a compilation for the target ``here`` (its key) uses them."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record, valid in zip(records, usable, strict=True):
        use = "foreign" if record.target != here else "current" if valid else "stale"
        groups.setdefault((record.target, use), []).append(record)
    return [
        {
            "target": _short(target),
            "use": use,
            "workloads": len({r.workload for r in members}),
            "records": len(members),
            "failed": Counter(r.status != "ok" for r in members)[True],
        }
        for (target, use), members in groups.items()
    ]


def _short(key: str) -> str:
    try:
        fields = json.loads(key)
        return f"{fields['triple']}:{fields['cpu']}, {fields['cores']} cores"
    except (ValueError, KeyError, TypeError):
        return key


def best_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One row a workload: what a compilation would use."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("workload", "schedule"):
        table.add_column(column, overflow="fold")
    for column in ("ms", "GFLOP/s", "records"):
        table.add_column(column, justify="right")
    for row in rows:
        rate = row["flops"] / row["seconds"] / 1e9
        ms = f"{row['seconds'] * 1e3:.4f}"
        table.add_row(row["workload"], row["schedule"], ms, f"{rate:.1f}", str(row["records"]))
    return table


def origins(schedules: Sequence[str]) -> dict[str, int]:
    """How many kernels are tuned (by a database), analytic (by an estimate), or default (no template)."""
    kinds = Counter(
        "tuned" if text.endswith(" tuned") else "analytic" if "{" in text else "default" for text in schedules
    )
    return {kind: kinds[kind] for kind in ("tuned", "analytic", "default")}
