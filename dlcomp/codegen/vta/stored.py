"""A compiled network as bytes and back: a JSON header, then the program or machine code of every segment.

What the host computes is compiled like any network for a CPU; the header says for which, and which of the
artifact's objects and weights are whose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from dlcomp.codegen.program import KernelInfo, Program
from dlcomp.codegen.vta.columns import Columns
from dlcomp.codegen.vta.network import LayerCycles, Run, VtaNetwork
from dlcomp.codegen.vta.operators import Tensor
from dlcomp.codegen.vta.partition import DeviceSegment, HostSegment, Partition
from dlcomp.codegen.vta.region import Layer, Region
from dlcomp.codegen.vta.tiles import Tiling
from dlcomp.errors import ArtifactError
from dlcomp.model import Signature
from dlcomp.target import Target
from dlcomp.vta import program as vta_program
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.timing import Timing

_HEADER = "network.json"
# Raised when an older dlcomp could not read what this one writes, or the other way round.
_FORMAT = 2


@dataclass(frozen=True)
class HostCode:
    """What the host computes between programs, as machine code.

    Attributes
    ----------
    inputs, outputs : tuple of (name, dtype, shape)
        In the order in which the code takes and returns them.
    target : mapping
        The processor, as :meth:`dlcomp.target.Target.to_dict` has it.
    """

    objects: Sequence[bytes]
    weights: Sequence[np.ndarray]
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    target: Mapping[str, Any]


def packaged(network: VtaNetwork, target: Target, compiled: Callable[[onnx.ModelProto], Program]) -> Program:
    """What an artifact holds; its kernels are the layers of the accelerator with their cycles.

    Parameters
    ----------
    compiled : callable
        Compiles a part of the network for the processor beside the accelerator.
    """
    segments = []
    bodies: dict[str, bytes] = {}
    weights: list[np.ndarray] = []
    for number, segment in enumerate(network.plan.segments):
        entry: dict[str, Any] = {"inputs": segment.inputs, "outputs": segment.outputs}
        if isinstance(segment, HostSegment):
            program = compiled(segment.network)
            entry["host"] = _host_entry(program, len(weights))
            bodies |= {f"{number:03d}/{name}": body for name, body in program.objects.items()}
            weights += program.weights
        else:
            region = network.regions[number]
            bodies[f"{number:03d}.vta"] = region.program.to_bytes()
            entry |= {
                "tensors": [[asdict(t) for t in some] for some in (region.inputs, region.outputs)],
                "layers": [asdict(layer) for layer in region.layers],
                "wide": region.wide,
                "folds": [asdict(fold) for fold in region.folds],
            }
        segments.append(entry)
    plan = network.plan
    names = {name for entry in segments for name in (*entry["inputs"], *entry["outputs"])} | set(plan.views)
    header = {
        "format": _FORMAT,
        "config": network.config.to_dict(),
        "timing": asdict(network.timing),
        "segments": segments,
        "views": plan.views,
        "shapes": {name: shape for name, shape in plan.shapes.items() if name in names},
        "outputs": plan.outputs,
    }
    kernels = tuple(
        KernelInfo(row.name, row.kind, 2 * row.macs, 0, _schedule_text(row)) for row in network.cycles()
    )
    objects = {_HEADER: json.dumps(header).encode(), **bodies}
    return Program(network.signature, target, objects, tuple(weights), kernels)


def _schedule_text(row: LayerCycles) -> str:
    """The tiling as a template's knobs are written, so that what was tuned is counted."""
    if row.tiling is None:
        return f"vta: {row.cycles} cycles"
    knobs = ",".join(f"{name}={int(value)}" for name, value in asdict(row.tiling).items())
    return f"vta.conv{{{knobs}}} {row.cycles} cycles{' tuned' if row.tuned else ''}"


def _host_entry(program: Program, first_weight: int) -> dict[str, Any]:
    def listed(specs: Sequence[Any]) -> list[Any]:
        return [[spec.name, spec.dtype, list(spec.shape)] for spec in specs]

    return {
        "objects": len(program.objects),
        "weights": [first_weight, first_weight + len(program.weights)],
        "inputs": listed(program.signature.inputs),
        "outputs": listed(program.signature.outputs),
        "target": program.target.to_dict(),
    }


def restored(
    objects: Sequence[bytes],
    weights: Sequence[np.ndarray],
    signature: Signature,
    loaded: Callable[[HostCode], Run],
) -> VtaNetwork:
    """The inverse, from the objects in their order; ``loaded`` makes code of the host callable.

    Raises
    ------
    ArtifactError
        The header does not describe the objects, a program is damaged, or this machine cannot run the
        code of the host.
    """
    try:
        return _restored(json.loads(objects[0]), objects[1:], weights, signature, loaded)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as err:
        raise ArtifactError(f"the VTA network is malformed: {err}") from err


def _restored(
    header: Mapping[str, Any],
    bodies: Sequence[bytes],
    weights: Sequence[np.ndarray],
    signature: Signature,
    loaded: Callable[[HostCode], Run],
) -> VtaNetwork:
    if header["format"] != _FORMAT:
        hint = "compile the network again"
        raise ArtifactError(f"a VTA network of format {header['format']}, this is {_FORMAT}", hint=hint)
    segments: list[HostSegment | DeviceSegment] = []
    regions, hosts, at = {}, {}, 0
    for number, entry in enumerate(header["segments"]):
        inputs, outputs = tuple(entry["inputs"]), tuple(entry["outputs"])
        count = int(entry["host"]["objects"]) if "host" in entry else 1
        mine, at = bodies[at : at + count], at + count
        if len(mine) != count:
            raise ValueError("objects are missing")
        if "host" in entry:
            segments.append(HostSegment(onnx.ModelProto(), inputs, outputs))
            hosts[number] = loaded(_host_code(entry["host"], mine, weights))
            continue
        segments.append(DeviceSegment((), inputs, outputs))
        read, made = (tuple(_tensor(one) for one in some) for some in entry["tensors"])
        layers = tuple(_layer(one) for one in entry["layers"])
        program = vta_program.Program.from_bytes(mine[0])
        folds = tuple(_fold(one) for one in entry["folds"])
        regions[number] = Region(program, read, made, layers, tuple(entry["wide"]), folds)
    if at != len(bodies):
        raise ValueError("more objects than segments have")
    shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
    plan = Partition(tuple(segments), dict(header["views"]), shapes, (), tuple(header["outputs"]))
    config, timing = VtaConfig.of(header["config"]), Timing(**header["timing"])
    return VtaNetwork(config, timing, signature, plan, regions, hosts)


def _host_code(entry: Mapping[str, Any], objects: Sequence[bytes], weights: Sequence[np.ndarray]) -> HostCode:
    first, last = (int(number) for number in entry["weights"])
    if not 0 <= first <= last <= len(weights):
        raise ValueError("weights are missing")
    inputs, outputs = (
        tuple((str(name), str(dtype), tuple(int(d) for d in shape)) for name, dtype, shape in entry[which])
        for which in ("inputs", "outputs")
    )
    return HostCode(objects, weights[first:last], inputs, outputs, dict(entry["target"]))


def _tensor(raw: Mapping[str, Any]) -> Tensor:
    batch, channels, height, width = (int(np.int64(size)) for size in raw["shape"])
    return Tensor(str(raw["name"]), (batch, channels, height, width))


def _fold(raw: Mapping[str, Any]) -> Columns:
    data, result = _tensor(raw["data"]), _tensor(raw["result"])
    return Columns(data, result, int(raw["taps"]), int(raw["stride"]), int(raw["pad"]), int(raw["dilation"]))


def _layer(raw: Mapping[str, Any]) -> Layer:
    tiling = None if raw["tiling"] is None else Tiling(**raw["tiling"])
    return Layer(raw["name"], raw["kind"], raw["begin"], raw["end"], raw["macs"], tiling, raw["tuned"])
