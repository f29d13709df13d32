"""Symbolic dimensions are bound by what the user says, and by nothing else."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
from onnx import helper

import dlcomp
from dlcomp.errors import UsageError

value = networks.value


def two_inputs() -> Any:
    """a (N, 3) + b (N, K)."""
    node = helper.make_node("Add", ["a", "b"], ["y"])
    return networks.model([node], [value("a", ["N", 3]), value("b", ["N", "K"])], [value("y", ["N", 3])])


def test_bound_by_input_name() -> None:
    model = dlcomp.load(networks.relu(["N", 4]), {"x": (3, 4)})
    assert model.signature.inputs[0].shape == (3, 4)
    assert model.signature.outputs[0].shape == (3, 4)
    assert model.source is not None
    assert [d.dim_value for d in model.source.graph.input[0].type.tensor_type.shape.dim] == [3, 4]


@pytest.mark.parametrize("shape", [[3, 4], (np.int64(3), 4), np.array([3, 4])])
def test_any_sequence_of_integers(shape: Any) -> None:
    assert dlcomp.load(networks.relu(["N", 4]), {"x": shape}).signature.inputs[0].shape == (3, 4)


def test_symbol_shared_by_inputs_is_bound_everywhere() -> None:
    model = dlcomp.load(two_inputs(), {"b": (5, 1)})
    assert [spec.shape for spec in model.signature.inputs] == [(5, 3), (5, 1)]


def test_symbol_with_two_sizes() -> None:
    with pytest.raises(UsageError, match=r"'N' is 2 in input 'a' and 4 in 'b'"):
        dlcomp.load(two_inputs(), {"a": (2, 3), "b": (4, 3)})


def test_question_marks_are_not_one_symbol() -> None:
    model = dlcomp.load(networks.relu(["?", "?"]), {"x": (2, 5)})
    assert model.signature.inputs[0].shape == (2, 5)


@pytest.mark.parametrize("unknown", [-1, 0])
def test_negative_and_zero_in_the_file_mean_unknown(unknown: int) -> None:
    network = networks.relu([unknown, 4])
    assert dlcomp.load(network).signature.inputs[0].shape == ("x_0", 4)
    assert dlcomp.load(network, {"x": (2, 4)}).signature.outputs[0].shape == (2, 4)


def test_unbound_symbols_stay_open() -> None:
    model = dlcomp.load(two_inputs())
    assert [spec.shape for spec in model.signature.inputs] == [("N", 3), ("N", "K")]


def test_names_leave_dimensions_open() -> None:
    model = dlcomp.load(two_inputs(), {"a": ("batch", 3), "b": ("batch", 1)})
    assert [spec.shape for spec in model.signature.inputs] == [("batch", 3), ("batch", 1)]


def test_unknown_ranks_name_inputs_and_flag() -> None:
    network = networks.relu(["N", 4])
    network.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match="unknown rank: 'x'") as caught:
        dlcomp.load(network)
    assert "--shape x:" in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_rank_needs_a_shape() -> None:
    network = networks.relu()
    network.graph.input[0].type.tensor_type.ClearField("shape")
    network.graph.input[0].type.tensor_type.shape.SetInParent()
    with pytest.raises(UsageError, match="got 2 dimensions"):
        dlcomp.load(network, {"x": (1, 4)})


def test_unknown_input_suggests_near_names() -> None:
    node = helper.make_node("Add", ["input_ids", "mask"], ["y"])
    inputs = [value("input_ids", ["N"]), value("mask", ["N"])]
    network = networks.model([node], inputs, [value("y", ["N"])])
    with pytest.raises(UsageError, match="no input 'inputs_id'") as caught:
        dlcomp.load(network, {"inputs_id": (1,)})
    assert "'input_ids'" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((3,), "got 1 dimensions"),
        ((3, 4, 1), "got 3 dimensions"),
        ((3, 5), "dimension 1 is 4 in the model, got 5"),
        ((-2, 4), "no dimension can be negative"),
        ((1.5, 4), "sequence of integers"),
        ("34", "sequence of integers"),
        (("", 4), "sequence of integers"),
        (("3", 4), "sequence of integers"),
        (7, "sequence of integers"),
        (None, "sequence of integers"),
    ],
)
def test_wrong_shapes(shape: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        dlcomp.load(networks.relu(["N", 4]), {"x": shape})


def test_initializers_listed_as_inputs_are_not_inputs() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = [value("x", ["N", 4]), value("w", [4, 3])]
    weights = [networks.weight("w", 4, 3)]
    network = networks.model([node], inputs, [value("y", ["N", 3])], weights, opset=8, ir_version=3)
    model = dlcomp.load(network, {"x": (2, 4)})
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    with pytest.raises(UsageError, match="no input 'w'"):
        dlcomp.load(network, {"x": (2, 4), "w": (4, 3)})
