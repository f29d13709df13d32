"""Quantized operators against their definition in Python's integers, at the extremes of each type."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_text import Twin, metadata

import dlcomp
from dlcomp.errors import ModelError


def rounded(total: int, ratio: float, zero: int, low: int, high: int, how: str = "UPWARD") -> int:
    """The fixed-point product of the definition: 31 bits of the ratio, one rounding."""
    fraction, exponent = math.frexp(ratio)
    multiplier = math.floor(Fraction(fraction) * 2**31 + Fraction(1, 2))
    exact = Fraction(total * multiplier) * Fraction(2) ** (exponent - 31)
    half = Fraction(1, 2)
    if how == "TONEAREST" and exact < 0:
        result = -math.floor(-exact + half)
    else:
        result = math.floor(exact + half)
    return max(low, min(high, result + zero))


def f32(value: object) -> np.ndarray:
    return np.array(value, "float32")


def i32(value: object) -> np.ndarray:
    return np.array(value, "int32")


def module(call: str, feed: dict[str, np.ndarray], *constants: np.ndarray) -> dlcomp.Model:
    for place in range(len(constants)):
        call = call.replace(f"{{{place}}}", f"meta[relay.Constant][{place}]")
    head = ", ".join(f"%{k}: Tensor[{tuple(v.shape)}, {v.dtype}]" for k, v in feed.items())
    code = f'#[version = "0.0.5"]\ndef @main({head}) {{\n  {call}\n}}\n'
    return dlcomp.load((code + metadata(list(constants))).encode())


def run(call: str, feed: dict[str, np.ndarray], *constants: np.ndarray) -> np.ndarray:
    (found,) = module(call, feed, *constants).compile().run(feed).values()
    return found


RATIOS = [1.0, 0.5, 0.25, 1 - 2**-24, 3e-5, 7e-10, 1e-18, 0.7071, 1.9999999, 2.0, 0.0078125, 1e-30]


@pytest.mark.parametrize("how", ["UPWARD", "TONEAREST"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_requantize_by_channel(how: str, dtype: str) -> None:
    """One scale and one input zero point for each channel, to the bit."""
    scales, info = f32(RATIOS) * f32(0.125), np.iinfo(dtype)
    zeros = i32(np.arange(len(RATIOS)) - 4)
    shape = (40, len(RATIOS))
    artifact = module(
        f'qnn.requantize(%x, {{0}}, {{1}}, 0.125f, 3, axis=1, rounding="{how}", out_dtype="{dtype}")',
        {"x": np.zeros(shape, "int32")}, scales, zeros,
    ).compile()  # fmt: skip

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(-(2**30), 2**30), min_size=12, max_size=12), st.integers(0, 2**32 - 1))
    def check(edge: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = rng.integers(-(2 ** rng.integers(1, 31, shape)), 2 ** rng.integers(1, 31, shape)).astype("int32")
        x[0] = edge
        # Exact halves, where the two ways to round differ.
        x[1:9] = zeros + np.arange(-7, 9, 2)[:, None]
        (found,) = artifact.run({"x": x}).values()
        ratio = scales.astype("float64") / np.float64(np.float32(0.125))
        right = [
            [
                rounded(int(v) - int(z), float(r), 3, info.min, info.max, how)
                for v, z, r in zip(row, zeros, ratio, strict=True)
            ]
            for row in x
        ]
        np.testing.assert_array_equal(found, np.array(right, dtype))

    check()


@pytest.mark.parametrize("how", ["UPWARD", "TONEAREST"])
def test_requantize_in_floats_where_the_text_says_so(how: str) -> None:
    x = np.arange(-600, 600, dtype="int32")
    call = f'qnn.requantize(%x, 0.5f, 7, 1f, 2, rounding="{how}", compute_dtype="float32")'
    exact = (x - 7) * 0.5 + 2
    right = np.floor(exact + 0.5) if how == "UPWARD" else np.trunc(exact + np.copysign(0.5, exact))
    np.testing.assert_array_equal(run(call, {"x": x}), right.clip(-128, 127).astype("int8"))


def test_quantize_rounds_halves_away_and_saturates() -> None:
    x = f32([-1e30, -63.75, -0.25, -0.75, 0.25, 0.75, 0.24999999, -0.24999999, 63.75, 1e30, np.inf, -np.inf])
    right = [-128, -125, 2, 1, 4, 5, 3, 3, 127, 127, 127, -128]
    found = run('qnn.quantize(%x, 0.5f, 3, out_dtype="int8")', {"x": x})
    np.testing.assert_array_equal(found, np.array(right, "int8"))


A = np.arange(-128, 128).astype("int8")
B = np.roll(A[::-1], 37)


@pytest.mark.parametrize("name", ["add", "subtract"])
@pytest.mark.parametrize(
    ("left", "right", "out"), [((0.1, 5), (0.03, -7), (0.2, 1)), ((0.1, 5), (0.1, 2), (0.1, 5))]
)
def test_sums(name: str, left: tuple[float, int], right: tuple[float, int], out: tuple[float, int]) -> None:
    """Each side rounded by itself; a side of the same scale is not rounded."""
    scales = ", ".join(f"{s}f, {z}" for s, z in (left, right, out))
    found = run(f"qnn.{name}(%a, %b, {scales})", {"a": A, "b": B})
    low, high, sign = -(2**31), 2**31 - 1, 1 if name == "add" else -1
    wanted = []
    for a, b in zip(A.tolist(), B.tolist(), strict=True):
        ratios = [float(f32(s)) / float(f32(out[0])) for s, _ in (left, right)]
        one, two = (
            rounded(v - z, r, 0, low, high)
            for v, (_, z), r in zip((a, b), (left, right), ratios, strict=True)
        )
        wanted.append(max(-128, min(127, one + sign * two + out[1])))
    np.testing.assert_array_equal(found, np.array(wanted, "int8"))


def test_the_scale_of_a_product_is_a_float32() -> None:
    """The product of two scales is rounded before it is divided: here the ratio is then just a half."""
    pairs = [(f32(s), f32(t)) for s in np.arange(0.01, 0.2, 0.013) for t in np.arange(0.02, 0.3, 0.017)]
    s, t = next((s, t) for s, t in pairs if float(s * t) > float(s) * float(t) * (1 + 4e-8))
    x, y = np.repeat(A, 256)[None], np.tile(A, 256)[None]
    found = run("qnn.mul(%a, %b, {0}, 3, {1}, -2, {2}, 1)", {"a": x, "b": y}, s, t, (s * t) * f32(2))
    wide = (x.astype("int64") - 3) * (y.astype("int64") + 2)
    np.testing.assert_array_equal(found, (((wide + 1) >> 1) + 1).clip(-128, 127).astype("int8"))


def test_scales_may_be_computed_in_the_text() -> None:
    """What follows from constants alone is a constant, as the ONNX importer of TVM wrote it."""
    x = np.arange(-500, 500, dtype="int32")
    scale = f32([0.03])
    found = run("qnn.requantize(%x, squeeze(multiply({0}, 0.5f)), subtract(3, 3), 0.1f, 0)", {"x": x}, scale)
    ratio = float(np.float32(scale[0] * np.float32(0.5))) / float(f32(0.1))
    np.testing.assert_array_equal(found, np.array([rounded(int(v), ratio, 0, -128, 127) for v in x], "int8"))


def test_concatenation_brings_parts_to_one_scale() -> None:
    found = run("qnn.concatenate((%a, %b), (0.1f, 0.2f), (5, 1), 0.2f, 1, axis=0)", {"a": A, "b": B})
    ratio = float(f32(0.1)) / float(f32(0.2))
    left = [rounded(int(a) - 5, ratio, 1, -128, 127) for a in A]
    np.testing.assert_array_equal(found, np.concatenate([np.array(left, "int8"), B]))


@pytest.mark.parametrize(
    ("name", "function"),
    [("sigmoid", lambda v: 1 / (1 + np.exp(-v))), ("tanh", np.tanh), ("exp", np.exp), ("abs", np.abs)],
)
def test_operators_on_the_numbers_behind(name: str, function: object) -> None:
    found = run(f"qnn.{name}(%a, 0.05f, -10, 0.01f, -100)", {"a": A})
    exact = function((A.astype("float64") + 10) * float(f32(0.05))) / float(f32(0.01)) - 100  # type: ignore[operator]
    assert np.abs(found - exact.clip(-128, 127)).max() <= 0.5 + 1e-3


def test_average_of_quantized_windows_is_cut_towards_zero() -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 2, 4, 6)).astype("int8")
    call = "qnn.avg_pool2d(%x, 0.1f, 2, 0.1f, 2, pool_size=[2, 3], strides=[2, 3])"
    total = x.reshape(1, 2, 2, 2, 2, 3).astype("int64").sum((3, 5))
    np.testing.assert_array_equal(run(call, {"x": x}), np.trunc(total / 6).astype("int8"))


def test_a_quantized_network_with_channels_last() -> None:
    """Images of bytes to classes, as TFLite's importer wrote it: uint8, zero points everywhere, a depthwise
    kernel, the mean over the image in int32, and a dense layer; in NumPy's integers, to the bit."""
    rng, t = np.random.default_rng(5), Twin((1, 8, 8, 3), True)
    x = rng.integers(0, 256, t.shape).astype("uint8")
    w1 = rng.integers(0, 256, (3, 3, 3, 6)).astype("uint8")
    b1, b2 = (rng.integers(-3000, 3000, 6).astype("int32") for _ in range(2))
    left = t.relay(
        "qnn.conv2d", ["%data", t.meta(w1), "128", "121", "0.0078125f", "0.02f"], strides=[2, 2],
        padding=[0, 0, 1, 1], channels=6, kernel_size=[3, 3], data_layout="NHWC", kernel_layout="HWIO",
        out_dtype="int32",
    )  # fmt: skip
    left = t.relay("nn.bias_add", [left, t.meta(b1)], axis=3)
    scale = f32(0.0078125) * f32(0.02)
    left = t.relay("qnn.requantize", [left, t.meta(scale), "0", "0.0235f", "0"], axis=3, out_dtype="uint8")
    w2 = rng.integers(0, 256, (3, 3, 6, 1)).astype("uint8")
    left = t.relay(
        "qnn.conv2d", [left, t.meta(w2), "0", "140", "0.0235f", "0.03f"], padding=[1, 1, 1, 1], groups=6,
        channels=6, kernel_size=[3, 3], data_layout="NHWC", kernel_layout="HWOI", out_dtype="int32",
    )  # fmt: skip
    left = t.relay("nn.bias_add", [left, t.meta(b2)], axis=3)
    scale2 = f32(0.0235) * f32(0.03)
    left = t.relay("qnn.requantize", [left, t.meta(scale2), "0", "0.05f", "7"], axis=3, out_dtype="uint8")
    left = t.relay("clip", [left], a_min=7.0, a_max=127.0)
    left = t.relay("cast", [left], dtype="int32")
    left = t.relay("nn.avg_pool2d", [left], pool_size=[4, 4], padding=[0, 0, 0, 0], layout="NHWC")
    left = t.relay("cast", [left], dtype="uint8")
    left = t.relay("reshape", [left], newshape=[-1, 6])
    w3 = rng.integers(0, 256, (5, 6)).astype("uint8")
    left = t.relay("qnn.dense", [left, t.meta(w3), "7", "131", "0.05f", "0.01f"], units=5, out_dtype="int32")
    left = t.relay("qnn.requantize", [left, "0.0005f", "0", "0.11f", "100"], axis=1, out_dtype="uint8")
    left = t.relay("qnn.dequantize", [left, "0.11f", "100"])

    def requantized(total: np.ndarray, ratio: float, zero: int) -> np.ndarray:
        flat = [rounded(int(v), ratio, zero, 0, 255) for v in total.reshape(-1)]
        return np.array(flat, "int64").reshape(total.shape)

    def windows(v: np.ndarray, pads: tuple[int, int], stride: int) -> np.ndarray:
        padded = np.pad(v, ((0, 0), pads, pads, (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return view[:, ::stride, ::stride]

    v = windows(x.astype("int64") - 128, (0, 1), 2)
    total = np.einsum("nhwcij,ijco->nhwo", v, w1.astype("int64") - 121) + b1
    v = requantized(total, float(scale) / float(f32(0.0235)), 0)
    total = np.einsum("nhwcij,ijc->nhwc", windows(v, (1, 1), 1), w2[..., 0].astype("int64") - 140) + b2
    v = requantized(total, float(scale2) / float(f32(0.05)), 7).clip(7, 127).sum((1, 2)) // 16
    total = (v - 7) @ (w3.astype("int64") - 131).T
    v = requantized(total, float(f32(0.0005)) / float(f32(0.11)), 100)
    (found,) = dlcomp.load(t.text(left, dtype="uint8").encode()).compile().run({"data": x}).values()
    np.testing.assert_array_equal(found, (v - 100).astype("float32") * f32(0.11))
    assert len(np.unique(v)) > 2


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("qnn.requantize(%a, 0.1f, 0, 0f, 0)", "the output scale must be positive"),
        ('qnn.requantize(%a, 0.2f, 0, 0.1f, 0, rounding="EVEN")', "the rounding EVEN is not supported"),
        ('qnn.requantize(%a, 0.2f, 0, 0.1f, 0, compute_dtype="int12")', "int12 is not supported"),
        ("qnn.requantize(%a, 0.2f, 0, {0}, 0)", "the output scale must be one number"),
        ("qnn.dense(reshape(%a, newshape=[1, 256]), reshape(%a, newshape=[1, 256]), 300, 0, 1f, 1f)",
         "300 is no zero point of int8"),
        ("qnn.add(%a, %a, 1f, 0, 1f, 0, 1f)", "qnn.add of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(call: str, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"line 3, column \d+: .*{reason}"):
        module(call, {"a": A}, f32([0.1, 0.2]))
