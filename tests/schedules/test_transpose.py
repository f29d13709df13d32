"""Exchanging the contiguous axis, alone and with a step fused behind, against NumPy and onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check, schedules

SHAPES = {
    "whole tiles": ((32, 48), (1, 0)),
    "tails on both sides": ((37, 53), (1, 0)),
    "one short side": ((5, 64), (1, 0)),
    "image to channels last": ((2, 20, 9, 11), (0, 2, 3, 1)),
    "channels last to image": ((2, 9, 11, 20), (0, 3, 1, 2)),
    "heads": ((3, 17, 4, 33), (0, 2, 3, 1)),
    "reversed": ((6, 7, 8, 9), (3, 2, 1, 0)),
    "shared among cores": ((1, 64, 60, 61), (0, 2, 3, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_it_moves_every_element(name: str) -> None:
    shape, axes = SHAPES[name]
    net = Net()
    x = net.input(*shape)
    net.output(net.op("Transpose", x, perm=list(axes)))
    inputs = net.random_inputs()
    for artifact in check(net, inputs, [np.transpose(inputs[x], axes)], tolerance=0.0):
        assert schedules(artifact, "transpose") == ["transpose.tiled"]


@pytest.mark.parametrize("shape", [(3, 500), (500, 3), (1, 7), (2, 2)])
def test_sides_too_short_for_a_tile(shape: tuple[int, int]) -> None:
    net = Net()
    x = net.input(*shape)
    net.output(net.op("Transpose", x, perm=[1, 0]))
    inputs = net.random_inputs()
    check(net, inputs, [inputs[x].T], tolerance=0.0)


def test_what_is_fused_behind_it() -> None:
    net = Net()
    x, y = net.input(1, 24, 10, 12), net.input(1, 10, 12, 24)
    moved = net.op("Transpose", x, perm=[0, 2, 3, 1])
    net.output(net.op("Relu", net.op("Add", net.op("Mul", moved, net.weight(24)), y)))
    check(net)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_any_permutation(shape: list[int], random) -> None:
    axes = list(range(len(shape)))
    random.shuffle(axes)
    net = Net()
    x = net.input(*shape)
    net.output(net.op("Transpose", x, perm=axes))
    inputs = net.random_inputs()
    check(net, inputs, [np.transpose(inputs[x], axes)], tolerance=0.0)
