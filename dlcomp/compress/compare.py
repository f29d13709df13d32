"""A network and what passes made of it, layer by layer: form, bytes, MACs, and measured time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dlcomp.compress.layers import layers_of
from dlcomp.compress.lowrank.subject import recurrent_layers
from dlcomp.compress.network import Network
from dlcomp.compress.search.sensitivity import bytes_of, weight_bytes
from dlcomp.compress.search.stopwatch import Parts, Stopwatch, Timing, networks_in_turn
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import count_macs
from dlcomp.model import Model


@dataclass(frozen=True)
class LayerChange:
    """A layer as it was and as it is.

    Attributes
    ----------
    form : str
        What became of its weight, for people.
    bytes, macs : (before, after)
    error : float or None
        Of its own outputs, where a pass said it.
    timing : Timing or None
        Of the layer alone, on one thread; None where it did not change or cannot be measured.
    """

    layer: str
    form: str
    bytes: tuple[int, int]
    macs: tuple[int, int]
    error: float | None
    timing: Timing | None


@dataclass(frozen=True)
class Comparison:
    """All layers, and the whole network timed in turn with what it was."""

    layers: tuple[LayerChange, ...]
    bytes: tuple[int, int]
    macs: tuple[int, int]
    timing: Timing

    @property
    def predicted(self) -> float:
        """The speed-up if the layers saved in the network what they save alone."""
        saved = sum(one.timing.saved for one in self.layers if one.timing is not None)
        return self.timing.before / max(self.timing.before - saved, 1e-12)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "predicted": self.predicted}


def compare(before: Model, after: Model, threads: int | None = None) -> Comparison:
    """Measure every layer of ``before`` that ``after`` computes otherwise, and both networks in turn.

    Parameters
    ----------
    threads : int, optional
        Of the whole networks; layers alone are timed on one.
    """
    old, new = Network(before), Network(after)
    watch, parts, changed = Stopwatch(old), Parts(old), Parts(new)
    errors = _errors(after)
    layers = []
    for layer in (*layers_of(old), *recurrent_layers(old)):
        pair = [some.cut(layer.data, layer.output) for some in (parts, changed)]
        if pair[0] is None or pair[1] is None:
            continue
        was, now = pair
        sizes, macs = ((rule(was), rule(now)) for rule in (_bytes, _macs))
        timing = watch.layers(new, [layer])
        layers.append(LayerChange(layer.name, form(was, now), sizes, macs, errors.get(layer.name), timing))
    whole = networks_in_turn(after.compile("host"), before.compile("host"), threads, 1.0)
    total = [count_macs(inferred(network.proto)) or 0 for network in (old, new)]
    return Comparison(tuple(layers), (weight_bytes(old), weight_bytes(new)), (total[0], total[1]), whole)


def form(was: onnx.ModelProto, now: onnx.ModelProto) -> str:
    """What a layer's weight has become: bits, zeros, factors, channels."""
    before, after = _weights(was), _weights(now)
    if not before or not after:
        return ""
    found = []
    if len(after) > len(before):
        found.append(f"{len(after)} factors")
    elif after[0].shape != before[0].shape:
        found.append(f"{'x'.join(map(str, after[0].shape[:2]))} of {'x'.join(map(str, before[0].shape[:2]))}")
    kinds = {array.dtype for array in after}
    if any(kind.kind in "iu" for kind in kinds):
        found.append("8 bits")
    zeros = 1 - sum(map(np.count_nonzero, after)) / sum(array.size for array in after)
    if zeros > 0.1:
        found.append(f"{100 * zeros:.0f} % zeros")
    return ", ".join(found) or "as it was"


def _weights(layer: onnx.ModelProto) -> list[np.ndarray]:
    arrays = [numpy_helper.to_array(tensor) for tensor in layer.graph.initializer]
    return [array for array in arrays if array.ndim >= 2]


def _bytes(layer: onnx.ModelProto) -> int:
    return sum(bytes_of(numpy_helper.to_array(tensor)) for tensor in layer.graph.initializer)


def _macs(layer: onnx.ModelProto) -> int:
    return count_macs(inferred(layer)) or 0


def _errors(model: Model) -> Mapping[str, float]:
    """What the passes said about the outputs of single layers, the last one of each."""
    found: dict[str, float] = {}
    for step in model.history:
        errors = step.effect.get("error", {})
        by_layer = step.effect.get("by_layer", {})
        found |= {name: float(value) for name, value in errors.items()} if isinstance(errors, Mapping) else {}
        found |= {name: float(one["error"]) for name, one in by_layer.items() if "error" in one}
    return found
