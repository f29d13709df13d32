"""A compiled network as bytes and back: a JSON header, then a program or an ONNX network for each segment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx

from dlcomp.codegen.program import KernelInfo, Program
from dlcomp.codegen.vta.columns import Columns
from dlcomp.codegen.vta.network import VtaNetwork, reference_host
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


def packaged(network: VtaNetwork, target: Target) -> Program:
    """What an artifact holds; its kernels are the layers of the accelerator with their cycles."""
    segments = []
    bodies: dict[str, bytes] = {}
    for number, segment in enumerate(network.plan.segments):
        entry: dict[str, Any] = {"inputs": segment.inputs, "outputs": segment.outputs}
        if isinstance(segment, HostSegment):
            bodies[f"{number:03d}.onnx"] = segment.network.SerializeToString()
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
        "config": network.config.to_dict(),
        "timing": asdict(network.timing),
        "segments": segments,
        "views": plan.views,
        "shapes": {name: shape for name, shape in plan.shapes.items() if name in names},
        "outputs": plan.outputs,
    }
    kernels = tuple(
        KernelInfo(row.name, row.kind, 2 * row.macs, 0, f"vta: {row.cycles} cycles, {row.tiling}")
        for row in network.cycles()
    )
    objects = {_HEADER: json.dumps(header).encode(), **bodies}
    return Program(network.signature, target, objects, (), kernels)


def restored(objects: Sequence[bytes], signature: Signature) -> VtaNetwork:
    """The inverse, from the objects in their order.

    Raises
    ------
    ArtifactError
        The header does not describe the objects, or a program is damaged.
    """
    try:
        return _restored(json.loads(objects[0]), objects[1:], signature)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as err:
        raise ArtifactError(f"the VTA network is malformed: {err}") from err


def _restored(header: Mapping[str, Any], bodies: Sequence[bytes], signature: Signature) -> VtaNetwork:
    segments: list[HostSegment | DeviceSegment] = []
    regions, hosts = {}, {}
    for number, (entry, body) in enumerate(zip(header["segments"], bodies, strict=True)):
        inputs, outputs = tuple(entry["inputs"]), tuple(entry["outputs"])
        if "layers" not in entry:
            network = onnx.load_model_from_string(body)
            segments.append(HostSegment(network, inputs, outputs))
            hosts[number] = reference_host(network)
            continue
        segments.append(DeviceSegment((), inputs, outputs))
        read, made = (tuple(_tensor(one) for one in some) for some in entry["tensors"])
        layers = tuple(_layer(one) for one in entry["layers"])
        program = vta_program.Program.from_bytes(body)
        folds = tuple(_fold(one) for one in entry["folds"])
        regions[number] = Region(program, read, made, layers, tuple(entry["wide"]), folds)
    shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
    plan = Partition(tuple(segments), dict(header["views"]), shapes, (), tuple(header["outputs"]))
    config, timing = VtaConfig.of(header["config"]), Timing(**header["timing"])
    return VtaNetwork(config, timing, signature, plan, regions, hosts)


def _tensor(raw: Mapping[str, Any]) -> Tensor:
    batch, channels, height, width = (int(np.int64(size)) for size in raw["shape"])
    return Tensor(str(raw["name"]), (batch, channels, height, width))


def _fold(raw: Mapping[str, Any]) -> Columns:
    data, result = _tensor(raw["data"]), _tensor(raw["result"])
    return Columns(data, result, int(raw["taps"]), int(raw["stride"]), int(raw["pad"]), int(raw["dilation"]))


def _layer(raw: Mapping[str, Any]) -> Layer:
    tiling = None if raw["tiling"] is None else Tiling(**raw["tiling"])
    return Layer(raw["name"], raw["kind"], raw["begin"], raw["end"], raw["macs"], tiling)
