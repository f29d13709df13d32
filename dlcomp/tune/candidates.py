"""What can be tried for a workload: every template that accepts it, with every setting of its knobs."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcomp.schedules import ON_REQUEST, templates
from dlcomp.schedules.workload import Workload, from_text
from dlcomp.target import Target
from dlcomp.tune.database import Database, ranked
from dlcomp.tune.records import Record, code_version, template_version
from dlcomp.tune.samples import flops_of

# In the place of a template's name: tilings of the accelerator, which has no schedules in TensorIR.
VTA = "vta.conv"
_VTA_CODE = "dlcomp.codegen.vta.choose"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A template and its knobs, hashable; ``estimate`` is in cycles of one core."""

    template: str
    settings: tuple[tuple[str, int], ...]
    estimate: float = 0.0

    @property
    def knobs(self) -> dict[str, int]:
        return dict(self.settings)

    @property
    def key(self) -> tuple[str, tuple[tuple[str, int], ...]]:
        """What makes it this candidate: two with one key are one."""
        return self.template, tuple(sorted(self.settings))

    def __str__(self) -> str:
        return f"{self.template}{{{','.join(f'{k}={v}' for k, v in self.settings)}}}"


def candidates(workload: Workload, target: Target) -> list[Candidate]:
    """All candidates, best estimate first, none twice."""
    found: dict[Any, Candidate] = {}
    for template in templates():
        if template.name in ON_REQUEST or not template.accepts(workload, target):
            continue
        for knobs in template.space(workload, target):
            cost = float(template.estimate(workload, knobs, target))
            candidate = Candidate(template.name, tuple(knobs.items()), cost)
            found.setdefault(candidate.key, candidate)
    return sorted(found.values(), key=lambda c: c.estimate)


def neighbours(candidate: Candidate, space: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of the same template that differ least: in one knob by one step, else in the fewest.

    Knobs depend on each other (few combinations fit the registers), so a single step of a single knob
    may not exist; candidates are ordered by the number of steps, each knob's values taken in order.
    """
    family = [c for c in space if c.template == candidate.template and c.key != candidate.key]
    values: dict[str, list[int]] = {}
    for member in [*family, candidate]:
        for name, value in member.settings:
            values.setdefault(name, []).append(value)
    order = {name: sorted(set(each)) for name, each in values.items()}
    here = candidate.knobs

    def distance(other: Candidate) -> tuple[int, float]:
        steps = sum(
            abs(order[name].index(value) - order[name].index(here.get(name, value)))
            for name, value in other.settings
        )
        return steps, other.estimate

    return sorted(family, key=distance)


def version_of(name: str) -> str:
    """The version of the template called ``name``, or of VTA's compiler; empty if there is none."""
    if name == VTA:
        importlib.import_module(_VTA_CODE)
        return code_version(_VTA_CODE, ("dlcomp.codegen.vta.", "dlcomp.vta."))
    return next((template_version(type(t)) for t in templates() if t.name == name), "")


def current(record: Record) -> bool:
    """Whether the template of ``record`` is the one that it was measured with."""
    return record.version == version_of(record.template)


def choices(database: Database, target: Target) -> Mapping[str, Sequence[tuple[str, dict[str, int]]]]:
    """For each workload's text what to use, best first: the ``records`` of :func:`dlcomp.schedules.select`.

    Records of other targets and of templates that have changed since are left out, and a warning says so
    where nothing is left.
    """
    mine = database.of_target(target)
    usable = [record for record in mine if current(record)]
    if not usable:
        total = len(database.records())
        why = "were measured with other versions of the templates" if mine else "are of other targets"
        if total:
            _LOG.warning("%s: its %d records are not used: they %s", database.path, total, why)
    by_workload: dict[str, list[Record]] = {}
    for record in usable:
        by_workload.setdefault(record.workload, []).append(record)
    return {
        text: [(record.template, dict(record.knobs)) for record in ranked(records)]
        for text, records in by_workload.items()
    }


def best_rows(database: Database, target: Target) -> list[dict[str, Any]]:
    """What a compilation for ``target`` would use, one row a workload, slowest first."""
    groups: dict[str, list[Record]] = {}
    for record in database.of_target(target):
        if current(record):
            groups.setdefault(record.workload, []).append(record)
    rows = [
        {
            "workload": text,
            "schedule": f"{best.template}{{{','.join(f'{k}={v}' for k, v in best.knobs.items())}}}",
            "seconds": best.seconds,
            "flops": flops_of(from_text(text)),
            "records": len(records),
        }
        for text, records in groups.items()
        for best in ranked(records)[:1]
    ]
    return sorted(rows, key=lambda row: -row["seconds"])
