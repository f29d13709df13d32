"""TFLite's convolutions, poolings, resizing and products against its own interpreter."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from tflite_file import File, agree, translated

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def size(image: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    reach = (kernel - 1) * dilation + 1
    return -(-image // stride) if padding == 0 else -(-(image - reach + 1) // stride)


SAME, VALID = 0, 1


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (2, 3))])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], padding: int
) -> None:
    f = File()
    x = f.input(floats(2, 11, 13, 3))
    out = [size(s, k, t, d, padding) for s, k, t, d in zip((11, 13), kernel, stride, dilation, strict=True)]
    geometry: dict[str, Any] = {
        "Padding": padding,
        "StrideH": stride[0],
        "StrideW": stride[1],
        "DilationHFactor": dilation[0],
        "DilationWFactor": dilation[1],
    }
    y, z = f.tensor((2, *out, 4)), f.tensor((2, *out, 6))
    f.op(
        "CONV_2D",
        [x, f.constant(floats(4, *kernel, 3)), f.constant(floats(4))],
        y,
        options="Conv2DOptions",
        FusedActivationFunction=3,
        **geometry,
    )
    f.op(
        "DEPTHWISE_CONV_2D",
        [x, f.constant(floats(1, *kernel, 6)), f.constant(floats(6))],
        z,
        options="DepthwiseConv2DOptions",
        DepthMultiplier=2,
        **geometry,
    )
    agree(f, y, z)


def test_convolution_in_groups() -> None:
    f = File()
    y = f.tensor((1, 5, 5, 8))
    operands = [f.input(floats(1, 5, 5, 6)), f.constant(floats(8, 3, 3, 3)), f.constant(floats(8))]
    f.op("CONV_2D", operands, y, options="Conv2DOptions", StrideH=1, StrideW=1)
    agree(f, y)


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (2, 2), (3, 2), (5, 2), (3, 3), (5, 3)])
def test_transposed_convolution(kernel: int, stride: int, padding: int) -> None:
    f = File()
    sides = [s * stride if padding == SAME else (s - 1) * stride + kernel for s in (4, 5)]
    y = f.tensor((2, *sides, 4))
    operands = [
        f.constant([2, *sides, 4], "int32"),
        f.constant(floats(4, kernel, kernel, 3)),
        f.input(floats(2, 4, 5, 3)),
        f.constant(floats(4)),
    ]
    f.op(
        "TRANSPOSE_CONV",
        operands,
        y,
        options="TransposeConvOptions",
        Padding=padding,
        StrideH=stride,
        StrideW=stride,
    )
    agree(f, y)


def test_transposed_convolution_with_bias_of_mediapipe() -> None:
    """The same as the builtin operator; the interpreter's plain kernels do not have it."""
    f = File()
    image, w, bias = f.input(floats(1, 4, 5, 3)), f.constant(floats(4, 3, 3, 3)), f.constant(floats(4))
    y, z = f.tensor((1, 8, 10, 4)), f.tensor((1, 8, 10, 4))
    shape = f.constant([1, 8, 10, 4], "int32")
    f.op("Convolution2DTransposeBias", [image, w, bias], y, custom=struct.pack("<3i", 1, 2, 2))
    f.op(
        "TRANSPOSE_CONV",
        [shape, w, image, bias],
        z,
        options="TransposeConvOptions",
        Padding=SAME,
        StrideH=2,
        StrideW=2,
    )
    custom, builtin = translated(f.bytes(y, z), f.feeds)
    assert np.abs(builtin).max() > 1
    np.testing.assert_array_equal(custom, builtin)


@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"])
@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pooling(kind: str, padding: int, stride: int) -> None:
    f = File()
    out = [size(s, k, stride, 1, padding) for s, k in ((7, 2), (9, 3))]
    y = f.tensor((1, *out, 5))
    f.op(
        kind,
        [f.input(floats(1, 7, 9, 5))],
        y,
        options="Pool2DOptions",
        Padding=padding,
        StrideH=stride,
        StrideW=stride,
        FilterHeight=2,
        FilterWidth=3,
        FusedActivationFunction=1,
    )
    agree(f, y)


def test_local_response_normalization() -> None:
    f = File()
    y = f.tensor((1, 2, 3, 9))
    f.op(
        "LOCAL_RESPONSE_NORMALIZATION",
        [f.input(floats(1, 2, 3, 9))],
        y,
        options="LocalResponseNormalizationOptions",
        Radius=2,
        Bias=1.5,
        Alpha=0.3,
        Beta=0.75,
    )
    agree(f, y)


@pytest.mark.parametrize("kind", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize("sides", [(8, 10), (7, 3), (1, 1), (13, 5)])
@pytest.mark.parametrize(("corners", "middles"), [(False, False), (True, False), (False, True)])
def test_resizing(kind: str, sides: tuple[int, int], corners: bool, middles: bool) -> None:
    f = File()
    y = f.tensor((2, *sides, 3))
    options = "ResizeBilinearOptions" if kind == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    operands = [f.input(floats(2, 4, 5, 3)), f.constant(sides, "int32")]
    f.op(kind, operands, y, options=options, AlignCorners=corners, HalfPixelCenters=middles)
    agree(f, y)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (2, 2, 2, 2)])
def test_fully_connected(shape: tuple[int, ...], bias: bool, keep: bool) -> None:
    keep = keep and shape[-1] == 8
    f = File()
    rows = int(np.prod(shape)) // 8
    y = f.tensor((*shape[:-1], 5) if keep else (rows, 5))
    operands = [f.input(floats(*shape)), f.constant(floats(5, 8)), f.constant(floats(5)) if bias else -1]
    f.op(
        "FULLY_CONNECTED",
        operands,
        y,
        options="FullyConnectedOptions",
        KeepNumDims=keep,
        FusedActivationFunction=1,
    )
    agree(f, y)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_batch_matmul(left: bool, right: bool) -> None:
    f = File()
    y = f.tensor((2, 3, 4, 5))
    operands = [
        f.input(floats(2, 3, *((6, 4) if left else (4, 6)))),
        f.input(floats(1, 3, *((5, 6) if right else (6, 5)))),
    ]
    f.op("BATCH_MATMUL", operands, y, options="BatchMatMulOptions", AdjX=left, AdjY=right)
    agree(f, y)
