"""A quantized network compiled for VTA: programs for the accelerator, ONNX segments for the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dlcomp.codegen.vta import reference
from dlcomp.codegen.vta.choose import workload
from dlcomp.codegen.vta.columns import with_columns
from dlcomp.codegen.vta.operators import Conv, Operator, operands
from dlcomp.codegen.vta.partition import DeviceSegment, HostSegment, Partition, partition
from dlcomp.codegen.vta.region import Layer, Region, build_region
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.errors import ModelError, UsageError
from dlcomp.model import Model, Signature
from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.counters import Counters
from dlcomp.vta.cycles import simulate
from dlcomp.vta.program import RUN_INSTRUCTIONS
from dlcomp.vta.timing import Timing, preset
from dlcomp.vta_targets import load

# The evaluator knows how to dequantize from this opset on.
_EVALUATOR_OPSET = 19
Values = dict[str, npt.NDArray[Any]]
# A segment of the host as a function of its inputs.
Run = Callable[[Mapping[str, npt.NDArray[Any]]], Values]


@dataclass(frozen=True)
class LayerCycles:
    """Cycles of one layer inside its program, and of the multiplications that it must do."""

    name: str
    kind: str
    cycles: int
    gemm_cycles: int
    macs: int
    tiling: Tiling | None
    tuned: bool = False

    def utilisation(self, macs_per_cycle: int) -> float:
        """Multiply-accumulates a cycle over what the array can do; skipped padding counts as done."""
        return self.macs / macs_per_cycle / self.cycles if self.cycles else 0.0


@dataclass
class VtaNetwork:
    """What :func:`compile_network` returns.

    Attributes
    ----------
    counters : list of Counters
        Of the regions of the last run on the simulator.
    """

    config: VtaConfig
    timing: Timing
    signature: Signature
    plan: Partition
    regions: dict[int, Region]
    hosts: dict[int, Run]
    counters: list[Counters] = field(default_factory=list)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], *, engine: str = "simulator") -> Values:
        """The outputs of the network.

        Parameters
        ----------
        engine : str
            ``simulator`` runs the programs, ``reference`` the same operators in NumPy.

        Raises
        ------
        UsageError
            An input is missing or has another shape or dtype.
        """
        if engine not in ("simulator", "reference"):
            raise UsageError(f"unknown engine {engine!r}", hint="simulator or reference")
        values: Values = dict(_checked(inputs, self.signature))
        self.counters.clear()
        for number, segment in enumerate(self.plan.segments):
            if isinstance(segment, HostSegment):
                values.update(self.hosts[number]({name: values[name] for name in segment.inputs}))
            else:
                self._device(number, segment, values, engine)
            for view, source in self.plan.views.items():
                if source in values and view not in values:
                    values[view] = values[source].reshape(self.plan.shapes[view])
        return {name: values[name] for name in self.plan.outputs}

    def _device(self, number: int, segment: DeviceSegment, values: Values, engine: str) -> None:
        region = self.regions[number]
        folds = {fold.result.name: fold for fold in region.folds}
        feed = {}
        for tensor in region.inputs:
            fold = folds.get(tensor.name)
            source = fold.data if fold else tensor
            array = values[source.name].reshape(source.shape)
            feed[tensor.name] = fold.gather(array) if fold else array
        if engine == "reference":
            whole = {name: values[name].reshape(shape) for name, shape in _shapes(segment).items()}
            found: Mapping[str, npt.NDArray[Any]] = reference.run_operators(segment.operators, whole)
        else:
            found, counters = region.run(feed, self.config)
            self.counters.append(counters)
        for name in segment.outputs:
            values[name] = found[name].reshape(self.plan.shapes[name])

    @property
    def layers(self) -> list[Layer]:
        """All layers that the accelerator runs, in order."""
        return [layer for region in self.regions.values() for layer in region.layers]

    @property
    def macs(self) -> int:
        """Multiply-accumulates on the accelerator."""
        return sum(layer.macs for layer in self.layers)

    def cycles(self, timing: Timing | None = None) -> list[LayerCycles]:
        """Cycles of every layer, from the end of the one before it to the end of its last instruction."""
        rows = []
        for region in self.regions.values():
            rows += region_cycles(region, self.config, timing or self.timing)
        return rows


def region_cycles(region: Region, config: VtaConfig, timing: Timing) -> list[LayerCycles]:
    """The cycles of each layer of a program."""
    result = simulate(region.program, config, timing)
    code = region.program.instructions(config)
    ends = {span.index: span.end for span in result.spans}
    rows, before = [], 0
    for layer in region.layers:
        numbers = range(layer.begin, layer.end)
        end = max((ends[index] for index in numbers), default=before)
        if layer is region.layers[-1]:
            end = result.cycles
        mine = (one for one in code[layer.begin : layer.end] if isinstance(one, isa.Gemm))
        multiplications = sum(one.steps for one in mine if not one.reset)
        figures = (end - before, multiplications, layer.macs)
        rows.append(LayerCycles(layer.name, layer.kind, *figures, layer.tiling, layer.tuned))
        before = max(before, end)
    return rows


def compile_network(
    model: Model,
    target: str | VtaConfig = "pynq",
    *,
    timing: str | Timing = "pipelined",
    contexts: int = 2,
    tuned: Mapping[str, Tiling] | None = None,
    run_instructions: int = RUN_INSTRUCTIONS,
) -> VtaNetwork:
    """Compile a network that was quantized with scales that are powers of two.

    What stays on the host is run by ONNX's reference evaluator; an artifact has it compiled.

    Parameters
    ----------
    target : str or VtaConfig
        ``pynq``, ``vta:pynq``, ``@file.json``, or a configuration.
    timing : str or Timing
        What the tiling is chosen for.
    contexts : int
        2 with double buffering, 1 without.
    tuned : mapping, optional
        Tilings by the texts of :func:`dlcomp.codegen.vta.choose.workload`, in place of those chosen.
    run_instructions : int
        The most that one run of the accelerator may have; a longer program is several runs.

    Raises
    ------
    ModelError
        Nothing of the network can run on the accelerator.
    UsageError
        An open shape, or a layer that does not fit the scratchpads.
    """
    # The runtime imports this file, and the schedules import TVM's compiler.
    from dlcomp.schedules.workload import to_text

    config = load(target.removeprefix("vta:")) if isinstance(target, str) else target
    chosen = preset(timing) if isinstance(timing, str) else timing
    plan = _partitioned(model)
    regions, hosts = {}, {}
    for number, segment in enumerate(plan.segments):
        if isinstance(segment, HostSegment):
            hosts[number] = _evaluated(segment.network)
        else:
            operators, folds = with_columns(segment.operators, segment.inputs, config.block)
            given = {
                one.name: (tuned or {})[text]
                for one in convolutions(operators)
                if (text := to_text(workload(one, config))) in (tuned or {})
            }
            region = build_region(
                operators,
                segment.outputs,
                config,
                chosen,
                contexts=contexts,
                tilings=given,
                run_instructions=run_instructions,
            )
            regions[number] = replace(region, folds=folds)
    return VtaNetwork(config, chosen, model.signature, plan, regions, hosts)


def network_convolutions(model: Model, config: VtaConfig) -> list[Conv]:
    """The layers of ``model`` that have a tiling, as :func:`compile_network` compiles them."""
    found: list[Conv] = []
    for segment in _partitioned(model).segments:
        if isinstance(segment, DeviceSegment):
            found += convolutions(with_columns(segment.operators, segment.inputs, config.block)[0])
    return found


def convolutions(operators: Iterable[Operator]) -> list[Conv]:
    """Those among ``operators``."""
    return [one for one in operators if isinstance(one, Conv)]


def _partitioned(model: Model) -> Partition:
    if model.source is None or model.text is not None:
        raise UsageError("this model has no network of numbers", hint="load it from an .onnx file")
    plan = partition(model.source)
    if not any(isinstance(segment, DeviceSegment) for segment in plan.segments):
        raise ModelError(
            f"nothing of {model.name} can run on VTA: no layer is int8 with scales that are powers of two",
            hint="quantize it: compile --calib DATA, or --pass quantize:scales=power_of_two before",
        )
    return plan


def _shapes(segment: DeviceSegment) -> dict[str, tuple[int, ...]]:
    """The shapes of what a segment reads, as its operators read it."""
    read = [tensor for one in segment.operators for tensor in operands(one)]
    return {tensor.name: tensor.shape for tensor in read if tensor.name in segment.inputs}


def _evaluated(network: onnx.ModelProto) -> Run:
    """A segment of the host run by ONNX's reference evaluator."""
    from onnx import version_converter
    from onnx.reference import ReferenceEvaluator

    opset = next(int(o.version) for o in network.opset_import if o.domain in ("", "ai.onnx"))
    if opset < _EVALUATOR_OPSET:
        network = version_converter.convert_version(network, _EVALUATOR_OPSET)
    evaluator = ReferenceEvaluator(network)
    names = [value.name for value in network.graph.output]

    def run(feed: Mapping[str, npt.NDArray[Any]]) -> Values:
        return dict(zip(names, evaluator.run(names, dict(feed)), strict=True))

    return run


def _checked(inputs: Mapping[str, npt.NDArray[Any]], signature: Signature) -> Values:
    found: Values = {}
    for spec in signature.inputs:
        if spec.name not in inputs:
            raise UsageError(
                f"input {spec.name!r} is missing",
                hint=f"inputs: {', '.join(s.name for s in signature.inputs)}",
            )
        array = np.asarray(inputs[spec.name])
        if array.shape != spec.shape or str(array.dtype) != spec.dtype:
            raise UsageError(
                f"input {spec.name!r} is {array.dtype}{list(array.shape)}, the network takes {spec}"
            )
        found[spec.name] = array
    return found
