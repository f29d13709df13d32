"""A region: operators in one program, whose tensors stay in DRAM in blocks from the first to the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcomp.codegen.vta.average import lower_average_pool
from dlcomp.codegen.vta.blocks import Extent, pack, unpack
from dlcomp.codegen.vta.choose import choose_tiling, workload
from dlcomp.codegen.vta.columns import Columns
from dlcomp.codegen.vta.concat import lower_concat
from dlcomp.codegen.vta.convolution import lower_convolution
from dlcomp.codegen.vta.operators import (
    AveragePool,
    Concat,
    Conv,
    MaxPool,
    Mean,
    Operator,
    Sum,
    Tensor,
    operands,
)
from dlcomp.codegen.vta.pointwise import lower_mean, lower_sum
from dlcomp.codegen.vta.pooling import lower_max_pool
from dlcomp.codegen.vta.stream import Stream
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.vta import functional
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.counters import Counters
from dlcomp.vta.program import RUN_INSTRUCTIONS, Program
from dlcomp.vta.timing import Timing

if TYPE_CHECKING:
    from dlcomp.schedules.workload import VtaConv


@dataclass(frozen=True)
class Layer:
    """One operator of a program: which instructions, how it was cut, and its multiply-accumulates.

    ``tuned`` says that the tiling was given and not chosen.
    """

    name: str
    kind: str
    begin: int
    end: int
    macs: int
    tiling: Tiling | None = None
    tuned: bool = False


@dataclass(frozen=True)
class Region:
    """A program with the tensors that the host writes before and reads after it.

    Attributes
    ----------
    wide : tuple of str
        Outputs that are int32, in four planes of bytes.
    folds : tuple of Columns
        Inputs that the host makes of other tensors.
    """

    program: Program
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    wide: tuple[str, ...] = ()
    folds: tuple[Columns, ...] = ()
    _ready: dict[VtaConfig, functional.Simulator] = field(default_factory=dict, repr=False, compare=False)

    def simulator(self, config: VtaConfig) -> functional.Simulator:
        """The program made ready for the functional simulator, once."""
        if config not in self._ready:
            self._ready[config] = functional.Simulator(self.program, config)
        return self._ready[config]

    def run(
        self, values: Mapping[str, npt.NDArray[np.int8]], config: VtaConfig
    ) -> tuple[dict[str, npt.NDArray[np.generic]], Counters]:
        """Outputs ``(N, C, H, W)`` for inputs of the same form, on the functional simulator."""
        feed = {tensor.name: pack(values[tensor.name], config) for tensor in self.inputs}
        found = self.simulator(config).run(feed)
        results: dict[str, npt.NDArray[np.generic]] = {}
        for tensor in self.outputs:
            raw = found.outputs[tensor.name]
            if tensor.name in self.wide:
                planes = [unpack(plane, tensor, config) for plane in raw.reshape(4, -1)]
                stacked = np.stack(planes, axis=-1)
                results[tensor.name] = np.ascontiguousarray(stacked).view("<i4")[..., 0]
            else:
                results[tensor.name] = unpack(raw, tensor, config)
        return results, found.counters


def build_region(
    operators: Sequence[Operator],
    outputs: Sequence[str],
    config: VtaConfig,
    timing: Timing,
    *,
    contexts: int = 2,
    tilings: Mapping[str, Tiling] | None = None,
    run_instructions: int = RUN_INSTRUCTIONS,
) -> Region:
    """One program for ``operators``, in their order.

    Parameters
    ----------
    outputs : sequence of str
        Results that the host reads.
    tilings : mapping, optional
        Of layers by name, in place of those that are chosen.
    run_instructions : int
        The most that one run of the accelerator may have; a longer program is several runs.

    Raises
    ------
    UsageError
        A layer does not fit the scratchpads (which, and what limit).
    """
    stream = Stream(config, run_instructions)
    made = {one.result.name: one.result for one in operators}
    read = {tensor.name: tensor for one in operators for tensor in operands(one)}
    inputs = tuple(tensor for name, tensor in read.items() if name not in made)
    wide = {one.result.name for one in operators if isinstance(one, Conv) and one.wide}
    for tensor in (*inputs, *made.values()):
        role = "scratch" if tensor.name not in outputs else "output"
        size = Extent.of(tensor, config).elements * config.element_bytes("out")
        planes = 4 if tensor.name in wide else 1
        stream.buffer(tensor.name, "input" if tensor in inputs else role, planes * size)
    layers: list[Layer] = []
    chosen: dict[VtaConv, Tiling] = {}
    for one in operators:
        begin, tiling = len(stream), None
        if isinstance(one, Conv):
            kind = workload(one, config)
            tiling = (tilings or {}).get(one.name) or chosen.get(kind)
            tiling = tiling or choose_tiling(one, config, timing, contexts=contexts)
            chosen[kind] = tiling
        _lower(stream, one, tiling)
        macs = one.macs if isinstance(one, Conv) else 0
        tuned = one.name in (tilings or {})
        layers.append(Layer(one.name, type(one).__name__.lower(), begin, len(stream), macs, tiling, tuned))
    found = tuple(made[name] for name in outputs)
    return Region(stream.finish(), inputs, found, tuple(layers), tuple(sorted(wide)))


def _lower(stream: Stream, one: Operator, tiling: Tiling | None) -> None:
    if isinstance(one, Conv):
        assert tiling is not None
        lower_convolution(stream, one, tiling)
    elif isinstance(one, Sum):
        lower_sum(stream, one)
    elif isinstance(one, Mean):
        lower_mean(stream, one)
    elif isinstance(one, MaxPool):
        lower_max_pool(stream, one)
    elif isinstance(one, AveragePool):
        lower_average_pool(stream, one)
    elif isinstance(one, Concat):
        lower_concat(stream, one)
