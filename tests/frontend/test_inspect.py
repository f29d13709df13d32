"""``inspect`` reports what is in a file, also where ``load`` would refuse it."""

from __future__ import annotations

import subprocess
import sys

import networks
from onnx import TensorProto, helper

from dlcomp.frontend.inspect import inspect

node, value = helper.make_node, networks.value


def test_signature_parameters_and_operators() -> None:
    found = inspect(networks.cnn())
    assert [str(spec) for spec in found.inputs] == ["x: float32[1, 3, 16, 16]"]
    assert [str(spec) for spec in found.outputs] == ["y: float32[1, 5]"]
    assert found.parameters == 8 * 27 + 8 + 8 * 9 + 12 * 8 + 60 + 5 + 4 * 8 + 2
    assert found.parameter_bytes == 4 * found.parameters
    assert found.macs == 8 * 8 * 8 * 27 + 8 * 8 * 8 * 9 + 4 * 4 * 12 * 8 + 12 * 5
    assert found.ops["Conv"] == 3
    assert found.symbols == {}
    assert found.unsupported == ()


def test_unbound_shapes_are_listed_and_bound_ones_counted() -> None:
    found = inspect(networks.cnn("N"))
    assert found.symbols == {"N": ("x[0]",)}
    assert found.macs is None
    assert found.inputs[0].shape == ("N", 3, 16, 16)
    once, thrice = (inspect(networks.cnn("N"), {"x": (n, 3, 16, 16)}).macs for n in (1, 3))
    assert once is not None
    assert thrice == 3 * once


def test_recurrent_macs_and_unsupported_operators() -> None:
    steps, batch, width, hidden = 7, 2, 5, 3
    weights = [networks.weight("w", 2, 4 * hidden, width), networks.weight("r", 2, 4 * hidden, hidden)]
    nodes = [
        node("LSTM", ["x", "w", "r"], ["h"], name="lstm", hidden_size=hidden, direction="bidirectional"),
        node("Fancy", ["h"], ["y"], name="f", domain="my.ops"),
    ]
    outputs = [value("h", [steps, 2, batch, hidden]), value("y", ["a"], TensorProto.FLOAT)]
    network = networks.model(nodes, [value("x", [steps, batch, width])], outputs, weights, my_ops=1)
    found = inspect(network)
    assert found.macs == steps * batch * 2 * 4 * hidden * (width + hidden)
    assert {op.op: op.nodes for op in found.unsupported} == {"my.ops::Fancy": ("f",)}


def test_inspect_does_not_import_tvm() -> None:
    code = (
        "import sys, dlcomp.frontend.inspect; assert not any(m.split('.')[0] == 'tvm' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_operator_says_how_it_is_handled() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("QuickGelu", ["a"], ["b"], domain="com.microsoft"),
        node("MeanVarianceNormalization", ["b"], ["c"]),
        node("NonZero", ["c"], ["d"]),
        node("SequenceConstruct", ["d", "d"], ["s"]),
        node("ConcatFromSequence", ["s"], ["e"], axis=0),
        node("TopK", ["x", "k"], ["t", "i"]),
        node("Reshape", ["x", "flat"], ["r"]),
        node("Fancy", ["r"], ["f"], domain="my.ops"),
    ]
    inputs = [value("x", ["n", 3, 8, 8]), value("k", [1], TensorProto.INT64)]
    outputs = [value("e", None, TensorProto.INT64), value("t", None), value("f", ["a"])]
    weights = [networks.weight("w", 4, 3, 3, 3), networks.constant("flat", [-1], "int64")]
    network = networks.model(nodes, inputs, outputs, weights, my_ops=1, com_microsoft=1)
    found = inspect(network)
    assert dict(found.handling) == {
        "Conv": "native",
        "com.microsoft::QuickGelu": "rewritten",
        "MeanVarianceNormalization": "native",
        "NonZero": "host",
        "SequenceConstruct": "taken apart",
        "ConcatFromSequence": "taken apart",
        "TopK": "host",
        "Reshape": "native",
        "my.ops::Fancy": "unsupported",
    }
    assert [op.op for op in found.unsupported] == ["my.ops::Fancy"]
    assert found.inputs[0].shape == ("n", 3, 8, 8)
