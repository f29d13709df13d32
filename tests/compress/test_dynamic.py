"""Quantization by the ranges of each run, and of recurrent layers' weights: without calibration data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.errors import ModelError, UsageError
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"


def fashion(name: str) -> dlcomp.Model:
    return dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})


def outputs(model: dlcomp.Model, feed: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """By dlcomp, and by onnxruntime."""
    assert model.source is not None
    session = peer.session(model.source.SerializeToString(), 1, optimize=False)
    return list(model.compile("host").run(feed).values()), session.run(None, feed)


def network(nodes: list[onnx.NodeProto], x: tuple[int, ...], weights: dict[str, np.ndarray]) -> dlcomp.Model:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return dlcomp.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def kinds(model: dlcomp.Model) -> list[str]:
    assert model.source is not None
    return [node.op_type for node in model.source.graph.node]


@pytest.mark.parametrize("name", ["lenet300", "lstm"])
def test_networks(name: str) -> None:
    """A quarter of the size; both runtimes compute the same, near what the floats make."""
    model = fashion(name)
    small = model.compress(parse("quantize:activations=dynamic"))
    assert small.source is not None
    assert model.source is not None
    assert model.source.ByteSize() / small.source.ByteSize() > 3.4
    rng = np.random.default_rng(0)
    for _ in range(4):
        feed = {"image": rng.random((1, 1, 28, 28)).astype("float32") ** 4}
        found, theirs = outputs(small, feed)
        right = next(iter(model.compile("host").run(feed).values()))
        np.testing.assert_allclose(found[0], theirs[0], rtol=0, atol=1e-5 * np.ptp(theirs[0]))
        assert np.abs(found[0] - right).max() < 0.02 * np.ptp(right)


def test_products_run_on_integers() -> None:
    small = fashion("lenet300").compress(parse("quantize:activations=dynamic"))
    assert kinds(small).count("MatMulInteger") == kinds(small).count("DynamicQuantizeLinear") == 3
    labels = [k.schedule for k in small.compile("host").kernels if "gemm" in k.name]
    assert len(labels) == 3
    assert not any(k.endswith("chunk=1}") for k in labels)  # integers name their arithmetic


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bias", [(), (1,), (7,)])
def test_gemm(turned: bool, bias: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((7, 12) if turned else (12, 7)).astype(np.float32)
    weights = {"w": weight} | ({"b": rng.standard_normal(bias).astype(np.float32)} if bias else {})
    nodes = [helper.make_node("Gemm", ["x", *weights], ["y"], transB=int(turned))]
    model = network(nodes, (5, 12), weights)
    small = model.compress(parse("quantize:activations=dynamic"))
    x = rng.standard_normal((5, 12)).astype(np.float32)
    found, theirs = outputs(small, {"x": x})
    np.testing.assert_allclose(found[0], theirs[0], rtol=0, atol=1e-5)
    right = x @ (weight.T if turned else weight) + weights.get("b", np.float32(0))
    assert np.abs(found[0] - right).max() < 0.03 * np.ptp(right)


def test_one_rounding_for_all_that_read_a_value() -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in "qkv"}
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}1"]) for name in weights]
    nodes.append(helper.make_node("Sum", ["q1", "k1", "v1"], ["y"]))
    small = network(nodes, (2, 3, 16), weights).compress(parse("quantize:activations=dynamic"))
    assert kinds(small).count("DynamicQuantizeLinear") == 1
    found, theirs = outputs(small, {"x": rng.standard_normal((2, 3, 16)).astype(np.float32)})
    np.testing.assert_allclose(found[0], theirs[0], rtol=0, atol=1e-5 * np.ptp(theirs[0]))


@pytest.mark.parametrize("x", [np.zeros((2, 8)), np.full((2, 8), 3.0), np.full((2, 8), -1e30)])
def test_ranges_of_one_value(x: np.ndarray) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    small = network([helper.make_node("MatMul", ["x", "w"], ["y"])], (2, 8), {"w": weight}).compress(
        parse("quantize:activations=dynamic")
    )
    found, theirs = outputs(small, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(found[0], theirs[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "bits", "directions"), [("LSTM", 8, 1), ("LSTM", 4, 2), ("GRU", 4, 2), ("RNN", 8, 2)]
)
def test_recurrent_layers(kind: str, bits: int, directions: int) -> None:
    rng = np.random.default_rng(0)
    gates, hidden, inputs = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 16, 12
    weights = {
        "w": rng.standard_normal((directions, gates * hidden, inputs)).astype(np.float32) * 0.3,
        "r": rng.standard_normal((directions, gates * hidden, hidden)).astype(np.float32) * 0.3,
    }
    direction = "bidirectional" if directions == 2 else "forward"
    node = helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=hidden, direction=direction)
    model = network([node], (6, 2, inputs), weights)
    small = model.compress(parse(f"quantize:activations=float32,bits={bits}"))
    assert small.history[-1].effect["layers"] == 1
    assert kinds(small) == ["DequantizeLinear", "DequantizeLinear", kind]
    x = rng.standard_normal((6, 2, inputs)).astype(np.float32)
    found, theirs = outputs(small, {"x": x})
    np.testing.assert_allclose(found[0], theirs[0], rtol=0, atol=1e-5)
    (right, *_), _ = outputs(model, {"x": x})
    # States of random weights feed errors back, so that single ones become large.
    assert np.abs(found[0] - right).mean() < (0.005 if bits == 8 else 0.1)


@pytest.mark.parametrize("activations", ["dynamic", "float32"])
def test_tables(activations: str) -> None:
    """Rows that are looked up, also twice in one table, are floats of integers; small tables stay."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal((rows, 32)).astype(np.float32) for name, rows in (("t", 50), ("few", 9))
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Abs", ["i"], ["j"]),
        helper.make_node("Gather", ["t", "i"], ["a"]),
        helper.make_node("Gather", ["t", "j"], ["b"]),
        helper.make_node("Gather", ["few", "j"], ["c"]),
        helper.make_node("Sum", ["a", "b", "c"], ["y"]),
    ]
    small = network(nodes, (2, 3), weights).compress(parse(f"quantize:activations={activations}"))
    assert small.source is not None
    stored = {t.name for t in small.source.graph.initializer}
    assert "few" in stored
    assert "t" not in stored
    assert small.history[-1].effect["layers"] == 2
    x = np.array([[3, -1, 0], [8, -7, 5]], np.float32)
    found, theirs = outputs(small, {"x": x})
    np.testing.assert_allclose(found[0], theirs[0], rtol=0, atol=1e-6)
    i = x.astype(int)
    right = weights["t"][i] + weights["t"][abs(i)] + weights["few"][abs(i)]
    assert 0 < np.abs(found[0] - right).max() < 0.05


@pytest.mark.parametrize("activations", ["dynamic", "float32"])
def test_every_kind_in_one_network(activations: str) -> None:
    """A table, a recurrent layer and two products: of all that is stored no matrix of floats is left."""
    rng = np.random.default_rng(0)
    shapes = {"t": (50, 32), "w": (32, 32), "w2": (32, 32), "lw": (1, 64, 32), "lr": (1, 64, 16)}
    weights = {name: rng.standard_normal(s).astype(np.float32) * 0.2 for name, s in shapes.items()}
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["t", "i"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("LSTM", ["d", "lw", "lr"], ["y"], hidden_size=16),
    ]
    small = network(nodes, (3, 2), weights).compress(parse(f"quantize:activations={activations}"))
    assert small.history[-1].effect["layers"] == 4
    assert small.source is not None
    assert not set(shapes) & {t.name for t in small.source.graph.initializer}
    read = {name for node in small.source.graph.node for name in node.input} | {"y"}
    assert all(read & set(node.output) for node in small.source.graph.node)
    found, theirs = outputs(small, {"x": np.array([[3, 1], [8, 49], [0, 7]], np.float32)})
    np.testing.assert_allclose(found[0], theirs[0], rtol=0, atol=1e-5)


def test_what_stays_in_float() -> None:
    """Convolutions do, and what ``keep`` names."""
    small = fashion("lenet5").compress(parse("quantize:activations=dynamic"))
    assert kinds(small).count("Conv") == kinds(fashion("lenet5")).count("Conv")
    assert "ConvInteger" not in kinds(small)
    with pytest.raises(ModelError, match="no product of matrices, recurrent layer or table"):
        fashion("lstm").compress(parse("quantize:activations=dynamic,keep=."))


def test_group_is_for_weights_alone() -> None:
    with pytest.raises(UsageError, match="activations=float32"):
        parse("quantize:activations=dynamic,group=32")
