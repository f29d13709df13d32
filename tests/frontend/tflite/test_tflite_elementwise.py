"""TFLite's element-wise operators, activations, reductions and look-ups against its own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tflite_file import File, agree

RNG = np.random.default_rng(0)


def floats(*shape: int, low: float = -4.0, high: float = 4.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype("float32")


def ints(*shape: int, low: int = -9, high: int = 9, dtype: str = "int32") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def one(
    kind: str, *feeds: np.ndarray, shape: Any = None, dtype: str = "", tolerance: float = 1e-5, **options: Any
) -> None:
    """An operator of inputs alone."""
    f = File()
    places = [f.input(feed) for feed in feeds]
    shape = np.broadcast_shapes(*(feed.shape for feed in feeds)) if shape is None else shape
    y = f.tensor(shape, dtype or str(feeds[0].dtype))
    f.op(kind, places, y, **options)
    agree(f, y, tolerance=tolerance)


UNARY = """ABS CEIL COS ELU EXP FLOOR HARD_SWISH LOGISTIC NEG RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 ROUND SIN
SQUARE TANH SIGN ZEROS_LIKE LOG_SOFTMAX L2_NORMALIZATION""".split()
OPTIONS = {"L2_NORMALIZATION": "L2NormOptions", "ZEROS_LIKE": "ZerosLikeOptions"}


@pytest.mark.parametrize("kind", UNARY)
@pytest.mark.parametrize("shape", [(1,), (2, 3, 5)])
def test_unary(kind: str, shape: tuple[int, ...]) -> None:
    if kind == "LOG_SOFTMAX" and shape == (1,):
        shape = (1, 1)
    one(kind, floats(*shape), options=OPTIONS.get(kind, ""))


@pytest.mark.parametrize("kind", ["LOG", "SQRT", "RSQRT"])
def test_of_positive_numbers(kind: str) -> None:
    one(kind, floats(3, 7, low=0.1))


ARITHMETIC = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "FLOOR_DIV": "FloorDivOptions",
    "FLOOR_MOD": "FloorModOptions",
    "POW": "PowOptions",
}
PAIRS = [((2, 3), (2, 3)), ((2, 1, 5), (3, 1)), ((1,), (4, 5)), ((1, 4, 5, 3), (1, 1, 1, 3)), ((), (2,))]


@pytest.mark.parametrize("kind", ARITHMETIC)
@pytest.mark.parametrize("shapes", PAIRS)
def test_arithmetic(kind: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    low = 0.5 if kind in ("DIV", "FLOOR_DIV", "FLOOR_MOD", "POW") else -4.0
    one(kind, floats(*shapes[0], low=low), floats(*shapes[1], low=low), options=ARITHMETIC[kind])


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL", "DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM"])
def test_arithmetic_of_integers(kind: str) -> None:
    right = ints(3, 5, low=1) * np.where(ints(3, 5) < 0, -1, 1).astype("int32")
    one(kind, ints(3, 5), right, options=ARITHMETIC[kind])


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL", "DIV"])
@pytest.mark.parametrize("activation", [1, 2, 3])
def test_fused_activation(kind: str, activation: int) -> None:
    feeds = (floats(2, 9, low=-9, high=9), floats(2, 9, low=0.5))
    one(kind, *feeds, options=ARITHMETIC[kind], FusedActivationFunction=activation)


@pytest.mark.parametrize("kind", ["EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"])
def test_comparison(kind: str) -> None:
    one(kind, ints(4, 5, low=-2, high=2), ints(5, low=-2, high=2), dtype="bool")
    one(kind, floats(4, 5), floats(4, 5), dtype="bool")


@pytest.mark.parametrize("kind", ["LOGICAL_AND", "LOGICAL_OR"])
def test_logic(kind: str) -> None:
    one(kind, floats(4, 5) > 0, floats(4, 5) > 0)
    one("LOGICAL_NOT", floats(4, 5) > 0)


def test_select() -> None:
    for kind, shape in (("SELECT", (3, 4)), ("SELECT", (3,)), ("SELECT_V2", (3, 1)), ("SELECT_V2", (4,))):
        one(kind, floats(*shape) > 0, floats(3, 4), floats(3, 4), dtype="float32", shape=(3, 4))


def test_prelu_and_leaky_relu() -> None:
    f = File()
    x = f.input(floats(1, 4, 5, 3))
    y, z = f.tensor((1, 4, 5, 3)), f.tensor((1, 4, 5, 3))
    f.op("PRELU", [x, f.constant(floats(1, 1, 3))], y)
    f.op("LEAKY_RELU", [x], z, options="LeakyReluOptions", Alpha=0.3)
    agree(f, y, z)


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu(approximate: bool) -> None:
    one("GELU", floats(3, 9), options="GeluOptions", Approximate=approximate)


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_softmax(beta: float) -> None:
    one("SOFTMAX", floats(3, 9), options="SoftmaxOptions", Beta=beta)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool", "uint8", "float32"])
def test_cast(dtype: str) -> None:
    one("CAST", floats(3, 9, low=0), dtype=dtype)
    one("CAST", ints(3, 9, low=0), dtype=dtype)


def test_add_n() -> None:
    one("ADD_N", floats(3, 4), floats(3, 4), floats(3, 4), options="AddNOptions")


def test_half_precision_weights() -> None:
    f = File()
    half = f.constant(floats(3, 300), "float16")
    whole, y = f.tensor((3, 300)), f.tensor((3, 300))
    f.op("DEQUANTIZE", [half], whole)
    f.op("MUL", [f.input(floats(3, 300)), whole], y, options="MulOptions")
    agree(f, y)


REDUCTIONS = ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"]


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("axes", [[1], [-1, 0], [0, 1, 2]])
@pytest.mark.parametrize("keep", [False, True])
def test_reduction(kind: str, axes: list[int], keep: bool) -> None:
    f = File()
    x = f.input(floats(2, 3, 5, low=0.5, high=1.5))
    gone = {a % 3 for a in axes}
    shape = [1 if d in gone else s for d, s in enumerate((2, 3, 5)) if keep or d not in gone]
    y = f.tensor(shape)
    f.op(kind, [x, f.constant(axes, "int32")], y, options="ReducerOptions", KeepDims=keep)
    agree(f, y)


@pytest.mark.parametrize("kind", ["REDUCE_ANY", "REDUCE_ALL"])
def test_reduction_of_truth(kind: str) -> None:
    f = File()
    y = f.tensor((4,), "bool")
    f.op(kind, [f.input(floats(4, 3) > -1), f.constant([1], "int32")], y, options="ReducerOptions")
    agree(f, y)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumulative_sum(exclusive: bool, reverse: bool) -> None:
    f = File()
    y = f.tensor((3, 4))
    operands = [f.input(floats(3, 4)), f.constant(1, "int32")]
    f.op("CUMSUM", operands, y, options="CumsumOptions", Exclusive=exclusive, Reverse=reverse)
    agree(f, y)


@pytest.mark.parametrize("kind", ["ARG_MAX", "ARG_MIN"])
@pytest.mark.parametrize(("dtype", "number"), [("int32", 2), ("int64", 4)])
def test_extreme_place(kind: str, dtype: str, number: int) -> None:
    f = File()
    y = f.tensor((3, 5), dtype)
    options = "ArgMaxOptions" if kind == "ARG_MAX" else "ArgMinOptions"
    operands = [f.input(floats(3, 4, 5)), f.constant([1], "int32")]
    f.op(kind, operands, y, options=options, OutputType=number)
    agree(f, y)


@pytest.mark.parametrize(("axis", "batch"), [(0, 0), (1, 0), (-1, 0), (1, 1), (2, 1), (2, 2)])
def test_gather(axis: int, batch: int) -> None:
    f = File()
    shape = (2, 3, 4, 5)
    indices = ints(*shape[:batch], 6, low=0, high=shape[axis])
    place = axis % 4
    y = f.tensor((*shape[:place], 6, *shape[place + 1 :]))
    operands = [f.input(floats(*shape)), f.input(indices)]
    f.op("GATHER", operands, y, options="GatherOptions", Axis=axis, BatchDims=batch)
    agree(f, y)


def test_gather_and_scatter_of_places() -> None:
    f = File()
    y, z = f.tensor((4, 5)), f.tensor((6, 5))
    f.op("GATHER_ND", [f.input(floats(2, 3, 5)), f.constant(ints(4, 2, low=0, high=2))], y)
    places = f.constant([[1], [4], [1], [0]], "int32")
    f.op("SCATTER_ND", [places, f.input(floats(4, 5)), f.constant([6, 5], "int32")], z)
    agree(f, y, z)


def test_embedding_lookup() -> None:
    f = File()
    y = f.tensor((4, 5))
    f.op("EMBEDDING_LOOKUP", [f.input(ints(4, low=0, high=7)), f.constant(floats(7, 5))], y)
    agree(f, y)


def test_top_k() -> None:
    f = File()
    y, places = f.tensor((3, 2)), f.tensor((3, 2), "int32")
    f.op("TOPK_V2", [f.input(floats(3, 9)), f.constant(2, "int32")], y, places, options="TopKV2Options")
    agree(f, y, places)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int) -> None:
    f = File()
    shape = {-1: (2, 3, 4), 0: (4, 2, 3), 1: (2, 4, 3)}[axis]
    y = f.tensor(shape)
    numbers = [f.constant(4, "int32"), f.constant(2.0, "float32"), f.constant(-1.0, "float32")]
    operands = [f.input(ints(2, 3, low=-2, high=6)), *numbers]
    f.op("ONE_HOT", operands, y, options="OneHotOptions", Axis=axis)
    agree(f, y)
