"""Padding, pooling, convolution, resizing and cutting of images of open size, by the definition of ONNX."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference
from test_open_shapes import Both, constant, node, normal, value, weight

import dlcomp
from dlcomp.errors import UsageError

SIZES = ((7, 9), (8, 8), (13, 6), (6, 17))


def network_of(made: Any, inputs: list[Any], stored: list[Any]) -> Any:
    outputs = [helper.make_empty_tensor_value_info(name) for name in made.output]
    return shape_inference.infer_shapes(networks.model([made], inputs, outputs, stored, opset=18))


def of_image(operator: str, *stored: Any, sizes: Any = SIZES, **attributes: Any) -> None:
    """``operator`` on images of four sizes, by one artifact; ``stored`` are its further operands."""
    names = [f"c{i}" if array is not None else "" for i, array in enumerate(stored)]
    held = [numpy_helper.from_array(a, n) for a, n in zip(stored, names, strict=True) if a is not None]
    made = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    network = network_of(made, [networks.value("x", [1, 4, "h", "w"])], held)
    both = Both(network)
    for size in sizes:
        both.check(x=normal(1, 4, *size))


WINDOWS: dict[str, Any] = {
    "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
}


@settings(max_examples=12, deadline=None)
@given(**WINDOWS, auto=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), group=st.sampled_from([1, 4]))
def test_convolutions_that_pad_themselves(kernel: Any, stride: Any, auto: str, group: int) -> None:
    weight = normal(8, 4 // group, *kernel)
    of_image("Conv", weight, normal(8), strides=stride, auto_pad=auto, group=group)


@settings(max_examples=12, deadline=None)
@given(
    **WINDOWS,
    operator=st.sampled_from(["MaxPool", "AveragePool"]),
    form=st.sampled_from([{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"ceil_mode": 1}]),
)
def test_pooling_that_pads_itself(operator: str, kernel: Any, stride: Any, form: Any) -> None:
    # With gaps between the windows onnxruntime finds negative padding and stops.
    strides = [min(pair) for pair in zip(kernel, stride, strict=True)]
    of_image(operator, kernel_shape=kernel, strides=strides, **form)


@settings(max_examples=12, deadline=None)
@given(
    mode=st.sampled_from(["constant", "edge", "reflect"]),
    widths=st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
def test_padding(mode: str, widths: list[int]) -> None:
    pads = np.array([0, 1, *widths[:2], 0, 0, *widths[2:]], "int64")
    filling = np.float32(1.5) if mode == "constant" else None
    of_image("Pad", pads, filling if filling is None else np.asarray(filling), mode=mode)


@pytest.mark.parametrize("pads", [(-2, 1, 3, -1), (0, -3, 0, 0), (-1, -1, -1, -1)])
def test_padding_that_cuts_off(pads: tuple[int, ...]) -> None:
    of_image("Pad", np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], "int64"))


@settings(max_examples=25, deadline=None)
@given(
    start=st.sampled_from([0, 1, 5, 100, 2**62, -1, -3, -100, -(2**62)]),
    end=st.sampled_from([0, 2, 5, 100, 2**62, -1, -2, -100, -(2**62)]),
    step=st.sampled_from([1, 2, 3, -1, -2, -3]),
)
def test_cuts(start: int, end: int, step: int) -> None:
    bounds = [np.array([v], "int64") for v in (start, end, 2, step)]
    of_image("Slice", *bounds, sizes=(*SIZES, (1, 3), (0, 3)))


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 2), (3, 1), (0.5, 0.5), (1.5, 2.5)])
def test_resizing(mode: str, coordinates: str, scales: tuple[float, float]) -> None:
    if mode == "linear" and scales == (0.5, 0.5) and coordinates == "align_corners":
        sizes: Any = ((8, 8), (6, 16))
    else:
        sizes = SIZES
    factors = np.array([1, 1, *scales], "float32")
    of_image("Resize", None, factors, sizes=sizes, mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("indices", [[0, -1], [[-2, 1], [3, -4]], -1])
@pytest.mark.parametrize("axis", [2, -1])
def test_places_counted_from_an_open_end(indices: Any, axis: int) -> None:
    of_image("Gather", np.array(indices, "int64"), axis=axis)


@pytest.mark.parametrize("count", [2, 3])
def test_an_axis_in_parts(count: int) -> None:
    made = helper.make_node("Split", ["x"], [f"y{i}" for i in range(count)], axis=1, num_outputs=count)
    network = network_of(made, [networks.value("x", [2, "n"])], [])
    both = Both(network)
    for size in (5, 6, 11):
        both.check(x=normal(2, size))


def test_parts_say_what_an_open_dimension_is() -> None:
    made = helper.make_node("Split", ["x", "parts"], ["a", "b"], axis=1)
    parts = numpy_helper.from_array(np.array([2, 3]), "parts")
    artifact = dlcomp.load(network_of(made, [networks.value("x", [2, "n"])], [parts])).compile()
    assert artifact.run({"x": normal(2, 5)})["b"].shape == (2, 3)
    with pytest.raises(UsageError, match="cannot run on inputs of these sizes"):
        artifact.run({"x": normal(2, 6)})


@pytest.mark.parametrize(
    "operator", ["Sum", "SumSquare", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp"]
)
@pytest.mark.parametrize(
    ("shape", "axes"), [([3, "n"], [1]), (["n", 16, "m"], [0, 2]), ([1, "n", 16], [1, 2])]
)
def test_reductions_of_open_axes(operator: str, shape: list[Any], axes: list[int]) -> None:
    stored = numpy_helper.from_array(np.array(axes), "axes")
    made = helper.make_node(f"Reduce{operator}", ["x", "axes"], ["y"], keepdims=0)
    both = Both(network_of(made, [networks.value("x", shape)], [stored]))
    for open_size in (1, 5, 40):
        both.check(x=normal(*(open_size if isinstance(d, str) else d for d in shape)))
    nothing = np.zeros([0 if isinstance(d, str) else d for d in shape], "float32")
    function: Any = {"Sum": np.sum, "Prod": np.prod, "Mean": np.mean}.get(operator)
    found = both.artifact.run({"x": nothing})["y"]
    if function is not None:
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(found, function(nothing, axis=tuple(axes)))
    else:
        starts = {"Max": -np.inf, "Min": np.inf, "LogSumExp": -np.inf}
        np.testing.assert_array_equal(found, np.full(found.shape, starts.get(operator, 0.0), "float32"))


def test_scattered_rows_of_open_length() -> None:
    indices = numpy_helper.from_array(np.array([[2], [0]]), "i")
    inputs = [networks.value("x", [4, "n"]), networks.value("u", [2, "m"])]
    made = helper.make_node("ScatterND", ["x", "i", "u"], ["y"])
    both = Both(network_of(made, inputs, [indices]))
    for size in (1, 3, 8):
        both.check(x=normal(4, size), u=normal(2, size))


@pytest.mark.parametrize("given", [1, 3])
def test_expansion_shows_at_run_time(given: int) -> None:
    wanted = numpy_helper.from_array(np.array([2, 3, 4]), "s")
    made = helper.make_node("Expand", ["x", "s"], ["y"])
    both = Both(network_of(made, [networks.value("x", ["n", 1])], [wanted]))
    both.check(x=normal(given, 1))


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("opened", [False, True])
def test_sums_of_nothing(kind: str, opened: bool) -> None:
    """A product over no terms is zero, and the mean of nothing is no number, whatever else is open."""
    dims = ["n", 0] if opened else [3, 0]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    weight = numpy_helper.from_array(np.zeros((0, 4), kind), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["z"], axes=[1]),
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in "yz"]
    network = shape_inference.infer_shapes(
        networks.model(nodes, [networks.value("x", dims, element)], outputs, [weight], opset=17)
    )
    found = dlcomp.load(network, {"x": tuple(dims)}).compile().run({"x": np.zeros((3, 0), kind)})
    np.testing.assert_array_equal(found["y"], np.zeros((3, 4), kind))
    np.testing.assert_array_equal(found["z"], np.full((3, 1), np.nan, kind))


def test_positions_cut_to_the_length_of_the_text() -> None:
    """A table of learned positions, as far as the text goes, and a layer normalization of 64 values."""
    nodes = [
        node("Gather", ["table", "ids"], ["x"]),
        node("Shape", ["ids"], ["s"], start=1, end=2),
        node("Slice", ["positions", "zero", "s", "zero"], ["p"]),
        node("Add", ["x", "p"], ["h"]),
        node("LayerNormalization", ["h", "scale"], ["y"], axis=-1),
    ]
    weights = [
        weight("table", 50, 64), weight("positions", 40, 64), weight("scale", 64),
        constant("zero", [0], "int64"),
    ]  # fmt: skip
    ids = [value("ids", ["batch", "sequence"], TensorProto.INT64)]
    texts = Both(networks.model(nodes, ids, [value("y", None)], weights))
    for n, s in ((1, 1), (2, 17), (3, 40)):
        texts.check(ids=np.random.default_rng(s).integers(0, 50, (n, s)))
    with pytest.raises(UsageError, match="cannot run on inputs of these sizes"):
        texts.artifact.run({"ids": np.zeros((1, 41), np.int64)})


@pytest.mark.parametrize(("first", "last"), [("s", None), (None, "s"), ("less", None), (None, "less")])
def test_cuts_at_the_length_of_another_input(first: str | None, last: str | None) -> None:
    """From or up to the length of ``y``, or as many places from the end, which may be more than there are."""
    nodes = [
        node("Shape", ["y"], ["s"], start=0, end=1),
        node("Neg", ["s"], ["less"]),
        node("Slice", ["x", first or "zero", last or "end", "zero"], ["z"]),
    ]
    weights = [constant("zero", [0], "int64"), constant("end", [2**62], "int64")]
    both = Both(networks.model(nodes, [value("x", ["n", 3]), value("y", ["m"])], [value("z", None)], weights))
    for n in (1, 2, 5, 30):
        for m in (1, 2, 4, 5, 6, 40):
            both.check(x=normal(n, 3), y=normal(m))


def test_an_image_cut_to_the_height_of_another() -> None:
    """The check that both are then of one height is made on images as convolutions keep them."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Shape", ["y"], ["height"], start=2, end=3),
        node("Slice", ["a", "zero", "height", "two"], ["cut"]),
        node("Add", ["cut", "y"], ["z"]),
        node("Conv", ["z", "v"], ["out"]),
    ]
    weights = [
        weight("w", 8, 3, 3, 3), weight("v", 4, 8, 1, 1), constant("zero", [0], "int64"),
        constant("two", [2], "int64"),
    ]  # fmt: skip
    inputs = [value("x", ["n", 3, "h", "width"]), value("y", ["n", 8, "g", "width"])]
    both = Both(networks.model(nodes, inputs, [value("out", None)], weights))
    for h, g in ((5, 5), (9, 4)):
        both.check(x=normal(2, 3, h, 6), y=normal(2, 8, g, 6))
    with pytest.raises(UsageError, match="cannot run on inputs of these sizes"):
        both.artifact.run({"x": normal(2, 3, 4, 6), "y": normal(2, 8, 5, 6)})
