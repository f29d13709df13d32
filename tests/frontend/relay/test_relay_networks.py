"""Whole networks in Relay text: a residual one, a mobile one, an encoder, a quantized residual one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from relay_text import Twin, metadata, parameters

import dlcomp

NEW = [False, True]


def check(twin: Twin, text: str, network: object, shape: tuple[int, ...]) -> None:
    x = twin.rng.standard_normal(shape).astype("float32")
    session = onnxruntime.InferenceSession(network.SerializeToString())  # type: ignore[attr-defined]
    (right,) = session.run(None, {"data": x})
    (left,) = dlcomp.load(text.encode()).compile().run({"data": x}).values()
    assert left.shape == right.shape
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5 * np.ptp(right))


def conv(t: Twin, x: tuple[str, str], w: np.ndarray, stride: int = 1, groups: int = 1) -> tuple[str, str]:
    pad = (w.shape[2] - 1) // 2
    more = {"strides": [stride, stride]} if stride != 1 else {}
    more |= {"groups": groups} if groups != 1 else {}
    size = {"channels": w.shape[0], "kernel_size": list(w.shape[2:])}
    left = t.relay("nn.conv2d", [x[0], t.meta(w)], **more, padding=[pad] * 4, **size)
    right = t.onnx("Conv", [x[1], w], strides=[stride] * 2, pads=[pad] * 4, group=groups)
    return left, right


def norm(t: Twin, x: tuple[str, str], channels: int) -> tuple[str, str]:
    arrays = [t.weight(channels), t.weight(channels), t.weight(channels), t.weight(channels, low=0.5)]
    both = t.relay("nn.batch_norm", [x[0], *map(t.meta, arrays)], epsilon=0.001)
    return t.project(both, 0), t.onnx("BatchNormalization", [x[1], *arrays], epsilon=0.001)


def relu(t: Twin, x: tuple[str, str]) -> tuple[str, str]:
    return t.relay("nn.relu", [x[0]]), t.onnx("Relu", [x[1]])


@pytest.mark.parametrize("new", NEW)
def test_residual_network(new: bool) -> None:
    t = Twin((1, 3, 32, 32), new)
    x = relu(t, norm(t, conv(t, ("%data", "data"), t.weight(16, 3, 7, 7), 2), 16))
    pool = {"strides": [2, 2], "padding": [1, 1, 1, 1]}
    x = (
        t.relay("nn.max_pool2d", [x[0]], pool_size=[3, 3], **pool),
        t.onnx("MaxPool", [x[1]], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    )
    for channels, stride in ((16, 1), (24, 2)):
        before = x
        if stride == 2:
            before = norm(t, conv(t, x, t.weight(channels, 16, 1, 1), 2), channels)
        y = relu(t, norm(t, conv(t, x, t.weight(channels, 16, 3, 3), stride), channels))
        y = norm(t, conv(t, y, t.weight(channels, channels, 3, 3)), channels)
        x = relu(t, (t.relay("add", [y[0], before[0]]), t.onnx("Add", [y[1], before[1]])))
    x = t.relay("nn.global_avg_pool2d", [x[0]]), t.onnx("GlobalAveragePool", [x[1]])
    x = t.relay("nn.batch_flatten", [x[0]]), t.onnx("Flatten", [x[1]])
    w, b = t.weight(10, 24), t.weight(10)
    left = t.relay("nn.dense", [x[0], t.meta(w)], units=10)
    left = t.relay("nn.bias_add", [left, t.meta(b)], axis=-1)
    left = t.relay("nn.softmax", [left])
    right = t.onnx("Softmax", [t.onnx("Gemm", [x[1], w, b], transB=1)], axis=-1)
    check(t, t.text(left), t.network(right), t.shape)


@pytest.mark.parametrize("new", NEW)
def test_mobile_network_with_channels_last(new: bool) -> None:
    """As it came from TFLite: NHWC, HWIO, depthwise kernels in HWOI, clips for ReLU6."""
    t = Twin((1, 24, 24, 3), new)
    first = t.weight(3, 3, 3, 8)
    more = {"data_layout": "NHWC", "kernel_layout": "HWIO", "kernel_size": [3, 3]}
    left = t.relay(
        "nn.conv2d", ["%data", t.meta(first)], strides=[2, 2], padding=[0, 0, 1, 1], channels=8, **more
    )
    right = t.onnx("Transpose", ["data"], perm=[0, 3, 1, 2])
    right = t.onnx("Conv", [right, first.transpose(3, 2, 0, 1)], strides=[2, 2], pads=[0, 0, 1, 1])
    six = (np.array(0, "float32"), np.array(6, "float32"))
    for channels, stride in ((16, 1), (24, 2)):
        before = 8 if channels == 16 else 16
        depth, point, bias = t.weight(3, 3, before, 1), t.weight(1, 1, before, channels), t.weight(channels)
        more = {"data_layout": "NHWC", "kernel_layout": "HWOI", "kernel_size": [3, 3]}
        left = t.relay(
            "nn.conv2d", [left, t.meta(depth)], strides=[stride] * 2, padding=[1] * 4, groups=before,
            channels=before, **more,
        )  # fmt: skip
        right = t.onnx(
            "Conv", [right, depth.transpose(2, 3, 0, 1)], strides=[stride] * 2, pads=[1] * 4, group=before
        )
        left = t.relay("clip", [left], a_min=0.0, a_max=6.0)
        right = t.onnx("Clip", [right, *six])
        more = {"data_layout": "NHWC", "kernel_layout": "HWIO", "kernel_size": [1, 1]}
        left = t.relay("nn.conv2d", [left, t.meta(point)], padding=[0] * 4, channels=channels, **more)
        left = t.relay("nn.bias_add", [left, t.meta(bias)], axis=3)
        left = t.relay("clip", [left], a_min=0.0, a_max=6.0)
        right = t.onnx("Clip", [t.onnx("Conv", [right, point.transpose(3, 2, 0, 1), bias]), *six])
    left = t.relay("nn.avg_pool2d", [left], pool_size=[6, 6], padding=[0] * 4, layout="NHWC")
    left = t.relay("reshape", [left], newshape=[-1, 24])
    right = t.onnx("Flatten", [t.onnx("AveragePool", [right], kernel_shape=[6, 6])])
    check(t, t.text(left), t.network(right), t.shape)


@pytest.mark.parametrize("new", NEW)
def test_encoder(new: bool) -> None:
    """A layer of BERT: dense layers, heads by reshape and transpose, batch_matmul, erf, layer norm."""
    steps, width, heads = 10, 24, 3
    part = width // heads
    t = Twin((1, steps, width), new)
    projected = []
    for name in "qkv":
        w, b = t.weight(width, width), t.weight(width)
        left = t.relay("reshape", ["%data"], newshape=[-3, -2])
        left = t.relay("nn.dense", [left, t.meta(w)], units=width)
        left = t.relay("add", [left, t.meta(b)])
        left = t.relay("reshape", [left], newshape=[1, steps, heads, part])
        left = t.relay("transpose", [left], axes=[0, 2, 3, 1] if name == "v" else [0, 2, 1, 3])
        left = t.relay("reshape", [left], newshape=[-3, -2])
        right = t.onnx("Add", [t.onnx("MatMul", ["data", w.T.copy()]), b])
        right = t.onnx("Reshape", [right, np.array([1, steps, heads, part])])
        projected.append((left, t.onnx("Transpose", [right], perm=[0, 2, 1, 3])))
    (q, q2), (k, k2), (v, v2) = projected
    scores = t.relay("nn.batch_matmul", [q, k])
    scores = t.relay("divide", [scores, f"{np.sqrt(part):.7g}f"])
    share = t.relay("nn.softmax", [scores], axis=-1)
    mixed = t.relay("nn.batch_matmul", [share, v])
    mixed = t.relay("reshape", [mixed], newshape=[-4, 1, heads, -2])
    mixed = t.relay("transpose", [mixed], axes=[0, 2, 1, 3])
    mixed = t.relay("reshape", [mixed], newshape=[0, 0, -3])
    joined = t.relay("add", [mixed, "%data"])
    scores2 = t.onnx("MatMul", [q2, t.onnx("Transpose", [k2], perm=[0, 1, 3, 2])])
    scores2 = t.onnx("Div", [scores2, np.array(float(f"{np.sqrt(part):.7g}"), "float32")])
    mixed2 = t.onnx("MatMul", [t.onnx("Softmax", [scores2], axis=-1), v2])
    mixed2 = t.onnx("Transpose", [mixed2], perm=[0, 2, 1, 3])
    mixed2 = t.onnx("Reshape", [mixed2, np.array([1, steps, width])])
    joined2 = t.onnx("Add", [mixed2, "data"])
    gamma, beta = t.weight(width, low=0.5), t.weight(width)
    # Layer normalisation as PyTorch's importer wrote it, and as the operator.
    mean = t.relay("mean", [joined], axis=[-1], keepdims=True)
    centred = t.relay("subtract", [joined, mean])
    spread = t.relay("mean", [t.relay("multiply", [centred, centred])], axis=[-1], keepdims=True)
    spread = t.relay("sqrt", [t.relay("add", [spread, "1e-05f"])])
    x = t.relay("divide", [centred, spread])
    x = t.relay("add", [t.relay("multiply", [x, t.meta(gamma)]), t.meta(beta)])
    x2 = t.onnx("LayerNormalization", [joined2, gamma, beta], axis=-1, epsilon=1e-5)
    inner = t.weight(48, width)
    h = t.relay("nn.dense", [x, t.meta(inner)], units=48)
    scaled = t.relay("erf", [t.relay("multiply", [h, "0.707107f"])])
    h = t.relay("multiply", [t.relay("multiply", [h, "0.5f"]), t.relay("add", [scaled, "1f"])])
    h = t.relay("nn.layer_norm", [h, t.meta(np.ones(48, "float32")), t.meta(np.zeros(48, "float32"))])
    h2 = t.onnx("MatMul", [x2, inner.T.copy()])
    scaled2 = t.onnx("Erf", [t.onnx("Mul", [h2, np.array(0.707107, "float32")])])
    half = t.onnx("Mul", [h2, np.array(0.5, "float32")])
    h2 = t.onnx("Mul", [half, t.onnx("Add", [scaled2, np.array(1, "float32")])])
    h2 = t.onnx("LayerNormalization", [h2, np.ones(48, "float32"), np.zeros(48, "float32")], axis=-1)
    check(t, t.text(h), t.network(h2), t.shape)


def requantized(total: np.ndarray, ratio: np.ndarray, zero: int) -> np.ndarray:
    """Fixed-point requantization in exact integers, written from its definition."""
    result = np.zeros(total.shape, np.int64)
    for channel in range(total.shape[1]):
        fraction, exponent = np.frexp(float(ratio[channel]))
        multiplier = int(np.floor(fraction * 2**31 + 0.5))
        shift = 31 - int(exponent)
        for index, value in np.ndenumerate(total[:, channel]):
            scaled = (int(value) * multiplier + (1 << (shift - 1))) >> shift
            result[(index[0], channel, *index[1:])] = scaled
    return np.clip(result + zero, -128, 127).astype(np.int8)


def convolved(x: np.ndarray, w: np.ndarray, pad: int) -> np.ndarray:
    wide = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, w.shape[2:], axis=(2, 3))
    result: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64))
    return result


@pytest.mark.parametrize("new", NEW)
def test_quantized_residual_network(new: bool) -> None:
    """Every step in NumPy's integers: equal to the bit."""
    t = Twin((1, 3, 10, 10), new, seed=3)
    scale_x, zero_x = 0.05, -3
    f32, i32 = (lambda v: np.array(v, "float32")), (lambda v: np.array(v, "int32"))
    q = t.relay(
        "qnn.quantize", ["%data", t.meta(f32(scale_x)), t.meta(i32(zero_x))], out_dtype="int8", axis=1
    )
    x = t.rng.standard_normal(t.shape).astype("float32") * 4
    steps = x / f32(scale_x)
    data = np.clip(np.sign(steps) * np.floor(np.abs(steps) + np.float32(0.5)) + zero_x, -128, 127)
    data = data.astype(np.int8)
    value, scale, zero = q, scale_x, zero_x
    channels = 3
    for out, scale_y, zero_y in ((8, 0.11, 5), (8, 0.21, -7)):
        w = t.rng.integers(-127, 128, (out, channels, 3, 3)).astype(np.int8)
        bias = t.rng.integers(-2000, 2000, out).astype(np.int32)
        scale_w = t.rng.uniform(0.001, 0.004, out).astype("float32")
        left = t.relay(
            "qnn.conv2d",
            [value, t.meta(w), t.meta(i32(zero)), t.meta(i32(0)), t.meta(f32(scale)), t.meta(scale_w)],
            padding=[1, 1, 1, 1], channels=out, kernel_size=[3, 3], out_dtype="int32",
        )  # fmt: skip
        left = t.relay("nn.bias_add", [left, t.meta(bias)])
        scales = (np.float32(scale) * scale_w).astype("float32")
        left = t.relay(
            "qnn.requantize",
            [left, t.meta(scales), t.meta(i32(0)), t.meta(f32(scale_y)), t.meta(i32(zero_y))],
            axis=1, out_dtype="int8",
        )  # fmt: skip
        total = convolved(data.astype(np.int64) - zero, w, 1) + bias[None, :, None, None]
        ratio = scales.astype(np.float64) / np.float64(np.float32(scale_y))
        made = requantized(total, ratio, zero_y)
        if channels == out:
            rest = [t.meta(f32(scale)), t.meta(i32(zero)), t.meta(f32(scale_y)), t.meta(i32(zero_y))]
            rest += [t.meta(f32(0.3)), t.meta(i32(2))]
            left = t.relay("qnn.add", [value, left, *rest])
            ends = ((data, scale, zero), (made, scale_y, zero_y))
            whole = [
                requantized(
                    (part.astype(np.int64) - z)[:, None],
                    np.array([float(np.float32(s)) / float(np.float32(0.3))]),
                    0,
                )
                for part, s, z in ends
            ]
            wide = [_wide(part, s, z) for part, s, z in ends]
            assert all(w.shape[1] == 1 for w in whole)
            made = np.clip(wide[0] + wide[1] + 2, -128, 127).astype(np.int8)
            scale_y, zero_y = 0.3, 2
        value, scale, zero, data, channels = left, scale_y, zero_y, made, out
    final = t.relay("qnn.dequantize", [value, t.meta(f32(scale)), t.meta(i32(zero))])
    (found,) = dlcomp.load(t.text(final).encode()).compile().run({"data": x}).values()
    right = (data.astype(np.int32) - zero).astype("float32") * f32(scale)
    np.testing.assert_array_equal(found, right)


def _wide(part: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """One operand of the sum, in steps of the result's scale 0.3."""
    fraction, exponent = np.frexp(float(np.float32(scale)) / float(np.float32(0.3)))
    multiplier, shift = int(np.floor(fraction * 2**31 + 0.5)), 31 - int(exponent)
    result = np.zeros(part.shape, np.int64)
    for index, value in np.ndenumerate(part):
        result[index] = ((int(value) - zero) * multiplier + (1 << (shift - 1))) >> shift
    return result


def test_weights_from_a_file_of_parameters(tmp_path: Path) -> None:
    code = """#[version = "0.0.5"]
def @main(%data: Tensor[(2, 3), float32], %fc.weight: Tensor[(4, 3), float32],
          %fc.bias: Tensor[(4), float32]) {
  %0 = nn.dense(%data, %fc.weight, units=4);
  nn.bias_add(%0, %fc.bias, axis=-1)
}
"""
    rng = np.random.default_rng(0)
    values = {
        "fc.weight": rng.standard_normal((4, 3)).astype("float32"),
        "fc.bias": rng.standard_normal(4).astype("float32"),
    }
    x = rng.standard_normal((2, 3)).astype("float32")
    right = x @ values["fc.weight"].T + values["fc.bias"]
    path = tmp_path / "net.relay"
    path.write_text(code)
    (tmp_path / "net.params").write_bytes(parameters(values))
    np.savez(tmp_path / "net.npz", **values)
    for given in (values, tmp_path / "net.params", tmp_path / "net.npz"):
        model = dlcomp.load(path, values=given)
        assert [spec.name for spec in model.signature.inputs] == ["data"]
        (found,) = model.compile().run({"data": x}).values()
        np.testing.assert_allclose(found, right, rtol=1e-5)
    whole = dlcomp.load(path)
    assert [spec.name for spec in whole.signature.inputs] == ["data", "fc.weight", "fc.bias"]
    result = dlcomp.verify(whole, whole.compile())
    assert result.ok


def test_metadata_is_read_whatever_its_types() -> None:
    arrays = [np.arange(6, dtype=d).reshape(2, 3) for d in ("float32", "float64", "int8", "uint8", "int64")]
    code = """#[version = "0.0.5"]
def @main(%x: Tensor[(2, 3), float32]) {
  %0 = cast({}, dtype="float32");
  add(%x, %0)
}
"""
    for place in range(len(arrays)):
        text = code.replace("{}", f"meta[relay.Constant][{place}]", 1) + metadata(arrays)
        (found,) = dlcomp.load(text.encode()).compile().run({"x": np.ones((2, 3), "float32")}).values()
        np.testing.assert_array_equal(found, 1 + np.arange(6, dtype="float32").reshape(2, 3))
