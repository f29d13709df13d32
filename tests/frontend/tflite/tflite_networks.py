"""Whole networks as .tflite files."""

from __future__ import annotations

import numpy as np
from tflite_file import File

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


def encoder(file: File) -> int:
    """One layer of a text encoder: look-ups, normalisation as its parts, two heads of attention, GELU."""
    f = file
    length, width, heads = 7, 8, 2

    def op(kind: str, inputs: list[int], *shape: int, options: str = "", **fields: object) -> int:
        y = f.tensor(shape)
        f.op(kind, inputs, y, options=options, **fields)
        return y

    def dense(x: int, inner: int, outer: int) -> int:
        operands = [x, f.constant(floats(outer, inner) / np.float32(inner**0.5)), f.constant(floats(outer))]
        return op(
            "FULLY_CONNECTED", operands, 1, length, outer, options="FullyConnectedOptions", KeepNumDims=True
        )

    def apart(x: int) -> int:
        shape = f.constant([1, length, heads, width // heads], "int32")
        x = op("RESHAPE", [x, shape], 1, length, heads, width // heads)
        return op("TRANSPOSE", [x, f.constant([0, 2, 1, 3], "int32")], 1, heads, length, width // heads)

    def normal(x: int) -> int:
        last, keep = f.constant([-1], "int32"), {"options": "ReducerOptions", "KeepDims": True}
        mean = op("MEAN", [x, last], 1, length, 1, **keep)
        squares = op("SQUARED_DIFFERENCE", [x, mean], 1, length, width)
        variance = op("MEAN", [squares, last], 1, length, 1, **keep)
        raised = op("ADD", [variance, f.constant(1e-6, "float32")], 1, length, 1, options="AddOptions")
        scale = op("RSQRT", [raised], 1, length, 1)
        centred = op("SUB", [x, mean], 1, length, width, options="SubOptions")
        return op("MUL", [centred, scale], 1, length, width, options="MulOptions")

    words = f.input(RNG.integers(0, 20, (1, length)).astype("int32"))
    x = op("GATHER", [f.constant(floats(20, width)), words], 1, length, width, options="GatherOptions")
    q, k, v = (apart(dense(x, width, width)) for _ in range(3))
    product = {"options": "BatchMatMulOptions"}
    scores = op("BATCH_MATMUL", [q, k], 1, heads, length, length, **product, AdjY=True)
    shares = op("SOFTMAX", [scores], 1, heads, length, length, options="SoftmaxOptions", Beta=0.5)
    read = op("BATCH_MATMUL", [shares, v], 1, heads, length, width // heads, **product)
    order = f.constant([0, 2, 1, 3], "int32")
    together = op("TRANSPOSE", [read, order], 1, length, heads, width // heads)
    joined = op("RESHAPE", [together, f.constant([1, length, width], "int32")], 1, length, width)
    x = normal(op("ADD", [x, dense(joined, width, width)], 1, length, width, options="AddOptions"))
    wide = op("GELU", [dense(x, width, 16)], 1, length, 16, options="GeluOptions")
    return normal(op("ADD", [x, dense(wide, 16, width)], 1, length, width, options="AddOptions"))
