"""Low rank: layers as chains of smaller ones, chosen by what that does to their outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import check_expressions, check_names, layers_of, matches
from dlcomp.compress.lowrank.choose import Candidate, all_ranks, allocate, by_energy, by_noise
from dlcomp.compress.lowrank.moments import moments_of
from dlcomp.compress.lowrank.plus_sparse import LowRankSparse
from dlcomp.compress.lowrank.speed import chain_cycles, dense_cycles, is_known
from dlcomp.compress.lowrank.states import state_subjects, write_states
from dlcomp.compress.lowrank.subject import Subject, name_states, recurrent_layers, subject_of
from dlcomp.compress.lowrank.write import write
from dlcomp.compress.network import Network
from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import static_shapes
from dlcomp.target import Target

__all__ = ["LowRank", "LowRankSparse"]

_METHODS = ("auto", "svd", "whitened", "tucker2", "spatial", "cp")
_RULES = ("energy", "evbmf", "target")
_BUDGETS = ("macs", "parameters")


@dataclass(frozen=True)
class LowRank:
    """Dense layers, convolutions and the products of recurrent layers as chains of smaller ones.

    Grouped and depthwise convolutions, and weights that several layers read, stay as they are, and so does a
    layer whose chain would take no fewer MACs. With a budget of MACs a convolution of several taps stays too
    where no chain is faster, by the estimates of the kernels that either would get. Ranks are multiples of 8.
    What recurrent layers multiply their states with is called ``NAME_states``.

    Attributes
    ----------
    method : str
        ``svd`` of the weight; ``whitened``: in the metric of the inputs, needs data; ``tucker2``,
        ``spatial`` and ``cp`` for convolutions of several taps (others as a matrix); ``auto``: whichever is
        best of all but ``cp``, each rank of which takes a search.
    rule : str
        How ranks are chosen: ``energy``, ``evbmf`` (what stands out of noise) or ``target``, one budget for
        all layers.
    energy : float
        The share of the squared singular values to keep, above 0 to 1.
    slack : float
        EVBMF keeps little of networks that are not trained again: the share of the other ranks to keep too.
    target : float
        The share of ``of`` (``macs`` or ``parameters`` of the layers that may be factored) to keep.
    targets : mapping of str to float, or None
        The share of ``of`` to keep of each layer by name, in place of ``rule``; others stay as they are.
    processor : str
        The target that chains are to be faster on; a budget of ``parameters`` does not ask.
    data : bool
        Whether inputs are observed; without them errors are those of the weights.
    states : bool
        Whether the products of recurrent layers with their states are factored too, or those with their
        inputs alone.
    keep : tuple of str
        Regular expressions: layers whose name one is found in stay as they are.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    method: str = "auto"
    rule: str = "target"
    energy: float = 0.95
    slack: float = 0.0
    target: float = 0.5
    of: str = "macs"
    processor: str = "host"
    data: bool = True
    states: bool = True
    keep: tuple[str, ...] = ()
    targets: Mapping[str, float] | None = None
    name: str = "lowrank"

    def __post_init__(self) -> None:
        for option, known in (("method", _METHODS), ("rule", _RULES), ("of", _BUDGETS)):
            if getattr(self, option) not in known:
                raise UsageError(f"{option} cannot be {getattr(self, option)!r}", hint=", ".join(known))
        for option in ("energy", "target"):
            if not 0 < getattr(self, option) <= 1:
                raise UsageError(f"{option} is a share above 0 to 1, not {getattr(self, option)}")
        for layer, share in (self.targets or {}).items():
            if not 0 < share <= 1:
                raise UsageError(f"the target of {layer} is a share above 0 to 1, not {share}")
        if not 0 <= self.slack < 1:
            raise UsageError(f"slack is a share from 0 to below 1, not {self.slack}")
        if self.method == "cp" and self.rule != "target" and self.targets is None:
            raise UsageError(
                f"the ranks of cp cannot be chosen by {self.rule}: no singular values belong to them",
                hint="rule=target with a share to keep",
            )
        if self.method == "whitened" and not self.data:
            raise UsageError("whitened needs data", hint="method=svd works without")
        check_expressions(self.keep)
        if Target.parse(self.processor).kind != "cpu":
            raise UsageError(
                f"times are estimated for CPUs, not for {self.processor}",
                hint="of=parameters asks for no times",
            )

    @property
    def needs_data(self) -> bool:
        return self.data

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Replace layers by chains; method, ranks, parameters, MACs and error of each."""
        subjects = self._subjects(network, data if self.data else None)
        if not subjects:
            raise ModelError("it has no layer with a stored weight to factor", where="lowrank")
        if self.targets is not None:
            check_names(self.targets, {subject.title for subject in subjects}, "lowrank")
            subjects = [subject for subject in subjects if subject.title in self.targets]
        chosen, slower = self._chosen(subjects)
        account: dict[str, Any] = {}
        target = Target.parse(self.processor)
        for subject, candidate in zip(subjects, chosen, strict=True):
            if candidate is None:
                continue
            account[subject.title] = {
                "method": candidate.method,
                "ranks": list(candidate.ranks),
                "parameters": [subject.size, candidate.parameters],
                "macs": [subject.own_macs, candidate.macs],
                "error": round(_written(network, subject, candidate), 9),
            }
            if is_known(subject):
                pair = (
                    dense_cycles(subject, target),
                    chain_cycles(subject, candidate.shapes(subject), target),
                )
                account[subject.title]["cycles"] = [round(one) for one in pair]
        kept = {"no_faster": slower} if slower else {}
        return {"layers": len(account), **_totals(subjects, chosen), **kept, "by_layer": account}

    def _subjects(self, network: Network, data: Calibration | None) -> list[Subject]:
        name_states(network)
        layers = [*layers_of(network), *recurrent_layers(network)]
        layers = [layer for layer in layers if not matches(layer.node, self.keep)]
        moments = {} if data is None else moments_of(network, layers, data)
        graph = inferred(network.proto)
        # Shape inference of ONNX leaves out values that have a shape already.
        graph.value_info.extend(value for value in network.proto.graph.value_info)
        shapes = static_shapes(graph)
        found = [subject_of(network, layer, moments.get(layer.node.output[0]), shapes) for layer in layers]
        states = state_subjects(network, data, shapes, self.keep) if self.states else []
        return [subject for subject in (*found, *states) if subject is not None]

    def _chosen(self, subjects: Sequence[Subject]) -> tuple[list[Candidate | None], list[str]]:
        """One candidate or none for each layer, and the names of those that no candidate makes faster."""
        if self.targets is not None:
            made = [
                allocate([s], [all_ranks(s, self.method)], self.targets[s.title], self.of)[0]
                for s in subjects
            ]
            return made, []
        every = [self._options(subject) for subject in subjects]
        options = [self._faster(subject, some) for subject, some in zip(subjects, every, strict=True)]
        slower = [
            s.title for s, all_, left in zip(subjects, every, options, strict=True) if all_ and not left
        ]
        if self.rule == "target":
            return allocate(subjects, options, self.target, self.of), slower
        return [min(some, key=lambda one: one.macs, default=None) for some in options], slower

    def _options(self, subject: Subject) -> list[Candidate]:
        if self.rule == "target":
            return all_ranks(subject, self.method)
        if self.rule == "energy":
            return by_energy(subject, self.method, self.energy)
        return by_noise(subject, self.method, self.slack)

    def _faster(self, subject: Subject, options: Sequence[Candidate]) -> list[Candidate]:
        """Those of ``options`` that save time, where that is the purpose and times are known."""
        if self.of != "macs" or math.prod(subject.taps) == 1 or not is_known(subject):
            return list(options)
        target = Target.parse(self.processor)
        whole = dense_cycles(subject, target)
        return [one for one in options if chain_cycles(subject, one.shapes(subject), target) < whole]


def _written(network: Network, subject: Subject, candidate: Candidate) -> float:
    """Put ``candidate`` in the place of the layer; its error."""
    if subject.parts:
        return write_states(network, subject, candidate)
    stages, weight = candidate.stages(subject)
    write(network, subject, stages, weight)
    return subject.loss(subject.matrix - weight)


def _totals(subjects: Sequence[Subject], chosen: Sequence[Candidate | None]) -> dict[str, list[int]]:
    """Parameters and MACs of all layers that may be factored, before and after."""
    pairs = list(zip(subjects, chosen, strict=True))
    parameters = [s.size for s in subjects]
    macs = [s.own_macs for s in subjects]
    return {
        "parameters": [int(np.sum(parameters)), sum(c.parameters if c else s.size for s, c in pairs)],
        "macs": [int(np.sum(macs)), sum(c.macs if c else s.own_macs for s, c in pairs)],
    }
