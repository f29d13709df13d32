"""Open dimensions: one artifact, any size, against onnxruntime on the same network."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.errors import UsageError

value, weight, constant = networks.value, networks.weight, networks.constant
node = helper.make_node


class Both:
    """A network compiled once and its onnxruntime session."""

    def __init__(self, network: Any, shapes: Any = None) -> None:
        self.artifact = dlcomp.load(network, shapes).compile()
        self.session = onnxruntime.InferenceSession(network.SerializeToString())

    def check(self, **feed: np.ndarray) -> None:
        names = [output.name for output in self.session.get_outputs()]
        found = self.artifact.run(feed)
        for name, right in zip(names, self.session.run(names, feed), strict=True):
            assert found[name].shape == right.shape
            assert found[name].dtype == right.dtype
            real = right.size and right.dtype.kind == "f"
            atol = 2e-6 * max(1, np.abs(right).max()) + 1e-5 * np.ptp(right) if real else 0
            np.testing.assert_allclose(found[name], right, rtol=0, atol=atol)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def image_network(channels: int) -> Any:
    """Convolutions of all kinds, pooling, squeeze-and-excitation, two scales joined, and a classifier."""
    c = channels
    nodes = [
        node("Conv", ["x", "w1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("HardSwish", ["a"], ["b"]),
        node("Conv", ["b", "w2", "b2"], ["d"], group=c, pads=[2, 2, 2, 2]),
        node("GlobalAveragePool", ["d"], ["g"]),
        node("Conv", ["g", "w3"], ["s"]),
        node("Sigmoid", ["s"], ["t"]),
        node("Mul", ["d", "t"], ["e"]),
        node("Add", ["e", "b"], ["f"]),
        node("MaxPool", ["f"], ["small"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=0),
        node("Conv", ["small", "w4"], ["h"], pads=[1, 1, 1, 1]),
        node("Resize", ["h", "", "scales"], ["big"], mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric"),
        node("Slice", ["f", "zeros", "evened", "axes"], ["even"]),
        node("Concat", ["big", "even"], ["joined"], axis=1),
        node("Conv", ["joined", "w5"], ["maps"], group=2),
        node("Transpose", ["maps"], ["last"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["last"], ["vector"], axes=[1, 2], keepdims=0),
        node("Gemm", ["vector", "w6"], ["y"]),
        # The even part of the image: twice the size of what the pooling left.
        node("Shape", ["small"], ["shape"]),
        node("Slice", ["shape", "two", "four"], ["half"]),
        node("Mul", ["half", "double"], ["evened"]),
    ]  # fmt: skip
    order = [*nodes[:9], *nodes[17:], *nodes[9:17]]
    weights = [
        weight("w1", c, 3, 3, 3), weight("w2", c, 1, 5, 5), weight("b2", c), weight("w3", c, c, 1, 1),
        weight("w4", c, c, 3, 3), weight("w5", 2 * c, c, 1, 1), weight("w6", 2 * c, 5),
        constant("scales", [1, 1, 2, 2], "float32"), constant("zeros", [0, 0], "int64"),
        constant("axes", [2, 3], "int64"), constant("two", [2], "int64"), constant("four", [4], "int64"),
        constant("double", [2, 2], "int64"),
    ]  # fmt: skip
    return networks.model(
        order, [value("x", ["n", 3, "h", "w"])], [value("maps", None), value("y", ["n", 5])], weights
    )


@pytest.fixture(scope="module", params=[8, 20])
def images(request: pytest.FixtureRequest) -> Both:
    return Both(image_network(request.param))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(3, 70), st.integers(3, 70))
def test_images_of_any_size(images: Both, n: int, h: int, w: int) -> None:
    images.check(x=normal(n, 3, h, w))


def test_open_artifact_equals_the_one_for_a_size() -> None:
    network = image_network(8)
    x = normal(2, 3, 33, 47)
    left = dlcomp.load(network).compile().run({"x": x})
    right = dlcomp.load(network, {"x": x.shape}).compile(winograd=False).run({"x": x})
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=0, atol=1e-5 * np.ptp(array))


def attention_network(width: int = 24, heads: int = 3) -> Any:
    """An encoder layer as exporters write it: shapes computed in the graph, a mask, a residual."""
    part = width // heads
    nodes = [
        node("Gather", ["table", "ids"], ["x"]),
        node("Shape", ["ids"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Gather", ["shape", "one"], ["s"], axis=0),
        node("Unsqueeze", ["n", "front"], ["n1"]),
        node("Unsqueeze", ["s", "front"], ["s1"]),
        node("Range", ["zero", "s", "one"], ["steps"]),
        node("Gather", ["positions", "steps"], ["p"]),
        node("Add", ["x", "p"], ["h"]),
        node("Concat", ["n1", "s1", "heads", "part"], ["split"], axis=0),
        node("Concat", ["n1", "s1", "width"], ["joined"], axis=0),
    ]
    for name in "qkv":
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", ["h", f"w{name}"], [f"{name}0"]),
            node("Reshape", [f"{name}0", "split"], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [f"{name}2"], perm=order),
        ]
    nodes += [
        node("MatMul", ["q2", "k2"], ["scores"]),
        node("Unsqueeze", ["mask", "middle"], ["m1"]),
        node("Concat", ["n1", "ones", "s1", "s1"], ["square"], axis=0),
        node("Expand", ["m1", "square"], ["m2"]),
        node("Cast", ["m2"], ["m3"], to=TensorProto.BOOL),
        node("Where", ["m3", "scores", "low"], ["masked"]),
        node("Softmax", ["masked"], ["share"], axis=-1),
        node("MatMul", ["share", "v2"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "joined"], ["flat"]),
        node("Add", ["flat", "h"], ["y"]),
        node("Reshape", ["y", "rows"], ["rows_of_all"]),
    ]
    weights = [
        weight("table", 50, width), weight("positions", 64, width), weight("wq", width, width),
        weight("wk", width, width), weight("wv", width, width), constant("zero", 0, "int64"),
        constant("one", 1, "int64"), constant("front", [0], "int64"), constant("middle", [1, 2], "int64"),
        constant("heads", [heads], "int64"), constant("part", [part], "int64"),
        constant("width", [width], "int64"), constant("ones", [1], "int64"),
        constant("low", -1e9, "float32"), constant("rows", [-1, width], "int64"),
    ]  # fmt: skip
    inputs = [value("ids", ["batch", "sequence"], TensorProto.INT64)]
    inputs.append(value("mask", ["batch", "sequence"], TensorProto.INT64))
    return networks.model(nodes, inputs, [value("y", None), value("rows_of_all", None)], weights)


@pytest.fixture(scope="module")
def texts() -> Both:
    return Both(attention_network())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 64))
def test_texts_of_any_length(texts: Both, n: int, s: int) -> None:
    rng = np.random.default_rng(n * 100 + s)
    mask = np.ones((n, s), np.int64)
    mask[:, s // 2 + 1 :] = 0
    texts.check(ids=rng.integers(0, 50, (n, s)), mask=mask)


def test_one_open_dimension_of_several() -> None:
    both = Both(attention_network(), {"ids": (2, "length"), "mask": (2, "length")})
    assert both.artifact.signature.inputs[0].shape == (2, "length")
    both.check(ids=np.zeros((2, 9), np.int64), mask=np.ones((2, 9), np.int64))
    with pytest.raises(UsageError, match=r"shape \(3, 9\)"):
        both.artifact.run({"ids": np.zeros((3, 9), np.int64), "mask": np.ones((3, 9), np.int64)})


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_sequences_of_any_length(kind: str) -> None:
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * 9
    stored = [weight("w", 2, rows, 5), weight("r", 2, rows, 9), weight("b", 2, 2 * rows)]
    layer = node(kind, ["x", "w", "r", "b"], ["y", "y_h"], hidden_size=9, direction="bidirectional")
    both = Both(
        networks.model([layer], [value("x", ["t", "n", 5])], [value("y", None), value("y_h", None)], stored)
    )
    for steps, batch in ((1, 1), (7, 2), (30, 5)):
        both.check(x=normal(steps, batch, 5))


def test_save_and_open(tmp_path: Any) -> None:
    artifact = dlcomp.load(image_network(8)).compile()
    path = artifact.save(tmp_path / "open.dlc")
    opened = dlcomp.open(path)
    assert opened.signature == artifact.signature
    x = normal(1, 3, 20, 31)
    for name, array in artifact.run({"x": x}).items():
        np.testing.assert_array_equal(array, opened.run({"x": x})[name])


def test_dimensions_that_must_be_equal_are_checked() -> None:
    add = networks.model(
        [node("Add", ["a", "b"], ["y"])],
        [value("a", ["n", 4]), value("b", ["m", 4])],
        [value("y", ["k", 4])],
    )
    artifact = dlcomp.load(add).compile()
    np.testing.assert_array_equal(
        artifact.run({"a": np.ones((3, 4), "float32"), "b": np.ones((3, 4), "float32")})["y"],
        np.full((3, 4), 2, "float32"),
    )
    with pytest.raises(UsageError, match="cannot run on inputs of these sizes"):
        artifact.run({"a": np.ones((2, 4), "float32"), "b": np.ones((3, 4), "float32")})


def test_a_name_has_one_size() -> None:
    network = networks.model(
        [node("Add", ["a", "b"], ["y"])],
        [value("a", ["n", 4]), value("b", ["n", 4])],
        [value("y", ["n", 4])],
    )
    artifact = dlcomp.load(network).compile()
    with pytest.raises(UsageError, match="n = 2"):
        artifact.run({"a": np.ones((2, 4), "float32"), "b": np.ones((3, 4), "float32")})


@pytest.mark.parametrize(
    ("operator", "inputs", "feed"),
    [
        ("NonZero", [("x", ["n", "m"], TensorProto.FLOAT)], {"x": np.eye(4, 6, dtype="float32")}),
        (
            "Compress",
            [("x", [5, "m"], TensorProto.FLOAT), ("c", [5], TensorProto.BOOL)],
            {"x": normal(5, 3), "c": np.array([1, 0, 0, 1, 1], bool)},
        ),
        ("Unique", [("x", ["n"], TensorProto.INT64)], {"x": np.array([3, 1, 3, 2, 1])}),
        (
            "Range",
            [(name, [], TensorProto.INT64) for name in "abc"],
            {"a": np.array(2), "b": np.array(20), "c": np.array(3)},
        ),
        (
            "TopK",
            [("x", [2, 9], TensorProto.FLOAT), ("k", [1], TensorProto.INT64)],
            {"x": normal(2, 9), "k": np.array([4])},
        ),
        (
            "Reshape",
            [("x", ["n", 6], TensorProto.FLOAT), ("s", [3], TensorProto.INT64)],
            {"x": normal(4, 6), "s": np.array([2, -1, 3])},
        ),
    ],
)
def test_sizes_that_the_data_decide(operator: str, inputs: Any, feed: dict[str, np.ndarray]) -> None:
    """The result goes on into compiled code, which takes any size."""
    count = {"Unique": 1, "TopK": 2}.get(operator, 1)
    results = ["r", "i"][:count]
    nodes = [node(operator, [name for name, _, _ in inputs], results), node("Add", ["r", "r"], ["y"])]
    network = networks.model(nodes, [value(*given) for given in inputs], [value("y", None, 0)])
    kind = TensorProto.FLOAT if feed[inputs[0][0]].dtype == np.float32 and operator != "NonZero" else 7
    network.graph.output[0].type.tensor_type.elem_type = kind
    Both(network).check(**feed)


def random_boxes(count: int, seed: int) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(0, 1, (1, count, 4)).astype("float32")
    return corners


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_non_maximum_suppression_of_many_boxes(centred: int, threshold: float) -> None:
    names = ["boxes", "scores", "most", "iou", "least"]
    layer = node("NonMaxSuppression", names, ["y"], center_point_box=centred)
    stored = [
        numpy_helper.from_array(np.array([50], np.int64), "most"),
        numpy_helper.from_array(np.array([threshold], np.float32), "iou"),
        numpy_helper.from_array(np.array([0.2], np.float32), "least"),
    ]
    inputs = [value("boxes", [1, "n", 4]), value("scores", [1, 3, "n"])]
    both = Both(networks.model([layer], inputs, [value("y", ["k", 3], TensorProto.INT64)], stored))
    for count in (1, 40, 500):
        scores = np.random.default_rng(count).uniform(0, 1, (1, 3, count)).astype("float32")
        both.check(boxes=random_boxes(count, count), scores=scores)


@pytest.mark.parametrize("go", [True, False])
def test_a_branch_that_the_run_takes(go: bool) -> None:
    then = helper.make_graph([node("Relu", ["x"], ["t"])], "then", [], [value("t", [4])])
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [value("e", [4])])
    branch = node("If", ["go"], ["y"], then_branch=then, else_branch=other)
    network = networks.model(
        [branch], [value("go", [], TensorProto.BOOL), value("x", [4])], [value("y", [4])]
    )
    Both(network).check(go=np.array(go), x=normal(4))


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_loop_whose_turns_the_run_counts(turns: int) -> None:
    body = helper.make_graph(
        [
            node("Add", ["state", "x"], ["next"]),
            node("Identity", ["go_in"], ["go_out"]),
            node("Identity", ["next"], ["shown"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go_in", [], TensorProto.BOOL), value("state", [3])],
        [value("go_out", [], TensorProto.BOOL), value("next", [3]), value("shown", [3])],
    )
    loop = node("Loop", ["count", "", "x"], ["last", "all"], body=body)
    network = networks.model(
        [loop, node("Relu", ["last"], ["y"])],
        [value("count", [], TensorProto.INT64), value("x", [3])],
        [value("y", [3]), value("all", None)],
    )
    Both(network).check(count=np.array(turns), x=normal(3))


def test_operands_that_do_not_fit_are_the_users() -> None:
    network = networks.model(
        [node("Reshape", ["x", "s"], ["y"])],
        [value("x", [4, 6]), value("s", [2], TensorProto.INT64)],
        [value("y", ["a", "b"])],
    )
    artifact = dlcomp.load(network).compile()
    feed = {"x": np.zeros((4, 6), "float32"), "s": np.array([8, 3])}
    assert artifact.run(feed)["y"].shape == (8, 3)
    with pytest.raises(UsageError, match="Reshape"):
        artifact.run({**feed, "s": np.array([5, 5])})


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_shape_arithmetic_is_that_of_integers(data: st.DataObject) -> None:
    """Random programs over the elements of a shape, as a tensor: against onnxruntime for many sizes."""
    names, nodes = ["s"], [node("Shape", ["x"], ["s"])]
    stored = []
    for step in range(data.draw(st.integers(1, 5))):
        operator = data.draw(
            st.sampled_from(["Add", "Mul", "Div", "Gather", "Slice", "Concat", "Max", "Min"])
        )
        left, out = data.draw(st.sampled_from(names)), f"v{step}"
        if operator in ("Gather", "Slice"):
            # One element, so that it broadcasts with everything.
            bounds = [constant(f"{out}{p}", [v], "int64") for p, v in (("a", 0), ("b", 1), ("c", 0))]
            stored += bounds[: 1 if operator == "Gather" else 3]
            operands = [left, *(b.name for b in bounds[: 1 if operator == "Gather" else 3])]
            nodes.append(node(operator, operands, [out]))
        elif operator == "Concat":
            nodes.append(node("Gather", [left, f"{out}i"], [f"{out}g"]))
            stored.append(constant(f"{out}i", [0, 0], "int64"))
            nodes.append(node("Concat", [f"{out}g", f"{out}g"], [f"{out}c"], axis=0))
            nodes.append(node("ReduceSum", [f"{out}c"], [out], keepdims=1))
        else:
            number = data.draw(st.integers(1, 5))
            stored.append(constant(f"{out}n", [number], "int64"))
            nodes.append(node(operator, [left, f"{out}n"], [out]))
        names.append(out)
    network = networks.model(
        nodes, [value("x", ["h", "w"])], [value(names[-1], None, TensorProto.INT64)], stored
    )
    both = Both(network)
    for h, w in ((1, 1), (5, 3), (64, 17)):
        both.check(x=normal(h, w))


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "int64"])
def test_shapes_as_numbers(kind: str) -> None:
    """Sizes that are open, known ones, and numbers that are no sizes, as data of one tensor."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["c"], to=element),
        node("Concat", ["c", "k"], ["y"], axis=0),
    ]
    stored = [constant("k", [2.5, -0.25, 7], kind)]
    network = networks.model(nodes, [value("x", ["n", 3, "m"])], [value("y", [6], element)], stored)
    both = Both(network)
    for n, m in ((1, 4), (5, 2)):
        both.check(x=normal(n, 3, m))
