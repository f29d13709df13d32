"""Which tiling a convolution gets: an estimate ranks those that fit, the cycle simulator decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from dlcomp.codegen.vta.blocks import Extent
from dlcomp.codegen.vta.convolution import lower_convolution, rectangle_blocks
from dlcomp.codegen.vta.estimate import estimate
from dlcomp.codegen.vta.matrix import as_matrix
from dlcomp.codegen.vta.operators import Conv, Tensor
from dlcomp.codegen.vta.stream import Stream
from dlcomp.codegen.vta.tiles import Tiling, axes, registers_of, room
from dlcomp.errors import UsageError
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.cycles import simulate_instructions
from dlcomp.vta.timing import Timing

if TYPE_CHECKING:
    from dlcomp.schedules.workload import VtaConv

# Tilings that are simulated.
_FINALISTS = 12
# Of a batch, as many images as these pixels of results take are simulated.
_LEAST_IMAGES, _ENOUGH_PIXELS = 2, 512


def choose_tiling(
    conv: Conv, config: VtaConfig, timing: Timing, *, contexts: int = 2, finalists: int = _FINALISTS
) -> Tiling:
    """The fastest tiling of those that fit.

    Parameters
    ----------
    contexts : int
        2 with double buffering, 1 without.
    finalists : int
        How many are simulated; with 1 the estimate alone decides.

    Raises
    ------
    UsageError
        Not even single outputs fit the scratchpads.
    """
    conv = sample(conv, config)
    ranked = sorted(
        candidates(conv, config, contexts), key=lambda t: (estimate(conv, t, config, timing), str(t))
    )
    if not ranked:
        kernel = conv.weight.shape[2:]
        raise UsageError(
            f"no tile of this convolution fits the scratchpads: its kernel {kernel[0]}x{kernel[1]} takes "
            f"{kernel[0] * kernel[1]} weight tiles, and wgt holds {config.depth('wgt')}",
            where=conv.name,
            hint="keep this layer on the host, or take a target with larger scratchpads",
        )
    best = ranked[:finalists]
    if len(best) == 1:
        return best[0]
    return min(best, key=lambda tiling: layer_cycles(conv, tiling, config, timing))


def sample(conv: Conv, config: VtaConfig) -> Conv:
    """The same layer on fewer images: many are like a few, so many that what is kept between them counts."""
    conv = as_matrix(conv, config)
    pixels = conv.result.shape[2] * conv.result.shape[3]
    images = config.batch * max(_LEAST_IMAGES, _ENOUGH_PIXELS // pixels)
    return _of_batch(conv, min(conv.data.shape[0], images))


def workload(conv: Conv, config: VtaConfig) -> VtaConv:
    """What the speed of a convolution depends on: layers of one workload take one tiling."""
    # The runtime imports this file, and the schedules import TVM's compiler.
    from dlcomp.schedules.workload import VtaConv

    n, channels, h, w = conv.data.shape
    outputs, _, kh, kw = conv.weight.shape
    machine = f"{config.model_string} bus {config.bus_bits} hazard {config.hazard_distance}"
    return VtaConv(
        machine, n, channels // conv.groups, h, w, outputs // conv.groups, *conv.result.shape[2:], kh, kw,
        *conv.strides, *conv.dilations, *conv.pads, conv.groups, registers_of(conv, config.block),
        conv.residual is not None, conv.wide, conv.transposed,
    )  # fmt: skip


def _of_batch(conv: Conv, batch: int) -> Conv:
    def cut(tensor: Tensor) -> Tensor:
        return Tensor(tensor.name, (batch, *tensor.shape[1:]))

    more = conv.residual
    residual = None if more is None else replace(more, other=cut(more.other))
    return replace(conv, data=cut(conv.data), result=cut(conv.result), residual=residual)


def layer_program(conv: Conv, tiling: Tiling, config: VtaConfig) -> Stream:
    """A program of one layer: buffers ``data``, ``result`` and what is added, by their tensors' names."""
    stream = Stream(config)
    inputs = [conv.data] + ([conv.residual.other] if conv.residual else [])
    for tensor in {t.name: t for t in inputs}.values():
        size = Extent.of(tensor, config).elements * config.element_bytes("inp")
        stream.buffer(tensor.name, "input", size)
    planes = 4 if conv.wide else 1
    size = Extent.of(conv.result, config).elements * config.element_bytes("out")
    stream.buffer(conv.result.name, "output", planes * size)
    lower_convolution(stream, conv, tiling)
    return stream


def layer_cycles(conv: Conv, tiling: Tiling, config: VtaConfig, timing: Timing) -> int:
    """Cycles of one layer by itself."""
    instructions, _ = layer_program(conv, tiling, config).ended()
    return simulate_instructions(instructions, config, timing).cycles


def _sizes(whole: int, most: int) -> list[int]:
    """Tile sizes that cut ``whole`` into pieces as equal as can be, at most ``most``, the largest first."""
    return sorted({-(-whole // parts) for parts in range(-(-whole // most), whole + 1)}, reverse=True)


def candidates(conv: Conv, config: VtaConfig, contexts: int, sizes: int = 4) -> list[Tiling]:
    """Tilings that fit: equal pieces of every axis, of rows and columns the ``sizes`` largest, or smaller
    ones where none of these fits.
    """
    height, width = axes(conv)
    found: list[Tiling] = []
    while not found:
        found = list(_of_sizes(conv, config, contexts, sizes))
        if sizes >= max(height.outputs, width.outputs):
            break
        sizes *= 2
    return found


def _of_sizes(conv: Conv, config: VtaConfig, contexts: int, sizes: int) -> Iterator[Tiling]:
    oc, ic = rectangle_blocks(conv, config.block)
    height, width = axes(conv)
    most = config.depth("acc") // contexts
    orders = (False, True) if oc > 1 else (False,)
    for channels in _sizes(oc, most):
        for columns in _sizes(width.outputs, most)[:sizes]:
            if channels * columns > most:
                continue
            for rows in _sizes(height.outputs, most // (channels * columns))[:sizes]:
                for part in _sizes(ic, ic):
                    for order in orders:
                        tiling = Tiling(channels, part, rows, columns, order, contexts)
                        if room(conv, tiling, oc, ic, config) is not None:
                            yield tiling
