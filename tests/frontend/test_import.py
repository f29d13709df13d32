"""What comes out of ``load``: names, order, types, and the numbers of onnxruntime."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

import dlcomp
from dlcomp.frontend.check import infer
from dlcomp.frontend.operators import CONTRIB, STANDARD
from dlcomp.frontend.simplify import normalise, simplify
from dlcomp.model import Model

node, value = helper.make_node, networks.value


def run(model: Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The module through TVM's own pipeline, unscheduled."""
    machine = relax.VirtualMachine(tvm.compile(model.module, target="llvm"), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(feed[spec.name]) for spec in model.signature.inputs])
    return [result.numpy()] if len(model.signature.outputs) == 1 else [item.numpy() for item in result]


def reference(model: Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    assert model.source is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.source.SerializeToString(), options)
    return session.run([spec.name for spec in model.signature.outputs], feed)


def feed_for(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(spec.shape).astype(spec.dtype)
        if "float" in spec.dtype
        else rng.integers(0, 2, spec.shape).astype(spec.dtype)
        for spec in model.signature.inputs
    }


def assert_equal(model: Model, feed: dict[str, np.ndarray] | None = None) -> None:
    feed = feed or feed_for(model)
    for spec, ours, theirs in zip(
        model.signature.outputs, run(model, feed), reference(model, feed), strict=True
    ):
        assert (ours.shape, str(ours.dtype)) == (spec.shape, spec.dtype) == (theirs.shape, str(theirs.dtype))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_cnn_equals_onnxruntime(batch: int) -> None:
    assert_equal(dlcomp.load(networks.cnn("N"), {"x": (batch, 3, 16, 16)}))


@pytest.mark.parametrize("batch", [1, 5])
def test_computed_shapes_fold(batch: int) -> None:
    model = dlcomp.load(networks.mlp("N"), {"x": (batch, 3, 4)})
    assert "shape_of" not in str(model.module)
    assert_equal(model)


def test_names_with_punctuation_and_order_are_kept() -> None:
    nodes = [node("Sub", ["b.1", "input:0"], ["out/2"]), node("Neg", ["input:0"], ["1-out:0"])]
    inputs = [value("input:0", [2]), value("b.1", [2])]
    model = dlcomp.load(networks.model(nodes, inputs, [value("out/2", [2]), value("1-out:0", [2])]))
    assert [spec.name for spec in model.signature.inputs] == ["input:0", "b.1"]
    assert [spec.name for spec in model.signature.outputs] == ["out/2", "1-out:0"]
    assert len(model.module["main"].params) == 2
    assert_equal(model)


def test_unused_input_stays_a_parameter() -> None:
    model = dlcomp.load(
        networks.model([node("Relu", ["x"], ["y"])], [value("x", [2]), value("z", [3])], [value("y", [2])])
    )
    assert [spec.name for spec in model.signature.inputs] == ["x", "z"]
    assert_equal(model)


def test_outputs_that_are_inputs_and_constants() -> None:
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["z"])]
    outputs = [value("y", [2, 3]), value("z", [2, 3])]
    model = dlcomp.load(networks.model(nodes, [value("x", [2, 3])], outputs, [networks.weight("w", 2, 3)]))
    assert_equal(model)


def test_the_given_proto_is_not_changed() -> None:
    network = networks.mlp("N")
    before = network.SerializeToString(deterministic=True)
    dlcomp.load(network, {"x": (2, 3, 4)})
    assert network.SerializeToString(deterministic=True) == before


def test_nothing_is_printed_or_warned(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dlcomp.load(networks.cnn())
        dlcomp.load(networks.quantized())
    assert capfd.readouterr().out == ""


def test_constant_nodes_and_functions_are_normalised() -> None:
    body = [node("Constant", [], ["two"], value_float=2.0), node("Mul", ["a", "two"], ["b"])]
    function = helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    network = networks.model(
        [node("Twice", ["x"], ["y"], domain="local")], [value("x", [2])], [value("y", [2])], local=1
    )
    network.functions.append(function)
    model = dlcomp.load(network)
    np.testing.assert_array_equal(run(model, {"x": np.float32([1, -3])})[0], np.float32([2, -6]))
    assert not any(n.op_type == "Constant" for n in normalise(network).graph.node)


def test_dequantized_weights_are_not_folded() -> None:
    network = networks.quantized()
    simplified = simplify(network)
    dequantized = {n.input[0] for n in simplified.graph.node if n.op_type == "DequantizeLinear"}
    assert "wq" in dequantized
    assert 'out_dtype="int32"' in str(dlcomp.load(network).module["main"].script())
    assert_equal(dlcomp.load(network))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [False, True])
def test_batch_normalisation_is_folded_into_a_convolution(operator: str, bias: bool, shared: bool) -> None:
    weights = [networks.weight("w", 4, 4, 3, 3), networks.weight("b", 4)]
    weights += [networks.weight(name, 4) for name in ("scale", "shift", "mean")]
    weights.append(networks.constant("variance", [0.5, 1, 2, 3], "float32"))
    operands = ["x", "w", *(["b"] if bias else [])]
    nodes = [
        node(operator, operands, ["c"]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], epsilon=1e-3),
        # Whoever reads the weight besides must find it as it was.
        node("Conv", ["n", "w"], ["y"]),
    ]
    outputs = [value("y", None), *([value("c", None)] if shared else [])]
    network = networks.model(nodes, [value("x", [1, 4, 9, 9])], outputs, weights)
    kinds = [n.op_type for n in simplify(infer(network, "net")).graph.node]
    assert ("BatchNormalization" in kinds) == shared
    assert_equal(dlcomp.load(network))


def test_operators_that_nothing_depends_on_need_no_converter() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Fancy", ["x"], ["z"], domain="my.ops")]
    network = networks.model(nodes, [value("x", [2])], [value("y", [2])], my_ops=1)
    assert dlcomp.load(network).signature.outputs[0].shape == (2,)


def test_clip_is_one_operator() -> None:
    text = dlcomp.load(networks.cnn()).module["main"].script()
    assert "R.clip" in text
    assert "call_tir" not in text


@pytest.mark.parametrize("bounds", [(None, 1.0), (-0.5, None), (0.0, None), (None, None), (np.nan, 1.0)])
def test_clip_bounds(bounds: tuple[float | None, float | None]) -> None:
    names = ["x", *("" if bound is None else f"bound{i}" for i, bound in enumerate(bounds))]
    weights = [networks.constant(f"bound{i}", b, "float32") for i, b in enumerate(bounds) if b is not None]
    network = networks.model(
        [node("Clip", names, ["y"])], [value("x", [3, 7])], [value("y", [3, 7])], weights
    )
    assert_equal(dlcomp.load(network))


def test_integer_clip() -> None:
    weights = [networks.constant("low", -1, "int32"), networks.constant("high", 2, "int32")]
    types = {"dtype": TensorProto.INT32}
    nodes = [node("Clip", ["x", "low", "high"], ["y"])]
    model = dlcomp.load(
        networks.model(nodes, [value("x", [9], **types)], [value("y", [9], **types)], weights)
    )
    assert_equal(model, {"x": np.arange(-4, 5, dtype="int32")})


@pytest.mark.parametrize("kind", ["Max", "Min", "Sum"])
def test_many_operands_broadcast(kind: str) -> None:
    inputs = [value("a", [2, 1, 3]), value("b", [5, 1]), value("c", [])]
    model = dlcomp.load(networks.model([node(kind, ["a", "b", "c"], ["y"])], inputs, [value("y", [2, 5, 3])]))
    assert "stack" not in str(model.module)
    assert_equal(model)


def test_gather_counts_from_the_end_and_stays_in_bounds() -> None:
    nodes = [node("Gather", ["w", "i"], ["y"], axis=0)]
    network = networks.model(
        nodes, [value("i", [4], TensorProto.INT64)], [value("y", [4, 3])], [networks.weight("w", 6, 3)]
    )
    model = dlcomp.load(network)
    assert_equal(model, {"i": np.array([0, -1, 5, -6])})
    far = run(model, {"i": np.array([10**12, -(10**12), 6, 0])})[0]
    assert np.isfinite(far).all()


def test_operator_table_is_that_of_tvm() -> None:
    from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

    # AllClassNMS is an operator of no domain that ONNX or onnxruntime define.
    assert (STANDARD | CONTRIB) - {"If"} == set(_get_convert_map()) - {"AllClassNMS"}
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert known >= STANDARD


def test_model_prints_itself() -> None:
    text = str(dlcomp.load(networks.cnn()))
    conv = 8 * 8 * 8 * 27 + 8 * 8 * 8 * 9 + 4 * 4 * 12 * 8 + 12 * 5
    assert "Model net" in text
    assert "x: float32[1, 3, 16, 16]" in text
    assert "y: float32[1, 5]" in text
    assert f"{conv / 1000:.3g} kMACs" in text
    assert "nn.conv2d" in text
    assert "import()" in text


@pytest.mark.parametrize("opset", [11, 17])
def test_onnxruntime_is_not_needed(tmp_path: Path, opset: int) -> None:
    """Shapes fold without it as well."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('hidden by a test')")
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["y"]),
    ]
    weights = [networks.constant("first", [0], "int64"), networks.constant("rest", [-1], "int64")]
    network = networks.model(nodes, [value("x", ["N", 3, 4])], [value("y", ["N", 12])], weights, opset=opset)
    onnx.save(network, tmp_path / "net.onnx")
    code = "import sys, dlcomp; m = dlcomp.load(sys.argv[1], {'x': (2, 3, 4)}); print(m.signature.outputs[0])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "net.onnx")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "y: float32[2, 12]\n"
    assert done.stderr == ""


def test_large_folds_are_left_alone() -> None:
    nodes = [node("ConstantOfShape", ["dims"], ["big"], name="fill"), node("Slice", ["big", "a", "b"], ["y"])]
    numbers = {"dims": [2**29], "a": [0], "b": [4]}
    weights = [networks.constant(name, numbers[name], "int64") for name in numbers]
    network = networks.model(nodes, [value("x", [1])], [value("y", [4])], weights)
    assert {n.op_type for n in simplify(network).graph.node} >= {"ConstantOfShape"}
    assert "R.full" in dlcomp.load(network).module["main"].script()
