"""Random integer layers, and one layer or network compiled, run, and compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlcomp.codegen.vta import build_region
from dlcomp.codegen.vta.operators import Conv, Operator, Requantize, Tensor, operands, output_size
from dlcomp.codegen.vta.reference import run_operators
from dlcomp.vta.config import VtaConfig
from dlcomp.vta.timing import preset

PIPELINED = preset("pipelined")


def conv(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
    **more: Any,
) -> Conv:
    """A convolution of random weights whose results are spread over int8, from ``data`` to ``result``."""
    batch, channels, height, width = shape
    size = [
        output_size(s, kernel[a], strides[a], (pads[a], pads[a + 2]), dilations[a])
        for a, s in enumerate((height, width))
    ]
    weight = rng.integers(-128, 128, (outputs, channels // groups, *kernel)).astype(np.int8)
    # Products of uniform int8 have a deviation of about 74^2; the sums are to fall into int8.
    shift = max(0, int(np.log2(74**2 * np.sqrt(weight[0].size) / 64)))
    bias = more.pop("bias", rng.integers(-(1 << shift + 5), 1 << shift + 5, outputs)).astype(np.int32)
    how = more.pop("requantize", Requantize(shift, int(rng.choice([-128, 0])), 127))
    return Conv(
        more.pop("name", "layer"), more.pop("data", Tensor("data", shape)),
        more.pop("result", Tensor("result", (batch, outputs, size[0], size[1]))), weight, bias, how,
        strides, pads, dilations, groups, **more,
    )  # fmt: skip


def transposed(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int] = (1, 1),
    more: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Conv | None:
    """A transposed convolution, ``more`` being ONNX's output_padding; None if its result is empty."""
    batch, channels, *sizes = shape
    size = [
        (s - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 - pads[a] - pads[a + 2] + more[a]
        for a, s in enumerate(sizes)
    ]
    if min(size) < 1:
        return None
    weight = rng.integers(-128, 128, (outputs, channels // groups, *kernel)).astype(np.int8)
    shift = max(0, int(np.log2(74**2 * np.sqrt(weight[0].size / np.prod(strides)) / 64)))
    bias = rng.integers(-(1 << shift + 5), 1 << shift + 5, outputs).astype(np.int32)
    return Conv(
        "layer", Tensor("data", shape), Tensor("result", (batch, outputs, size[0], size[1])), weight, bias,
        Requantize(shift), strides, pads, dilations, groups, transposed=True,
    )  # fmt: skip


def check(
    layers: Sequence[Operator], config: VtaConfig, rng: np.random.Generator, **options: Any
) -> dict[str, np.ndarray]:
    """Every result, compared bit by bit with the reference."""
    made = {one.result.name for one in layers}
    inputs = {t.name: t for one in layers for t in operands(one) if t.name not in made}
    values = {n: rng.integers(-128, 128, t.shape).astype(np.int8) for n, t in inputs.items()}
    region = build_region(layers, sorted(made), config, PIPELINED, **options)
    found, _ = region.run(values, config)
    wanted = run_operators(layers, values)
    for name in made:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
        assert found[name].dtype == wanted[name].dtype
    return {name: np.asarray(found[name]) for name in made}
