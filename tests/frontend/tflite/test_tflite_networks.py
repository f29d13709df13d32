"""Whole networks, compiled, against TFLite's own interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tflite_file import File, compiled, interpreted
from tflite_networks import encoder, floats, mobile

import dlcomp

RNG = np.random.default_rng(0)


def test_compiled_network_gives_what_the_interpreter_gives(tmp_path: Path) -> None:
    f = File()
    data = f.bytes(mobile(f))
    path = tmp_path / "mobile.tflite"
    path.write_bytes(data)
    model = dlcomp.load(path)
    assert model.name == "mobile"
    assert [spec.shape for spec in model.signature.inputs] == [(1, 12, 10, 3)]
    (found,) = compiled(path, *f.feeds)
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
    (expected,), (found,) = interpreted(data, f.feeds), compiled(data, *f.feeds)
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
    (bound,) = dlcomp.load(data, {name: [3, 12, 10, 3]}).compile().run({name: f.feeds[0]}).values()
    np.testing.assert_allclose(bound, expected, rtol=1e-4, atol=1e-6)


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
    np.testing.assert_array_equal(compiled(data, *f.feeds)[0], f.feeds[0].reshape(3, 20))


def test_text_encoder_gives_what_the_interpreter_gives() -> None:
    f = File()
    data = f.bytes(encoder(f))
    (expected,), (found,) = interpreted(data, f.feeds), compiled(data, *f.feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
