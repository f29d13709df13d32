"""Programs over sequences of known length, against onnxruntime."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import dlcomp
from dlcomp.errors import ModelError

node, value, constant = helper.make_node, networks.value, networks.constant


def check(network: Any) -> None:
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(network.SerializeToString())
    feed = {i.name: rng.standard_normal(i.shape).astype("float32") for i in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    found = dlcomp.load(network).compile().run(feed)
    for name, right in zip(names, session.run(names, feed), strict=True):
        np.testing.assert_allclose(found[name], right, rtol=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_programs(data: st.DataObject) -> None:
    """Elements of their own sizes put in, taken out and joined, by positions from both ends."""
    stored = []
    nodes = [node("SequenceConstruct", ["a", "b"], ["s0"])]
    length, current = 2, "s0"

    def position(most: int) -> str:
        place = data.draw(st.integers(-most, most - 1)) if most else 0
        stored.append(constant(f"p{len(stored)}", place, "int64"))
        return stored[-1].name

    for step in range(data.draw(st.integers(0, 5))):
        operator = data.draw(st.sampled_from(["SequenceInsert", "SequenceErase", "Insert at"]))
        new = f"t{step}"
        if operator == "SequenceErase" and length > 1:
            nodes.append(node("SequenceErase", [current, position(length)], [new]))
            length -= 1
        elif operator == "Insert at":
            nodes.append(node("SequenceInsert", [current, "b", position(length)], [new]))
            length += 1
        else:
            nodes.append(node("SequenceInsert", [current, "a"], [new]))
            length += 1
        current = new
    nodes.append(node("SequenceAt", [current, position(length)], ["y"]))
    nodes.append(node("ConcatFromSequence", [current], ["z"], axis=0))
    nodes.append(node("SequenceLength", [current], ["n"]))
    outputs = [value("y", None), value("z", None), value("n", [], TensorProto.INT64)]
    check(networks.model(nodes, [value("a", [2, 3]), value("b", [4, 3])], outputs, stored))


@pytest.mark.parametrize(("keep", "split"), [(0, None), (1, None), (1, 2), (1, [1, 4])])
def test_split_and_stack(keep: int, split: Any) -> None:
    stored = [] if split is None else [constant("split", split, "int64")]
    operands = ["x", *(["split"] if stored else [])]
    nodes = [
        node("SplitToSequence", operands, ["s"], axis=1, keepdims=keep),
        node("SequenceAt", ["s", "last"], ["y"]),
        node("SequenceLength", ["s"], ["n"]),
    ]
    outputs = [value("y", None), value("n", [], TensorProto.INT64)]
    if split is None:
        nodes.append(node("ConcatFromSequence", ["s"], ["z"], axis=-1, new_axis=1))
        outputs.append(value("z", None))
    stored.append(constant("last", -1, "int64"))
    check(networks.model(nodes, [value("x", [3, 5, 2])], outputs, stored))


def test_map_over_two_sequences() -> None:
    body = helper.make_graph(
        [node("Mul", ["p", "q"], ["r"]), node("Add", ["r", "k"], ["t"])],
        "body",
        [value(name, None) for name in "pqk"],
        [value("t", None)],
    )
    nodes = [
        node("SequenceConstruct", ["a", "b"], ["s"]),
        node("SequenceConstruct", ["b", "a"], ["u"]),
        node("SequenceMap", ["s", "u", "a"], ["m"], body=body),
        node("ConcatFromSequence", ["m"], ["y"], axis=0),
    ]
    check(networks.model(nodes, [value("a", [2, 3]), value("b", [2, 3])], [value("y", None)]))


def test_a_position_that_the_run_decides_is_refused_by_name() -> None:
    nodes = [node("SequenceConstruct", ["a", "a"], ["s"]), node("SequenceAt", ["s", "p"], ["y"], name="pick")]
    inputs = [value("a", [2]), value("p", [], TensorProto.INT64)]
    with pytest.raises(ModelError, match="SequenceAt"):
        dlcomp.load(networks.model(nodes, inputs, [value("y", [2])]))
