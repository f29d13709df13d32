"""Quantized networks for VTA: what runs on the accelerator, in instructions, and what stays on the host.

:class:`Stream` writes a program by hand: loads, products, element-wise operations and stores in the order in
which they are thought of, with tokens and micro-ops added.
"""

from dlcomp.codegen.vta.nest import Call, Loop
from dlcomp.codegen.vta.network import LayerCycles, VtaNetwork, compile_network, region_cycles
from dlcomp.codegen.vta.region import Region, build_region
from dlcomp.codegen.vta.stream import Box, Stream

__all__ = [
    "Box",
    "Call",
    "LayerCycles",
    "Loop",
    "Region",
    "Stream",
    "VtaNetwork",
    "build_region",
    "compile_network",
    "region_cycles",
]
