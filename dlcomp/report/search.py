"""What a search under a budget found: tables, JSON and the curve as a picture."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from dlcomp.errors import ToolMissing, UsageError

if TYPE_CHECKING:
    from dlcomp.compress.judge import Score
    from dlcomp.compress.search import Found
    from dlcomp.compress.search.path import Trial


def search_table(found: Found) -> RenderableType:
    """Every layer and what it got, the networks that were tried, and the whole on samples held out."""
    return Group(_layers(found), _curve(found), _whole(found), *_lines(found))


def _layers(found: Found) -> Table:
    table = Table(title="each layer alone", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for column in ("gets", "could get", "ms", "after", "ratio", "bytes saved", "MACs saved", "loss"):
        table.add_column(column, justify="right")
    for layer, trials in found.trials.items():
        chosen = found.choice.get(layer)
        shown = [t for t in trials if chosen is not None and t.level == chosen] or trials[-1:]
        for trial in shown:
            table.add_row(layer, chosen.name if chosen else "as it was", *_trial(trial))
    return table


def _trial(trial: Trial) -> list[str]:
    timing = trial.timing
    times = ["", "", "not measured"]
    if timing is not None:
        times = [f"{timing.before * 1e3:.4f}", f"{timing.after * 1e3:.4f}", f"{timing.ratio:.2f}"]
    loss = f"{trial.loss:.3g}" if math.isfinite(trial.loss) else "not faster"
    return [trial.level.name, *times, f"{trial.saved_bytes:,}", f"{trial.saved_macs:,}", loss]


def _curve(found: Found) -> Table:
    title = f"networks that were tried, {found.samples['choose']} samples to choose by"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    names = (
        "layers changed",
        "loss predicted",
        "relative entropy",
        "error",
        "agreement %",
        "accuracy %",
        "bytes",
        "ms",
    )
    for column in names:
        table.add_column(column, justify="right")
    for made in sorted(found.curve, key=lambda one: (one.steps, len(one.choice))):
        table.add_row(
            str(len(made.choice)),
            f"{made.predicted:.3g}",
            *_score(made.score),
            f"{made.bytes:,}",
            "" if made.ms is None else f"{made.ms:.3f}",
        )
    return table


def _score(score: Score) -> list[str]:
    accuracy = "" if score.accuracy is None else f"{100 * score.accuracy:.2f}"
    return [f"{score.kl:.4g}", f"{score.error:.3g}", f"{100 * score.agreement:.2f}", accuracy]


def _whole(found: Found) -> Table:
    title = f"the whole network, {found.samples['report']} samples that nothing was chosen by"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in ("relative entropy", "error", "agreement %", "accuracy %", "weights, bytes", "MACs", "ms"):
        table.add_column(column, justify="right")
    timing = found.timing
    times = ["", ""] if timing is None else [f"{timing.before * 1e3:.3f}", f"{timing.after * 1e3:.3f}"]
    for place, (label, score) in enumerate((("before", found.before), ("after", found.after))):
        cells = [f"{found.bytes[place]:,}", f"{found.macs[place]:,}", times[place]]
        table.add_row(label, *_score(score), *cells)
    return table


def _lines(found: Found) -> list[str]:
    count = found.samples
    lines = [
        f"samples: {count['observe']} to observe, {count['choose']} to choose by, "
        f"{count['report']} to report on; "
        f"standard error {100 * found.after.deviation():.2f} points"
    ]
    predicted = predicted_saving(found)
    if found.timing is not None and predicted is not None:
        timing = found.timing
        alone = timing.before / max(timing.before - predicted, 1e-12)
        lines.append(
            f"speed: {alone:.2f} predicted from the layers alone, "
            f"{timing.ratio:.2f} measured in turn (quartiles {timing.low:.2f} to {timing.high:.2f})"
        )
    return lines


def predicted_saving(found: Found) -> float | None:
    """Seconds that the chosen layers save if they do in the network what they do alone."""
    saved = [t.timing.saved for t in _chosen(found) if t.timing is not None]
    return sum(saved) if saved else None


def _chosen(found: Found) -> list[Trial]:
    return [t for layer, some in found.trials.items() for t in some if found.choice.get(layer) == t.level]


def search_json(found: Found) -> dict[str, Any]:
    """Everything, in the types of JSON; times in seconds unless a name says ms."""
    timing = found.timing
    return {
        "pass": found.pass_.name,
        "budget": vars(found.budget),
        "samples": dict(found.samples),
        "choice": {layer: level.name for layer, level in found.choice.items()},
        "before": found.before.to_json(),
        "after": found.after.to_json(),
        "bytes": list(found.bytes),
        "macs": list(found.macs),
        "timing": None if timing is None else vars(timing),
        "predicted_saving": predicted_saving(found),
        "layers": {layer: [_trial_json(t) for t in some] for layer, some in found.trials.items()},
        "path": [
            {"layer": s.layer, "level": s.level.name, "loss": s.loss, "gain": s.gain} for s in found.steps
        ],
        "curve": [made.to_json() for made in found.curve],
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "level": trial.level.name,
        "loss": trial.loss if math.isfinite(trial.loss) else None,
        "saved_bytes": trial.saved_bytes,
        "saved_macs": trial.saved_macs,
        "timing": None if trial.timing is None else vars(trial.timing),
    }


def needs_plots() -> None:
    """Raise ``ToolMissing`` where nothing can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ToolMissing("matplotlib is not installed", hint="pip install 'dlcomp[plots]'")


def save_search_plot(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Sensitivities by layer, and the loss along the path, of what :func:`search_json` gave.

    Raises
    ------
    ToolMissing
        matplotlib is not installed.
    UsageError
        The file cannot be written.
    """
    needs_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(content["layers"])
    for level in dict.fromkeys(t["level"] for some in content["layers"].values() for t in some):
        points = [
            (place, trial["loss"])
            for place, some in enumerate(content["layers"].values())
            for trial in some
            if trial["level"] == level and trial["loss"] is not None
        ]
        if points:
            left.plot(*zip(*points, strict=True), "o", label=level)
    left.set(title="each layer alone", ylabel="loss", xticks=range(len(names)))
    left.set_yscale("symlog", linthresh=1e-5)
    left.set_xticklabels([name[-24:] for name in names], rotation=90, fontsize=6)
    left.legend(fontsize=7)
    tried = sorted(content["curve"], key=lambda one: one["steps"])
    steps = content["path"]
    right.plot(range(1, len(steps) + 1), [step["loss"] for step in steps], "-", label="if losses add up")
    right.plot(
        [one["steps"] for one in tried], [one["score"]["kl"] for one in tried], "o", label="relative entropy"
    )
    right.plot(
        [one["steps"] for one in tried],
        [1 - one["score"]["agreement"] for one in tried],
        "x",
        label="other answers",
    )
    right.set(title="along the path", xlabel="steps", ylabel="loss")
    right.legend(fontsize=7)
    where = Path(path)
    try:
        figure.savefig(where, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be written: {error}", where=str(where)) from error
    return where
