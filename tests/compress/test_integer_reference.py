"""Compiled int8 networks are the integer reference's to the bit, whatever the shapes of their layers."""

from __future__ import annotations

import sys
from pathlib import Path

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.helper import make_node as node

import dlcomp
from dlcomp.compress.network import Network

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from integer_reference import ConvInteger, evaluated

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"


def with_integers(small: dlcomp.Model) -> tuple[Network, list[str]]:
    """The network, and every value that it rounds to integers."""
    network = Network(small)
    return network, [str(n.output[0]) for n in network.nodes if n.op_type == "QuantizeLinear"]


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 5), outputs=st.integers(1, 5), kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 2), dilation=st.integers(1, 2), depthwise=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_convolutions_are_those_of_the_reference(
    channels: int, outputs: int, kernel: int, stride: int, dilation: int, depthwise: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = channels if depthwise else 1
    made = channels * outputs if depthwise else outputs
    shape = (made, channels // groups, kernel, kernel)
    stored = {"w": rng.standard_normal(shape), "b": rng.standard_normal(made) * 3}
    stored["v"] = rng.standard_normal((made, 3))
    pads = [kernel // 2 * dilation] * 4
    conv = node(
        "Conv", ["x", "w", "b"], ["c"], group=groups, strides=[stride] * 2, dilations=[dilation] * 2,
        pads=pads,
    )  # fmt: skip
    nodes = [conv, node("Relu", ["c"], ["r"]), node("MaxPool", ["r"], ["p"], kernel_shape=[1, 1])]
    nodes += [node("Transpose", ["p"], ["t"], perm=[0, 2, 3, 1]), node("MatMul", ["t", "v"], ["y"])]
    weights = [numpy_helper.from_array(a.astype("float32"), name) for name, a in stored.items()]
    extent = (9 + 2 * pads[0] - dilation * (kernel - 1) - 1) // stride + 1
    network = networks.model(
        nodes,
        [networks.value("x", [1, channels, 9, 9])],
        [networks.value("y", [1, extent, extent, 3])],
        weights,
        opset=17,
    )
    samples = rng.standard_normal((4, channels, 9, 9)).astype("float32")
    small = dlcomp.load(network).compress(dlcomp.Quantize(), calibration=samples)
    held, names = with_integers(small)
    shown, feed = held.exposing(names), {"x": samples[:1]}
    (right,) = evaluated(shown, [feed])
    found = dlcomp.load(shown).compile("host").run(feed)
    assert len(names) >= 2
    for name in names:
        np.testing.assert_array_equal(found[name], right[name])


@pytest.mark.parametrize("name", ["lenet5", "dscnn"])
def test_networks_are_those_of_the_reference(name: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (8, 1, 28, 28)).astype("float32")
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    held, names = with_integers(model.compress(dlcomp.Quantize(), calibration=images))
    shown = held.exposing(names)
    feeds = [{"image": image[None]} for image in images[:4]]
    artifact = dlcomp.load(shown).compile("host")
    for feed, right in zip(feeds, evaluated(shown, feeds), strict=True):
        found = artifact.run(feed)
        for value in names:
            np.testing.assert_array_equal(found[value], right[value])


def test_a_sum_by_hand() -> None:
    """(130 - 128) * 3 + (120 - 128) * -5, which is 46."""
    data = np.array([130, 120], "uint8").reshape(1, 2, 1, 1)
    weight = np.array([3, -5], "int8").reshape(1, 2, 1, 1)
    made = networks.model(
        [node("ConvInteger", ["x", "w", "z"], ["y"])],
        [networks.value("x", [1, 2, 1, 1], 2)],
        [networks.value("y", [1, 1, 1, 1], 6)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(128, "uint8"), "z")],
        opset=17,
    )
    assert evaluated(made, [{"x": data}])[0]["y"].tolist() == [[[[46]]]]
    assert ConvInteger.op_domain == ""
