"""Dense layers of many images: bit-equal to the reference, and weights loaded once for all images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import PIPELINED, check, conv

from dlcomp.codegen.vta import build_region
from dlcomp.codegen.vta.choose import candidates, choose_tiling, sample
from dlcomp.codegen.vta.matrix import as_matrix
from dlcomp.codegen.vta.operators import Requantize, Residual, Tensor
from dlcomp.vta_targets import load

TARGETS = ("pynq", "batch4x8", "block32", "block64")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), target=st.sampled_from(TARGETS), batch=st.integers(1, 20),
    channels=st.sampled_from([1, 16, 33, 64]), outputs=st.sampled_from([1, 16, 40]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kind=st.sampled_from(["plain", "wide", "residual", "by channel", "large bias"]),
)  # fmt: skip
def test_any_dense_layer(
    seed: int, target: str, batch: int, channels: int, outputs: int, size: tuple[int, int], kind: str
) -> None:
    rng = np.random.default_rng(seed)
    more: dict[str, object] = {"wide": True} if kind == "wide" else {}
    if kind == "residual":
        other = Tensor("other", (batch, outputs, 1, 1))
        more["residual"] = Residual(other, 1, 2, Requantize(2, 0, 127))
    if kind == "by channel":
        more["extra"] = rng.integers(0, 5, outputs)
    if kind == "large bias":
        more |= {"bias": rng.integers(-(2**29), 2**29, outputs), "requantize": Requantize(22)}
    layer = conv(rng, (batch, channels, *size), outputs, size, **more)
    config = load(target)
    tilings = list(candidates(sample(layer, config), config, 2))
    check([layer], config, rng, tilings={"layer": tilings[seed % len(tilings)]})


@pytest.mark.parametrize("target", TARGETS)
def test_a_chain_whose_values_others_read_too(target: str) -> None:
    """Flattened pictures, then two matrices: each layer reads what the one before stored."""
    rng = np.random.default_rng(0)
    a, b = Tensor("a", (6, 40, 3, 2)), Tensor("b", (6, 50, 1, 1))
    layers = [
        conv(rng, (6, 8, 3, 2), 40, pads=(1, 1, 1, 1), name="first", result=a),
        conv(rng, a.shape, 50, (3, 2), name="second", data=a, result=b),
        conv(rng, b.shape, 10, (1, 1), name="third", data=b, wide=True),
    ]
    check(layers, load(target), rng)


def test_weights_come_once_for_all_images() -> None:
    config = load("pynq")
    layer = conv(np.random.default_rng(0), (64, 512, 1, 1), 512, (1, 1))
    tiling = choose_tiling(layer, config, PIPELINED, finalists=3)
    region = build_region([layer], ["result"], config, PIPELINED, tilings={"layer": tiling})
    _, counters = region.run({"data": np.zeros(layer.data.shape, np.int8)}, config)
    assert counters.wgt_bytes < 1.2 * layer.weight.size


@pytest.mark.parametrize(
    ("shape", "kernel", "more"),
    [
        ((1, 32, 1, 1), (1, 1), {}),
        ((4, 32, 3, 3), (3, 3), {"pads": (1, 1, 1, 1)}),
        ((4, 32, 3, 3), (2, 2), {}),
        ((4, 32, 1, 1), (1, 1), {"groups": 2}),
    ],
    ids=["one image", "padding", "windows", "groups"],
)
def test_what_is_no_matrix_of_images_stays_as_it_is(
    shape: tuple[int, int, int, int], kernel: tuple[int, int], more: dict
) -> None:
    layer = conv(np.random.default_rng(0), shape, 16, kernel, **more)
    assert as_matrix(layer, load("pynq")) is layer
