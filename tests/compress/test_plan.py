"""Which sums of a network are added as integers."""

from __future__ import annotations

import networks
import onnx

import dlcomp
from dlcomp.compress.network import Network
from dlcomp.compress.quantize.plan import plan

node, value, weight = onnx.helper.make_node, networks.value, networks.weight


def block(normalized: bool) -> onnx.ModelProto:
    """A residual sum that a normalisation reads, or a product behind a ReLU."""
    between = node("LayerNormalization", ["s", "gain"], ["n"]) if normalized else node("Relu", ["s"], ["n"])
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="first"),
        node("MatMul", ["a", "w2"], ["b"], name="second"),
        node("Add", ["a", "b"], ["s"], name="short cut"),
        between,
        node("MatMul", ["n", "w3"], ["c"], name="third"),
        node("Add", ["s", "c"], ["y"], name="last"),
    ]
    stored = [*(weight(name, 8, 8) for name in ("w1", "w2", "w3")), *([weight("gain", 8)] * normalized)]
    return networks.model(nodes, [value("x", [1, 4, 8])], [value("y", [1, 4, 8])], stored, opset=17)


def test_sums_that_do_not_become_integers_again_add_floats() -> None:
    """In 8 bits, the stream that all blocks of a transformer add to would be rounded at every sum."""
    chosen = plan(Network(dlcomp.load(block(normalized=True))))
    assert chosen.reads == {("a", 0), ("b", 0), ("c", 0)}
    assert set(chosen.values) == {"x", "a", "n"}
    chosen = plan(Network(dlcomp.load(block(normalized=False))))
    assert {("s", 0), ("s", 1)} <= chosen.reads
    assert ("y", 0) not in chosen.reads
