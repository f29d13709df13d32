"""Quantized networks for VTA: what runs on the accelerator, in instructions, and what stays on the host."""

from dlcomp.codegen.vta.network import LayerCycles, VtaNetwork, compile_network, region_cycles
from dlcomp.codegen.vta.region import Region, build_region

__all__ = ["LayerCycles", "Region", "VtaNetwork", "build_region", "compile_network", "region_cycles"]
