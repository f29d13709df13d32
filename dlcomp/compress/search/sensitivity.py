"""What each layer costs when it alone is changed: loss of the network, bytes, MACs and measured time.

One evaluation a layer, as in mixed-precision quantization (Wu et al., "Integer quantization for deep
learning inference", 2020, section 6.2). Where a pass says how wrong a layer's own outputs become, the network
is run for one level of it and the loss of the others is taken as proportional to that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.judge import Judge, Score
from dlcomp.compress.layers import Layer, layers_of, weight_of
from dlcomp.compress.lowrank.states import state_layers
from dlcomp.compress.lowrank.subject import recurrent_layers
from dlcomp.compress.network import Network
from dlcomp.compress.progress import shown
from dlcomp.compress.search.levels import Family, Level
from dlcomp.compress.search.path import Trial
from dlcomp.compress.search.stopwatch import Stopwatch
from dlcomp.errors import UsageError
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import count_macs

_LOG = logging.getLogger(__name__)
Evaluate = Callable[[Network], Score]


def sensitivities(
    network: Network,
    family: Family,
    data: Calibration | None,
    evaluate: Evaluate,
    loss: Callable[[Score], float],
    goal: str,
) -> dict[str, list[Trial]]:
    """Every layer at every level alone, those of one layer from mild to strong.

    With the goal ``speed`` the loss of a level is only found where it is measured to be faster.
    """
    stopwatch = Stopwatch(network) if goal == "speed" else None
    before = weight_bytes(network), macs_of(network)
    found: dict[str, list[Trial]] = {}
    for layer, levels in _with_time_left(family.levels):
        some = []
        errors: list[float | None] = []
        tried: list[Network] = []
        for level in levels:
            made = _alone(network, family, layer, level, data)
            if made is None:
                continue
            changed, error = made
            timing = (
                None if stopwatch is None else stopwatch.layers(changed, _changed(network, changed, layer))
            )
            after = weight_bytes(changed), macs_of(changed)
            some.append(Trial(layer, level, 0.0, before[0] - after[0], before[1] - after[1], timing))
            errors.append(error)
            tried.append(changed)
        losses = _losses(tried, errors, [trial.gain(goal) > 0 for trial in some], evaluate, loss)
        found[layer] = [_with(trial, value) for trial, value in zip(some, losses, strict=True)]
        for trial in found[layer]:
            _LOG.info("%s", describe(trial))
    return found


def _with_time_left(levels: Mapping[str, Sequence[Level]]) -> Iterator[tuple[str, Sequence[Level]]]:
    """The layers, and in the log how long the rest will take if it takes as long as those so far."""
    begin, total = time.perf_counter(), len(levels)
    for done, found in enumerate(shown(levels.items(), "trying layers", total), start=1):
        yield found
        left = (time.perf_counter() - begin) / done * (total - done)
        _LOG.info("%d of %d layers tried, about %.0f s left for the others", done, total, left)


def _alone(
    network: Network, family: Family, layer: str, level: Level, data: Calibration | None
) -> tuple[Network, float | None] | None:
    changed = network.copy()
    try:
        effect = family.quick({layer: level}).rewrite(changed, data)
    except UsageError as error:
        # Of channels: widths that this layer cannot have.
        _LOG.info("%s, %s: %s", layer, level.name, error)
        return None
    changed.drop_unread()
    return changed, own_error(effect, layer)


def own_error(effect: Mapping[str, Any], layer: str) -> float | None:
    """The error of the layer's own outputs, where the pass says it."""
    errors = effect.get("error")
    if isinstance(errors, Mapping):
        value = errors.get(layer)
        return None if value is None else float(value)
    value = effect.get("by_layer", {}).get(layer, {}).get("error")
    return None if value is None else float(value)


def _losses(
    networks: Sequence[Network],
    errors: Sequence[float | None],
    wanted: Sequence[bool],
    evaluate: Evaluate,
    loss: Callable[[Score], float],
) -> Iterator[float]:
    """The loss of each, infinite where it is not wanted."""
    known = [i for i, error in enumerate(errors) if wanted[i] and error]
    probe = known[len(known) // 2] if known else None
    unit = 0.0
    if probe is not None:
        unit = loss(evaluate(networks[probe])) / float(errors[probe] or np.inf)
    for network, error, asked in zip(networks, errors, wanted, strict=True):
        if not asked:
            yield np.inf
        elif error is None:
            yield loss(evaluate(network))
        else:
            yield unit * error


def _with(trial: Trial, loss: float) -> Trial:
    return Trial(trial.layer, trial.level, loss, trial.saved_bytes, trial.saved_macs, trial.timing)


def _changed(before: Network, after: Network, name: str) -> list[Layer]:
    """The layer ``name``, and all whose weights have other shapes: readers of channels that are gone."""
    shapes = {layer.output: weight_of(after, layer).shape for layer in layers_of(after)}
    own = [layer for layer in recurrent_layers(before) if layer.name == name]
    own += [layer.whole for layer in state_layers(before) if layer.name == name]
    return own + [
        layer
        for layer in layers_of(before)
        if layer.name == name or shapes.get(layer.output, ()) != weight_of(before, layer).shape
    ]


def weight_bytes(network: Network) -> int:
    """Bytes of all weights; of sparse ones a bit for each element and what is not zero."""
    return sum(map(bytes_of, network.weights.values()))


def bytes_of(array: np.ndarray) -> int:
    """Bytes of one weight."""
    return int(min(array.nbytes, np.count_nonzero(array) * array.itemsize + -(-array.size // 8)))


def macs_of(network: Network) -> int:
    """Multiply-accumulates of one run, 0 if a shape is not known."""
    return count_macs(inferred(network.proto)) or 0


def describe(trial: Trial) -> str:
    """One line about a trial."""
    text = f"{trial.layer}, {trial.level.name}: {trial.saved_bytes:,} bytes"
    if trial.timing is not None:
        timing = trial.timing
        text += f", {timing.before * 1e3:.4f} to {timing.after * 1e3:.4f} ms ({timing.ratio:.2f})"
    return text + (f", loss {trial.loss:.3g}" if np.isfinite(trial.loss) else ", not faster")


def evaluator(judge: Judge) -> Evaluate:
    """Runs a network node by node where onnxruntime is there to do so, otherwise compiled."""
    import dlcomp
    from dlcomp.compress.judge import by_artifact, by_nodes

    def evaluate(network: Network) -> Score:
        return judge.score(by_nodes(network.proto) or by_artifact(dlcomp.load(network.proto)))

    return evaluate
