"""Broken networks are refused with the node or tensor that is wrong."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import dlcomp
from dlcomp.errors import ModelError

node, value, model = helper.make_node, networks.value, networks.model
constant = networks.constant


def refused(network: onnx.ModelProto, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        dlcomp.load(network)
    assert len(caught.value.message) < 700
    assert "Traceback" not in str(caught.value)


def test_misspelt_operator_names_the_node() -> None:
    network = model([node("Reluu", ["x"], ["y"], name="act7")], [value("x", [1])], [value("y", [1])])
    refused(network, r"No Op registered for Reluu.*act7")


def test_opset_from_the_future() -> None:
    network = networks.relu(opset=1000)
    with pytest.raises(ModelError, match="opset 1000"):
        dlcomp.load(network)


def test_operands_that_do_not_fit_name_the_node() -> None:
    nodes = [node("MatMul", ["x", "x"], ["y"], name="mm")]
    refused(model(nodes, [value("x", [2, 3])], [value("y", None)]), "Field 'shape'|MatMul")
    refused(model(nodes, [value("x", [2, 3])], [value("y", [2, 3])]), r"MatMul, node name: mm")


def test_wrong_operand_type_names_the_node() -> None:
    nodes = [node("Add", ["x", "i"], ["y"], name="sum")]
    inputs = [value("x", [2]), value("i", [2], TensorProto.INT64)]
    refused(model(nodes, inputs, [value("y", [2])]), "sum")


def test_nodes_out_of_order() -> None:
    nodes = [node("Relu", ["a"], ["y"], name="late"), node("Relu", ["x"], ["a"])]
    refused(model(nodes, [value("x", [1])], [value("y", [1])]), r"topologically sorted.*'a'")


def test_no_outputs() -> None:
    network = networks.relu()
    del network.graph.output[:]
    refused(network, "no outputs")


def test_output_that_nothing_makes() -> None:
    network = networks.relu()
    network.graph.output[0].name = "nowhere"
    refused(network, "nowhere")


@pytest.mark.parametrize("damage", ["short", "negative", "reshaped", "dtype"])
def test_weight_that_contradicts_its_data(damage: str) -> None:
    network = networks.cnn()
    tensor = network.graph.initializer[0]
    if damage == "short":
        tensor.raw_data = tensor.raw_data[:-4]
    elif damage == "negative":
        tensor.dims[0] = -1
    elif damage == "reshaped":
        tensor.dims[0] = 2**40
    else:
        tensor.data_type = TensorProto.DOUBLE
    refused(network, "tensor 'w1'")


@pytest.mark.parametrize("dtype", [TensorProto.COMPLEX64, TensorProto.COMPLEX128])
def test_inputs_that_are_not_numbers(dtype: int) -> None:
    network = model([node("Identity", ["x"], ["y"])], [value("x", [1], dtype)], [value("y", [1], dtype)])
    refused(network, "input 'x' holds")


def test_sequence_input() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [2])
    network = model([node("SequenceLength", ["x"], ["y"])], [sequence], [value("y", [], TensorProto.INT64)])
    refused(network, "input 'x' is not a tensor")


@pytest.mark.parametrize(
    ("name", "attribute", "number", "reason"),
    [
        ("conv1", "kernel_shape", 2, "kernel_shape"),
        ("pool", "strides", 0, "must only contain positive values"),
        ("flatten", "axis", 2**40, "out of range"),
        ("dense", "transB", 7, "must be 0 or 1"),
    ],
)
def test_attributes_that_onnx_lets_pass(name: str, attribute: str, number: int, reason: str) -> None:
    network = networks.cnn()
    found = next(n for n in network.graph.node if n.name == name)
    entry = next(a for a in found.attribute if a.name == attribute)
    if entry.ints:
        entry.ints[0] = number
    else:
        entry.i = number
    refused(network, f"{name}.*{reason}")


def test_zero_point_of_another_shape() -> None:
    network = networks.quantized()
    for tensor in network.graph.initializer:
        if tensor.name == "zw":
            del tensor.dims[:]
            tensor.dims.extend([4, 1])
    refused(network, "dequantize_w")


def test_unsupported_operators_come_all_at_once() -> None:
    nodes = [
        node("RandomNormalLike", ["x"], ["d"], name="noise1"),
        node("RandomUniformLike", ["x"], ["b"], name="coin"),
        node("RandomNormalLike", ["x"], ["e"], name="noise2"),
        node("Fancy", ["x"], ["f"], name="magic", domain="my.ops"),
        node("Relu", ["x"], ["y"]),
    ]
    outputs = [
        value("d", [2, 2]),
        value("b", [2, 2]),
        value("e", [2, 2]),
        value("f", [2, 2]),
        value("y", [2, 2]),
    ]
    network = model(nodes, [value("x", [2, 2])], outputs, my_ops=1)
    with pytest.raises(ModelError, match="unsupported operators") as caught:
        dlcomp.load(network)
    text = str(caught.value)
    for part in (
        "2 RandomNormalLike (noise1, noise2)",
        "1 RandomUniformLike (coin)",
        "1 my.ops::Fancy (magic)",
        "hint:",
    ):
        assert part in text
    assert "Relu" not in caught.value.message


def test_node_that_tvm_refuses_is_named_with_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [node("Reshape", ["x", "to"], ["y"], name="turn")]
    inputs = [value("x", [2, 3]), value("to", ["rank"], TensorProto.INT64)]
    with pytest.raises(ModelError, match=r"cannot import Reshape node 'turn' of x\[2, 3\]") as caught:
        dlcomp.load(model(nodes, inputs, [value("y", None)]))
    assert caught.value.__cause__ is not None
    assert capsys.readouterr().out == ""


def test_input_too_small_for_the_network() -> None:
    network = networks.cnn()
    network.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1
    refused(network, "a tensor is empty")


def test_window_larger_than_its_image() -> None:
    network = model(
        [node("Conv", ["x", "w"], ["y"], name="wide")],
        [value("x", [1, 2, 3, 3])],
        [value("y", None)],
        weights=[networks.weight("w", 2, 2, 5, 5)],
    )
    refused(network, "a tensor is empty")


def test_huge_tensors_are_refused() -> None:
    refused(networks.relu([2**20, 2**20]), "too large")


def test_an_output_with_a_wrong_rank_recorded() -> None:
    """As exporters write it; the network and what passes make of it load, with the shape that is true."""
    target = constant("shape", np.array([2, 3, 2]), "int64")
    reshaped = helper.make_node("Reshape", ["x", "shape"], ["y"])
    network = networks.model([reshaped], [value("x", [2, 6])], [value("y", [1, "q"])], [target])
    model = dlcomp.load(network)
    assert model.signature.outputs[0].shape == (2, 3, 2)
    x = np.arange(12, dtype="float32").reshape(2, 6)
    np.testing.assert_array_equal(model.compile().run({"x": x})["y"], x.reshape(2, 3, 2))
