"""Whole files: names, open batches, sparse weights, what is refused, and what is damaged."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_file import File, agree, interpreted, tflite
from typer.testing import CliRunner

import dlcomp
from dlcomp.cli import app
from dlcomp.errors import DlcompError, ModelError
from dlcomp.frontend.read import read

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def mobile(file: File, batch: int = 1) -> int:
    """A small image network: convolutions, a residual, padding, pooling, a classifier of 5 classes."""
    f = file
    x = f.input(floats(batch, 12, 10, 3), shape=(-1 if batch > 1 else 1, 12, 10, 3))
    n = -1 if batch > 1 else 1
    a, d, s = f.tensor((n, 6, 5, 8)), f.tensor((n, 6, 5, 8)), f.tensor((n, 6, 5, 8))
    p, w, m, y = f.tensor((n, 3, 2, 8)), f.tensor((n, 3, 2, 12)), f.tensor((n, 12)), f.tensor((n, 5))
    z = f.tensor((n, 5))
    half = {"StrideH": 2, "StrideW": 2}
    same = {"StrideH": 1, "StrideW": 1}
    operands = [x, f.constant(floats(8, 3, 3, 3)), f.constant(floats(8))]
    f.op("CONV_2D", operands, a, options="Conv2DOptions", FusedActivationFunction=3, **half)
    operands = [a, f.constant(floats(1, 3, 3, 8)), f.constant(floats(8))]
    f.op("DEPTHWISE_CONV_2D", operands, d, options="DepthwiseConv2DOptions", DepthMultiplier=1, **same)
    f.op("ADD", [a, d], s, options="AddOptions", FusedActivationFunction=1)
    window = {"FilterHeight": 2, "FilterWidth": 2, "Padding": 1}
    f.op("MAX_POOL_2D", [s], p, options="Pool2DOptions", **half, **window)
    f.op("PAD", [p, f.constant([[0, 0], [0, 0], [0, 0], [0, 4]], "int32")], w)
    f.op("MEAN", [w, f.constant([1, 2], "int32")], m, options="ReducerOptions")
    operands = [m, f.constant(floats(5, 12)), f.constant(floats(5))]
    f.op("FULLY_CONNECTED", operands, y, options="FullyConnectedOptions")
    f.op("SOFTMAX", [y], z, options="SoftmaxOptions", Beta=1.0)
    return z


def small() -> bytes:
    """Two operators, for files that are to be broken."""
    f = File()
    a, y = f.tensor((1, 4, 4, 2)), f.tensor((1, 32))
    operands = [f.input(floats(1, 4, 4, 3)), f.constant(floats(2, 1, 1, 3)), f.constant(floats(2))]
    f.op("CONV_2D", operands, a, options="Conv2DOptions", StrideH=1, StrideW=1)
    f.op("RESHAPE", [a, f.constant([1, -1], "int32")], y)
    return f.bytes(y)


def run(model: Any, *feeds: np.ndarray) -> list[np.ndarray]:
    names = [spec.name for spec in model.signature.inputs]
    return list(model.compile().run(dict(zip(names, feeds, strict=True))).values())


def test_compiled_network_gives_what_the_interpreter_gives(tmp_path: Path) -> None:
    f = File()
    data = f.bytes(mobile(f))
    path = tmp_path / "mobile.tflite"
    path.write_bytes(data)
    model = dlcomp.load(path)
    assert model.name == "mobile"
    assert [spec.shape for spec in model.signature.inputs] == [(1, 12, 10, 3)]
    (found,) = run(model, *f.feeds)
    np.testing.assert_allclose(found, interpreted(data, f.feeds)[0], rtol=1e-4, atol=1e-6)


def test_quantized_network_gives_what_the_interpreter_gives() -> None:
    f = File()
    x = f.input(RNG.integers(-128, 128, (1, 8, 8, 3)).astype("int8"), (0.02, 3))
    w, dw = (f.constant(RNG.integers(-127, 128, s), "int8", (0.01, 0)) for s in ((8, 3, 3, 3), (1, 3, 3, 8)))
    fc = f.constant(RNG.integers(-127, 128, (5, 8)), "int8", (0.01, 0))
    biases = [
        f.constant(RNG.integers(-900, 900, n), "int32", (np.float32(s) * np.float32(0.01), 0))
        for n, s in ((8, 0.02), (8, 0.03), (5, 0.04))
    ]
    a, d = f.tensor((1, 4, 4, 8), "int8", (0.03, -128)), f.tensor((1, 4, 4, 8), "int8", (0.05, -9))
    s, m = f.tensor((1, 4, 4, 8), "int8", (0.06, -20)), f.tensor((1, 8), "int8", (0.04, -30))
    y = f.tensor((1, 5), "int8", (0.02, 4))
    f.op(
        "CONV_2D",
        [x, w, biases[0]],
        a,
        options="Conv2DOptions",
        StrideH=2,
        StrideW=2,
        FusedActivationFunction=1,
    )
    one = {"StrideH": 1, "StrideW": 1, "DepthMultiplier": 1}
    f.op("DEPTHWISE_CONV_2D", [a, dw, biases[1]], d, options="DepthwiseConv2DOptions", **one)
    f.op("ADD", [a, d], s, options="AddOptions")
    f.op("MEAN", [s, f.constant([1, 2], "int32")], m, options="ReducerOptions")
    f.op("FULLY_CONNECTED", [m, fc, biases[2]], y, options="FullyConnectedOptions")
    data = f.bytes(y)
    (expected,), (found,) = interpreted(data, f.feeds), run(dlcomp.load(data), *f.feeds)
    assert found.dtype == np.int8
    assert np.ptp(expected.astype(int)) > 200
    # One step of the classifier's operands is up to two of its result, for each of eight.
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 6


def test_open_batch() -> None:
    """One artifact for every batch, or a faster one for the batch that is given."""
    f = File()
    data = f.bytes(mobile(f, batch=3))
    model = dlcomp.load(data)
    assert model.signature.inputs[0].shape == ("batch", 12, 10, 3)
    expected = interpreted(data, f.feeds)[0]
    artifact, name = model.compile(), model.signature.inputs[0].name
    for count in (1, 3):
        (found,) = artifact.run({name: f.feeds[0][:count]}).values()
        np.testing.assert_allclose(found, expected[:count], rtol=1e-4, atol=1e-6)
    bound = dlcomp.load(data, {name: [3, 12, 10, 3]})
    np.testing.assert_allclose(run(bound, *f.feeds)[0], expected, rtol=1e-4, atol=1e-6)


def test_open_batch_whose_shapes_the_network_computes() -> None:
    f = File()
    x = f.input(floats(3, 4, 5), shape=(-1, 4, 5))
    shape, first = f.tensor((3,), "int32"), f.tensor((), "int32")
    wanted, y = f.tensor((2,), "int32"), f.tensor((-1, 20))
    f.op("SHAPE", [x], shape, options="ShapeOptions", OutType=2)
    lists = [f.constant([v], "int32") for v in (0, 1, 1)]
    f.op("STRIDED_SLICE", [shape, *lists], first, options="StridedSliceOptions", ShrinkAxisMask=1)
    f.op("PACK", [first, f.constant(20, "int32")], wanted, options="PackOptions", ValuesCount=2)
    f.op("RESHAPE", [x, wanted], y)
    data = f.bytes(y)
    np.testing.assert_array_equal(run(dlcomp.load(data), *f.feeds)[0], f.feeds[0].reshape(3, 20))


def test_names_are_those_of_the_signature() -> None:
    f = File()
    x, y = f.input(floats(2, 3)), f.tensor((2, 3))
    f.op("EXP", [x], y)
    network, _ = read(f.bytes(y, names={"image": x, "score": y}))
    assert [v.name for v in network.graph.input] == ["image"]
    assert [v.name for v in network.graph.output] == ["score"]


def test_names_are_made_unlike() -> None:
    f = File()
    places = [f.tensor((2,), name=name) for name in ("", "", "same", "same")]
    f.inputs = places[:1]
    f.feeds = [floats(2)]
    for source, target in itertools.pairwise(places):
        f.op("EXP", [source], target)
    network, _ = read(f.bytes(places[2], places[3]))
    assert [v.name for v in network.graph.output] == ["same", "same_1"]
    agree(f, places[2], places[3])


def test_result_that_is_an_input_or_a_constant() -> None:
    f = File()
    x, c, y = f.input(floats(2, 3)), f.constant(floats(2, 3)), f.tensor((2, 3))
    f.op("ADD", [x, c], y, options="AddOptions")
    found = run(dlcomp.load(f.bytes(y, x, c)), *f.feeds)
    np.testing.assert_array_equal(found[1], f.feeds[0])
    np.testing.assert_allclose(found[0], found[1] + found[2], rtol=1e-6)


def test_sparse_weights() -> None:
    """Rows of which two elements of eight are stored."""
    f, b = File(), None
    b = f.b
    dense = np.zeros((4, 8), "float32")
    indices = np.array([0, 5, 1, 2, 3, 7, 4, 6])
    for row in range(4):
        dense[row, indices[2 * row : 2 * row + 2]] = row + 1.5
    levels = []
    for kind, arrays in ((0, ()), (1, (np.arange(0, 9, 2), indices))):
        vectors = []
        for values in arrays:
            stored = b.CreateNumpyVector(values.astype("int32"))
            tflite.Int32VectorStart(b)
            tflite.Int32VectorAddValues(b, stored)
            vectors.append(tflite.Int32VectorEnd(b))
        tflite.DimensionMetadataStart(b)
        tflite.DimensionMetadataAddFormat(b, kind)
        if not vectors:
            tflite.DimensionMetadataAddDenseSize(b, 4)
        else:
            tflite.DimensionMetadataAddArraySegmentsType(b, 1)
            tflite.DimensionMetadataAddArraySegments(b, vectors[0])
            tflite.DimensionMetadataAddArrayIndicesType(b, 1)
            tflite.DimensionMetadataAddArrayIndices(b, vectors[1])
        levels.append(tflite.DimensionMetadataEnd(b))
    order, metadata = b.CreateNumpyVector(np.arange(2, dtype="int32")), f._offsets(levels)
    tflite.SparsityParametersStart(b)
    tflite.SparsityParametersAddTraversalOrder(b, order)
    tflite.SparsityParametersAddDimMetadata(b, metadata)
    sparsity = tflite.SparsityParametersEnd(b)
    kept = dense[dense != 0].tobytes()
    w, whole, y = f.tensor((4, 8), data=kept, sparsity=sparsity), f.tensor((4, 8)), f.tensor((4, 8))
    f.op("DENSIFY", [w], whole)
    f.op("ADD", [f.input(np.zeros((4, 8), "float32")), whole], y, options="AddOptions")
    agree(f, y, tolerance=0)


# -- what is refused -----------------------------------------------------------------------------------------


def test_all_unknown_operators_are_named_at_once() -> None:
    f = File()
    x, a, c, y = f.input(floats(2, 3)), f.tensor((2, 3)), f.tensor((2, 3)), f.tensor((2, 3))
    f.op("Mystery", [x], a, custom=b"\1")
    f.op("SVDF", [a], c)
    f.op("Mystery", [c], y, custom=b"\1")
    with pytest.raises(ModelError, match=r"CUSTOM Mystery \(op 0\), SVDF \(op 1\)"):
        read(f.bytes(y))


def test_an_operand_that_does_not_fit_is_told_with_its_operator() -> None:
    f = File()
    a, y = f.tensor((2, 3)), f.tensor((7,))
    f.op("EXP", [f.input(floats(2, 3))], a)
    f.op("RESHAPE", [a, f.constant([7], "int32")], y)
    told = r"op 1 RESHAPE 't1' of float32\[2, 3\], int32\[1\]: \[2, 3\] does not take the shape \[7\]"
    with pytest.raises(ModelError, match=told):
        read(f.bytes(y))


def test_wrong_options_and_missing_operands() -> None:
    f = File()
    x, y = f.input(floats(2, 3)), f.tensor((2, 3))
    f.op("SOFTMAX", [x], y, options="AddOptions")
    with pytest.raises(ModelError, match=r"op 0 SOFTMAX .* \(AddOptions\) have no Beta"):
        read(f.bytes(y))
    f = File()
    x, y = f.input(floats(2, 3)), f.tensor((2, 3))
    f.op("ADD", [x, -1], y, options="AddOptions")
    with pytest.raises(ModelError, match=r"op 0 ADD .*no operand 1"):
        read(f.bytes(y))
    f = File()
    lost, y = f.tensor((2, 3)), f.tensor((2, 3))
    f.op("EXP", [lost], y)
    with pytest.raises(ModelError, match="nothing writes its operand, tensor 0 't0'"):
        read(f.bytes(y))


def test_strings_are_refused() -> None:
    f = File()
    x, y = f.tensor((2,), "string"), f.tensor((2,), "string")
    f.inputs = [x]
    f.op("RESHAPE", [x, f.constant([2], "int32")], y)
    with pytest.raises(ModelError, match="input 't0': the element type string"):
        read(f.bytes(y))


def test_commands_take_the_file(tmp_path: Path) -> None:
    f = File()
    path = tmp_path / "mobile.tflite"
    path.write_bytes(f.bytes(mobile(f)))
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    assert "Softmax" in result.output
    path.write_bytes(path.read_bytes()[:100])
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert isinstance(result.exception, ModelError)
    assert "a damaged TFLite file (100 bytes)" in str(result.exception)


# -- what is damaged -----------------------------------------------------------------------------------------


def refused_or_read(data: bytes) -> str:
    """What is said of ``data``, which may be sound by chance."""
    try:
        read(data)
    except DlcompError as error:
        return str(error)
    return ""


def test_truncated_files() -> None:
    data = small()
    assert refused_or_read(data) == ""
    told = [refused_or_read(data[:size]) for size in range(8, len(data) - 4, 7)]
    assert all(told)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_mutated_files(data: st.DataObject) -> None:
    """Bytes overwritten anywhere: an error of dlcomp's or a network, never another exception."""
    broken = bytearray(small())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(8, len(broken) - 1))
        broken[place] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255, broken[place] ^ 1]))
    refused_or_read(bytes(broken))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_files(rest: bytes) -> None:
    assert refused_or_read(b"\x1c\0\0\0TFL3" + rest)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "network.tflite"
    path.write_bytes(b"not flat buffers")
    with pytest.raises(ModelError, match="the identifier TFL3 is missing"):
        read(path)
