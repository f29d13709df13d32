"""The autotuner: measured search over the templates' knobs, and the database of what it found.

``dlcomp.tune`` is this package and can be called: ``dlcomp.tune(model, "host", budget)``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcomp.model import Model
    from dlcomp.schedules.workload import Workload
    from dlcomp.target import Target
    from dlcomp.tune.database import Database
    from dlcomp.tune.state import Progress
    from dlcomp.tune.tuner import Budget

# Trials a task for --effort 0 to 3; a space holds a few hundred candidates, so the last is all of them.
EFFORTS = (0, 12, 32, 1000)


def tune(
    model: Model | Workload | Sequence[Workload],
    target: str | Mapping[str, Any] | Target = "host",
    budget: Budget | int | None = None,
    *,
    db: str | os.PathLike[str] | Database = "db",
    tasks: str | None = None,
    resume: bool = True,
    templates: Sequence[str] = (),
    limits_s: tuple[float, float] = (30.0, 20.0),
    seed: int = 0,
    shown: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Measure which kernels are the fastest on this machine, and keep that in a database.

    Parameters
    ----------
    model : Model, Workload or sequence of Workload
    target : str, mapping or Target
        The machine that this runs on (other code cannot be measured here), or ``vta:NAME``, whose cycles
        are simulated.
    budget : Budget or int, optional
        Or the trials a task; 32 by default, 0 measures nothing.
    db : path or Database
    tasks : str, optional
        A regular expression: only tasks whose name it is found in.
    resume : bool
        Use what the database knows already.
    templates : sequence of str
        ``module:Class`` of schedule templates to try besides dlcomp's own.
    limits_s : (float, float)
        Seconds that building and running one candidate may take.
    shown : callable
        Called with the progress after every measurement.

    Raises
    ------
    UsageError
        A target that this machine cannot run, a bad expression, no task, or a database that cannot be
        written.
    """
    from dlcomp.model import Model
    from dlcomp.target import Target
    from dlcomp.tune.database import Database
    from dlcomp.tune.pool import Pool
    from dlcomp.tune.tasks import of_workloads
    from dlcomp.tune.tasks import tasks as extract
    from dlcomp.tune.tuner import Budget, Tuner

    plan = budget if isinstance(budget, Budget) else Budget(32 if budget is None else budget)
    database = db if isinstance(db, Database) else Database(db)
    if Target.parse(target).kind == "vta":
        return _simulated(model, Target.parse(target), plan, database, tasks, resume, shown)
    resolved = _here(target)
    _register(templates)
    if isinstance(model, Model):
        found = extract(model, resolved)
    else:
        from dlcomp.schedules.workload import to_text

        workloads = model if isinstance(model, Sequence) else [model]
        found = of_workloads(Counter(map(to_text, workloads)), resolved)
    found = _matching(found, tasks)
    with Pool(resolved, templates, *limits_s) as pool:
        tuner = Tuner(found, resolved, database, pool, plan, resume, seed)
        if tuner.progress.planned:
            from dlcomp.runtime import peaks

            tuner.progress.peak_flops = peaks.measure(resolved.cores).flops
        return tuner.run(shown)


def _simulated(
    model: Any,
    target: Target,
    plan: Budget,
    database: Database,
    pattern: str | None,
    resume: bool,
    shown: Callable[[Progress], None],
) -> Progress:
    """The layers of an accelerator, measured by its cycle simulator."""
    from dlcomp.codegen.vta.network import network_convolutions
    from dlcomp.errors import UsageError
    from dlcomp.model import Model
    from dlcomp.tune.vta import VtaTuner
    from dlcomp.tune.vta import tasks as extract
    from dlcomp.vta_targets import load

    if not isinstance(model, Model):
        hint = "give a network that was quantized with scales that are powers of two"
        raise UsageError(f"{target} runs layers of quantized networks, not {model}", hint=hint)
    config = load(target.arch)
    layers = extract(network_convolutions(model, config), config)
    kept = {task.text for task in _matching([task for task, _ in layers.values()], pattern)}
    chosen = {text: layer for text, layer in layers.items() if text in kept}
    return VtaTuner(chosen, target, database, plan, resume).run(shown)


def _here(target: str | Mapping[str, Any] | Target) -> Target:
    """The target, if its code runs on this machine."""
    from dlcomp.errors import UsageError
    from dlcomp.target import Target, missing_features

    resolved = Target.parse(target)
    host = Target.host()
    if resolved.kind != "cpu" or resolved.architecture != host.architecture or missing_features(resolved):
        raise UsageError(
            f"{resolved} cannot be measured on this machine", hint="tune on the machine itself, as `host`"
        )
    from dlcomp.runtime import threads

    threads.check(resolved.cores)
    return resolved


def _matching(found: list[Any], pattern: str | None) -> list[Any]:
    import re

    from dlcomp.errors import UsageError

    try:
        kept = [task for task in found if pattern is None or re.search(pattern, task.name)]
    except re.error as error:
        raise UsageError(
            f"cannot read the expression {pattern!r}: {error}", hint="as in --tasks 'Conv2d.*k3x3'"
        ) from error
    if not kept:
        names = "; ".join(task.name for task in found[:5])
        hint = (
            f"tasks are {names}{' ...' if len(found) > 5 else ''}"
            if found
            else "no operator of it is one that templates compute"
        )
        raise UsageError("there is nothing to tune", hint=hint)
    return kept


def _register(names: Sequence[str]) -> None:
    import importlib

    from dlcomp.schedules import register
    from dlcomp.schedules import templates as present

    for name in names:
        module, _, attribute = name.partition(":")
        template = getattr(importlib.import_module(module), attribute)()
        if template.name not in {t.name for t in present()}:
            register(template)


class _Callable(ModuleType):
    """A module that is also its main function."""

    def __call__(self, *args: Any, **options: Any) -> Progress:
        return tune(*args, **options)


sys.modules[__name__].__class__ = _Callable
