"""Which layer gets what under a budget: sensitivities, a greedy path, and how far along it one may go.

Three sets of samples that share none: one to observe, one to choose by, one to report on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlcomp.compress import Pass
from dlcomp.compress.judge import Judge, Run, Score, by_artifact, by_nodes
from dlcomp.compress.network import Network
from dlcomp.compress.search.budget import Budget
from dlcomp.compress.search.levels import Level, family
from dlcomp.compress.search.path import Step, Trial, path
from dlcomp.compress.search.samples import samples_of
from dlcomp.compress.search.sensitivity import evaluator, macs_of, sensitivities, weight_bytes
from dlcomp.compress.search.stopwatch import Timing, networks_in_turn
from dlcomp.compress.search.walk import Candidate, Walk
from dlcomp.errors import CheckFailed, UsageError
from dlcomp.model import Model
from dlcomp.runtime.artifact import Artifact

__all__ = ["Budget", "Found", "search", "searches"]

_GAINS = {"speed": "faster", "size": "smaller"}


@dataclass(frozen=True)
class Found:
    """What a search chose, and what that is worth on samples that it did not choose by.

    Attributes
    ----------
    model : Model
    choice : mapping of str to Level
        What each layer got.
    before, after : Score
        On the samples to report on.
    timing : Timing or None
        Of the whole network; None with the goal ``size``.
    bytes, macs : (before, after)
    trials : mapping of str to sequence of Trial
        Every layer alone, at every level.
    steps : sequence of Step
        The path.
    curve : sequence of Candidate
        Every network that was tried, on the samples to choose by.
    samples : mapping of str to int
        How many there were to observe, to choose by, to report on.
    """

    model: Model
    pass_: Pass
    budget: Budget
    choice: Mapping[str, Level]
    before: Score
    after: Score
    timing: Timing | None
    bytes: tuple[int, int]
    macs: tuple[int, int]
    trials: Mapping[str, Sequence[Trial]]
    steps: Sequence[Step]
    curve: Sequence[Candidate]
    samples: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        from dlcomp.report.search import search_json

        return search_json(self)


def searches(model: Model, passes: Sequence[Pass], budget: Budget, **samples: Any) -> list[Found]:
    """One search for each of ``passes``, each on what the one before it made; losses are those of all so far.

    Raises
    ------
    UsageError
        A limit to time or bytes for several passes: none of them knows how much is for it.
    """
    if len(passes) > 1 and budget.limits_cost:
        raise UsageError(
            "a limit to time or bytes is for one pass",
            hint="one pass after the other, each with its limit; limits to the loss hold for all together",
        )
    found: list[Found] = []
    for pass_ in passes:
        made = found[-1].model if found else model
        found.append(search(made, pass_, budget, reference=model, **samples))
    return found


def search(
    model: Model,
    pass_: Pass,
    budget: Budget,
    *,
    calibration: Any = None,
    labels: Any = None,
    evaluate: Any = None,
    reference: Model | None = None,
) -> Found:
    """Apply ``pass_`` to the layers, and as strongly, as ``budget`` allows or asks for.

    Parameters
    ----------
    calibration : mapping, path, iterable
        Inputs to observe the network on; without ``evaluate`` a third of them, the others to choose by and
        to report on. Without ``calibration`` those to choose by are observed, too.
    labels : array or path of one, optional
        (N,) the class of each sample of ``evaluate`` (or ``calibration``); or (N, classes), which are right.
    evaluate : as ``calibration``, optional
        Inputs to choose by (a half) and to report on (the other).
    reference : Model, optional
        What losses are counted against; ``model`` itself by default.

    Raises
    ------
    UsageError
        Samples are missing or too few, or limits that the samples cannot tell.
    CheckFailed
        The budget cannot be met, or no layer becomes faster.
    """
    samples = samples_of(model, budget, calibration, labels, evaluate)
    base = Network(model)
    chosen = family(pass_, base, budget.goal)
    if not chosen.levels:
        raise CheckFailed(f"there is no layer that {pass_.name} could change")
    original = model.compile("host")
    judge = Judge(_runner(reference or model), *samples.choose)
    loss = _loss(judge)
    few = Judge(_runner(model), *samples.few)
    trials = sensitivities(base, chosen, samples.observe, evaluator(few), loss, budget.goal)
    steps = path(trials, budget.goal)
    if not steps:
        raise CheckFailed(
            f"no layer becomes {_GAINS[budget.goal]} by {pass_.name} on this machine", hint=_hint(budget)
        )

    def make(choice: Mapping[str, Level], count: int, predicted: float) -> Candidate:
        small = model.compress(chosen.of(choice), calibration=samples.observe) if choice else model
        score, size = judge.score(_runner(small)), weight_bytes(Network(small))
        made = Candidate(choice, count, predicted, small, score, size, None, None)
        if budget.max_ms is None:
            return made
        timing = networks_in_turn(made.artifact, original, budget.threads)
        return replace(made, ms=timing.after * 1e3, before_ms=timing.before * 1e3)

    walk = Walk(steps, make, budget, judge.before)
    best = walk.found()
    if not best.choice:
        raise CheckFailed(
            f"not one layer can be changed within the budget: {budget.lost(walk.at(1).score, judge.before)} "
            f"with {steps[0].layer} alone",
            hint="a larger limit, or more samples to choose by",
        )
    if chosen.joins and budget.goal == "speed":
        best = _joined(best, trials, walk, make, budget, judge)
    timing = (
        networks_in_turn(best.artifact, original, budget.threads, 1.0) if budget.goal == "speed" else None
    )
    if timing is not None and timing.slower:
        times = f"{timing.before * 1e3:.3f} to {timing.after * 1e3:.3f} ms"
        raise CheckFailed(f"the whole network becomes slower by {pass_.name}: {times}", hint=_hint(budget))
    right = original if reference is None or reference is model else reference.compile("host")
    reporter = Judge(_compiled(right), *samples.report)
    found = Found(
        best.model,
        pass_,
        budget,
        best.choice,
        reporter.score(_compiled(original)),
        reporter.score(_compiled(best.artifact)),
        timing,
        (weight_bytes(base), best.bytes),
        (macs_of(base), macs_of(Network(best.model))),
        trials,
        steps,
        walk.seen,
        samples.counts,
    )
    return replace(found, model=_recorded(found))


def _hint(budget: Budget) -> str | None:
    return "the goal size (--for size) makes it smaller all the same" if budget.goal == "speed" else None


def _joined(
    best: Candidate,
    trials: Mapping[str, Sequence[Trial]],
    walk: Walk,
    make: Any,
    budget: Budget,
    judge: Judge,
) -> Candidate:
    """With the layers that alone are not faster: between changed ones they may save conversions."""
    others = {
        layer: some[-1].level
        for layer, some in trials.items()
        if layer not in best.choice and some and not (some[-1].timing is not None and some[-1].timing.slower)
    }
    if not others or not best.choice:
        return best
    tried: Candidate = make({**best.choice, **others}, best.steps, best.predicted)
    walk.seen.append(tried)
    if budget.lost(tried.score, judge.before):
        return best
    return tried if networks_in_turn(tried.artifact, best.artifact, budget.threads).faster else best


def _runner(model: Model) -> Run:
    """Computes a network; many are only looked at, so it is not compiled where that can be avoided."""
    return (model.source is not None and by_nodes(model.source)) or by_artifact(model)


def _compiled(artifact: Artifact) -> Run:
    return lambda feed: list(artifact.run(feed).values())


def _loss(judge: Judge) -> Any:
    """Relative entropy of what gives classes, the error of other outputs."""
    classes = judge.gives_classes
    return lambda score: score.kl if classes else score.error


def _recorded(found: Found) -> Model:
    """The model with an account of the search in its last step."""
    *rest, last = found.model.history
    account = {
        "layers": {layer: level.name for layer, level in found.choice.items()},
        "samples": dict(found.samples),
        "before": found.before.to_json(),
        "after": found.after.to_json(),
    }
    return replace(found.model, history=(*rest, replace(last, effect={**last.effect, "search": account})))
