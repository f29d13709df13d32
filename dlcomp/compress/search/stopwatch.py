"""Whether a changed layer is faster, measured: the layer alone, as it was and as it is, timed in turn.

A layer is cut out where it begins and ends in the network: at its integers where it has some, and behind the
activation that is computed with it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from dlcomp.compress.layers import Layer
from dlcomp.compress.network import Network
from dlcomp.errors import DlcompError
from dlcomp.frontend.inference import inferred

if TYPE_CHECKING:
    from dlcomp.runtime.artifact import Artifact

_LOG = logging.getLogger(__name__)
# What is computed in the kernel of the layer before it.
_BEHIND = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "QuantizeLinear"})
_SECONDS = 0.12
# The lower quartile of the turns' ratios: less is within what two measurements of one thing differ by.
_FASTER = 1.03
_KINDS = (TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16)


@dataclass(frozen=True)
class Timing:
    """Seconds of one run before and after, and the ratio of both by turn.

    Attributes
    ----------
    ratio, low, high : float
        Median and quartiles of the turns: above 1 it is faster after.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float

    @property
    def faster(self) -> bool:
        """Beyond doubt."""
        return self.low >= _FASTER

    @property
    def slower(self) -> bool:
        return self.high <= 1 / _FASTER

    @property
    def saved(self) -> float:
        return self.before - self.after

    def __add__(self, other: Timing) -> Timing:
        """Of layers that run one after the other; the spread is that of the larger."""
        before, after = self.before + other.before, self.after + other.after
        main = max((self, other), key=lambda one: one.before)
        return Timing(
            before,
            after,
            before / after,
            before / after * main.low / main.ratio,
            before / after * main.high / main.ratio,
        )


class Stopwatch:
    """Times layers of ``network`` against what became of them; each only once."""

    def __init__(self, network: Network) -> None:
        self._before = Parts(network)
        self._known: dict[tuple[bytes, bytes], Timing] = {}
        self._runners: dict[bytes, Callable[[], Any]] = {}

    def layers(self, changed: Network, layers: Iterable[Layer]) -> Timing | None:
        """All of ``layers`` that ``changed`` computes otherwise; None if none can be measured alone."""
        after = Parts(changed)
        found = [one for one in (self._layer(after, layer) for layer in layers) if one is not None]
        return functools.reduce(operator.add, found) if found else None

    def _layer(self, changed: Parts, layer: Layer) -> Timing | None:
        before, after = (parts.cut(layer.data, layer.output) for parts in (self._before, changed))
        if before is None or after is None:
            return None
        # With the weights: the zeros among them may decide how long it takes.
        key = (_digest(before), _digest(after))
        if key[0] == key[1]:
            return None
        if key not in self._known:
            try:
                if key[0] not in self._runners:
                    self._runners[key[0]] = _runner(before)
                self._known[key] = _timed(self._runners[key[0]], _runner(after))
            except DlcompError as error:
                _LOG.info("%s cannot be measured alone: %s", layer.name, error)
                return None
        return self._known[key]


def networks_in_turn(ours: Artifact, theirs: Artifact, threads: int | None, seconds: float = 0.6) -> Timing:
    """``theirs`` is what was before, ``ours`` what is now."""
    from dlcomp.runtime.bench import bench

    found = bench(ours, compare=theirs, min_time_s=seconds, warmup_s=0.1, threads=threads)
    assert found.ratio is not None
    assert found.peer_latency is not None
    ratio = found.ratio
    return Timing(found.peer_latency.median, found.latency.median, ratio.median, ratio.low, ratio.high)


def _timed(before: Callable[[], Any], after: Callable[[], Any]) -> Timing:
    from dlcomp.runtime.bench import in_turn

    now, then, ratio = in_turn(after, before, warmup_s=0.02, min_time_s=_SECONDS, min_runs=5)
    return Timing(then.median, now.median, ratio.median, ratio.low, ratio.high)


def _runner(proto: onnx.ModelProto) -> Callable[[], Any]:
    """Runs a layer once, on one thread: who shares the others with it would decide the time."""
    import dlcomp

    artifact = dlcomp.load(proto).compile("host")
    feed = [_some(spec.shape, spec.dtype) for spec in artifact.signature.inputs]
    return artifact.session().staged(feed, 1)


def _some(shape: Iterable[int | str], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    if np.dtype(dtype).kind == "f":
        # Half of what a layer reads behind a ReLU is zero.
        return np.maximum(rng.standard_normal(sizes), 0).astype(dtype)
    return rng.integers(0, 100, sizes).astype(dtype)


class Parts:
    """A network from which layers can be cut."""

    def __init__(self, network: Network) -> None:
        graph = network.proto.graph
        self._network = network
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        light = inferred(network.proto)
        values = (*graph.input, *graph.value_info, *graph.output, *light.value_info, *light.output)
        self._typed = {value.name: value for value in values}

    def cut(self, data: str, made: str) -> onnx.ModelProto | None:
        """The nodes between ``data`` and ``made``, as a network; None if there is no such path."""
        end, behind = self._behind(made)
        nodes: set[str] = set()
        inputs: list[str] = []
        waiting = [made, *(name for node in behind for name in node.input[1:])]
        while waiting:
            name = waiting.pop()
            if not name or name in self._network.weights or name in inputs or name in nodes:
                continue
            node = self._makers.get(name)
            if name == data or node is None or (node.op_type == "QuantizeLinear" and node.input[0] == data):
                inputs.append(name)
                continue
            nodes.add(node.output[0])
            waiting.extend(node.input)
        if made not in nodes:
            return None
        chosen = [node for node in self._network.nodes if node.output[0] in nodes]
        return self._model([*chosen, *behind], inputs, end)

    def _behind(self, made: str) -> tuple[str, list[onnx.NodeProto]]:
        """What is computed with the layer, and its last value."""
        end, behind = made, list[onnx.NodeProto]()
        while end not in self._network.outputs and len(readers := self._readers.get(end, [])) == 1:
            (node,) = readers
            if node.op_type not in _BEHIND or node.input[0] != end:
                break
            behind.append(node)
            end = node.output[0]
        return end, behind

    def _model(self, nodes: list[onnx.NodeProto], inputs: list[str], end: str) -> onnx.ModelProto | None:
        if not inputs or any(name not in self._typed for name in (*inputs, end)):
            return None
        values = [self._typed[name] for name in (*inputs, end)]
        if any(value.type.tensor_type.elem_type not in _KINDS for value in values):
            return None
        read = {name for node in nodes for name in node.input}
        proto = self._network.proto
        kind = values[-1].type.tensor_type.elem_type
        graph = helper.make_graph(
            nodes,
            "layer",
            values[:-1],
            [helper.make_tensor_value_info(end, kind, None)],
            [tensor for tensor in proto.graph.initializer if tensor.name in read],
        )
        return helper.make_model(graph, opset_imports=list(proto.opset_import), ir_version=proto.ir_version)


def _digest(proto: onnx.ModelProto) -> bytes:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).digest()
