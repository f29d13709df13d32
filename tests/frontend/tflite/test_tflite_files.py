"""Whole files: names, sparse weights, what is refused, and what is damaged."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_file import File, agree, compiled, tflite
from tflite_networks import mobile
from typer.testing import CliRunner

from dlcomp.cli import app
from dlcomp.errors import DlcompError, ModelError
from dlcomp.frontend.read import read

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def small() -> bytes:
    """Two operators, for files that are to be broken."""
    f = File()
    a, y = f.tensor((1, 4, 4, 2)), f.tensor((1, 32))
    operands = [f.input(floats(1, 4, 4, 3)), f.constant(floats(2, 1, 1, 3)), f.constant(floats(2))]
    f.op("CONV_2D", operands, a, options="Conv2DOptions", StrideH=1, StrideW=1)
    f.op("RESHAPE", [a, f.constant([1, -1], "int32")], y)
    return f.bytes(y)


def test_names_are_those_of_the_signature() -> None:
    f = File()
    x, y = f.input(floats(2, 3)), f.tensor((2, 3))
    f.op("EXP", [x], y)
    network, _ = read(f.bytes(y, names={"image": x, "score": y}))
    assert [v.name for v in network.graph.input] == ["image"]
    assert [v.name for v in network.graph.output] == ["score"]


def test_kinds_of_operators_in_the_newer_field_alone() -> None:
    f = File()
    f.older = False
    y = f.tensor((2, 3))
    f.op("EXP", [f.input(floats(2, 3))], y)
    agree(f, y)


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
    found = compiled(f.bytes(y, x, c), *f.feeds)
    np.testing.assert_array_equal(found[1], f.feeds[0])
    np.testing.assert_allclose(found[0], found[1] + found[2], rtol=1e-6)


def test_sparse_weights() -> None:
    """Rows of which two elements of eight are stored."""
    f = File()
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
    order, metadata = b.CreateNumpyVector(np.arange(2, dtype="int32")), f.offsets(levels)
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
