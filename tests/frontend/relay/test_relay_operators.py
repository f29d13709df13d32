"""Operators whose meaning is TVM's own, against TVM's operator library, with its defaults."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_text import metadata
from topi_reference import compute

import dlcomp
from dlcomp.errors import ModelError
from dlcomp.frontend.builder import Builder
from dlcomp.frontend.relay.layouts import to_layout

RNG = np.random.default_rng(7)
IMAGE = RNG.standard_normal((2, 4, 9, 7)).astype("float32")
WHOLE = RNG.integers(-100, 100, (2, 4, 9, 7)).astype("int32")
HALVES = np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997, -0.49999997, 8388609.0, 3e9]], "float32")


def run(expression: str, feed: dict[str, np.ndarray], *constants: np.ndarray) -> np.ndarray:
    """The one result of ``expression`` of ``%x`` and so on, and of constants ``{0}``, ``{1}``."""
    head = ", ".join(f"%{k}: Tensor[{tuple(v.shape)}, {v.dtype}]" for k, v in feed.items())
    for place in range(len(constants)):
        expression = expression.replace(f"{{{place}}}", f"meta[relay.Constant][{place}]")
    text = f'#[version = "0.0.5"]\ndef @main({head}) {{\n  {expression}\n}}\n'
    (found,) = dlcomp.load((text + metadata(list(constants))).encode()).compile().run(feed).values()
    return found


def same(found: np.ndarray, right: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.shape == right.shape
    assert found.dtype == right.dtype
    if right.dtype.kind == "f":
        np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance * np.abs(right).max())
    else:
        np.testing.assert_array_equal(found, right)


def topi() -> Any:
    from tvm import topi as library

    return library


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("data", [IMAGE, WHOLE], ids=["floats", "integers"])
def test_pooling(data: np.ndarray, kind: str, ceil: bool, counted: bool) -> None:
    """Average of integers is cut towards zero, and what ceil_mode adds is never counted as padding."""
    pads = [1, 0, 1, 1]
    right = compute(
        lambda x: topi().nn.pool2d(x, (3, 2), (2, 2), (1, 1), pads, kind, ceil, "NCHW", counted), data
    )
    more = f", count_include_pad={counted}" if kind == "avg" else ""
    expression = (
        f"nn.{kind}_pool2d(%x, pool_size=[3, 2], strides=[2, 2], padding={pads}, ceil_mode={ceil}{more})"
    )
    same(run(expression, {"x": data}), right)


@pytest.mark.parametrize("data", [IMAGE, WHOLE], ids=["floats", "integers"])
def test_dilated_pooling(data: np.ndarray) -> None:
    right = compute(
        lambda x: topi().nn.pool2d(x, (2, 2), (1, 2), (3, 2), [0, 1, 1, 0], "avg", False, "NCHW", False), data
    )
    expression = "nn.avg_pool2d(%x, pool_size=[2, 2], strides=[1, 2], dilation=[3, 2], padding=[0, 1, 1, 0])"
    same(run(expression, {"x": data}), right)


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (4, 3), (2, 5)])
def test_adaptive_pooling(kind: str, size: tuple[int, int]) -> None:
    right = compute(lambda x: topi().nn.adaptive_pool(x, size, kind), IMAGE)
    same(run(f"nn.adaptive_{kind}_pool2d(%x, output_size={list(size)})", {"x": IMAGE}), right)


def test_pooling_of_integers_over_the_image() -> None:
    right = compute(lambda x: topi().nn.global_pool(x, "avg"), WHOLE)
    for expression in ("nn.global_avg_pool2d(%x)", "nn.adaptive_avg_pool2d(%x, output_size=[1])"):
        same(run(expression, {"x": WHOLE}), right)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("size", [(18, 21), (13, 11), (5, 4)])
@pytest.mark.parametrize("method", ["nearest_neighbor", "linear", "cubic"])
def test_resize(method: str, size: tuple[int, int], coordinates: str) -> None:
    """An empty rounding method is down (but the nearest for aligned corners), none at all is the nearest, a
    half up; a cubic spline has -0.5."""
    up = "round_prefer_ceil"
    empty = up if coordinates == "align_corners" else ""
    for printed, meant in ((', rounding_method=""', empty), ("", up)):
        right = compute(
            lambda x, meant=meant: topi().image.resize2d(
                x, (0.0,) * 4, size, "NCHW", method, coordinates, meant, -0.5, 0
            ),
            IMAGE,
        )
        expression = (
            f'image.resize2d(%x, size={list(size)}, roi=[0f, 0f, 0f, 0f], method="{method}", '
            f'coordinate_transformation_mode="{coordinates}"{printed})'
        )
        same(run(expression, {"x": IMAGE}), right, 1e-4)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("method", ["nearest_neighbor", "bilinear"])
def test_upsampling(method: str, corners: bool) -> None:
    right = compute(lambda x: topi().nn.upsampling(x, 2, 2, "NCHW", method, corners), IMAGE)
    expression = f'nn.upsampling(%x, scale_h=2f, scale_w=2f, method="{method}", align_corners={corners})'
    same(run(expression, {"x": IMAGE}), right, 1e-4)


def test_rounding_is_away_from_zero() -> None:
    """As C's round, which TVM called until it was changed to even after 0.19."""
    right = [[-3, -2, -1, 1, 2, 3, 0, -0.0, 8388609.0, 3e9]]
    same(run("round(%x)", {"x": HALVES}), np.array(right, "float32"), 0)


@pytest.mark.parametrize("name", ["mod", "floor_mod", "floor_divide"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_divisions_of_either_sign(name: str, dtype: str) -> None:
    x, y = (RNG.integers(-20, 20, (50,)).astype(dtype) for _ in range(2))
    y = np.where(y == 0, 3, y).astype(dtype)
    right = {"mod": np.fmod, "floor_mod": np.mod, "floor_divide": np.floor_divide}[name](x, y)
    same(run(f"{name}(%x, %y)", {"x": x, "y": y}), right.astype(dtype))


def test_what_is_finite() -> None:
    x = np.array([1, np.inf, -np.inf, np.nan, 0], "float32")
    same(run("isfinite(%x)", {"x": x}), np.isfinite(x))


@pytest.mark.parametrize(
    ("expression", "reference"),
    [
        # Defaults that differ from those of ONNX, and from those of Relay's Python functions.
        ("nn.leaky_relu(%x)", lambda x: topi().nn.leaky_relu(x, 0.25)),
        ("nn.lrn(%x)", lambda x: topi().nn.lrn(x, 5, 1, 0.0001, 0.75, 2)),
        ("nn.lrn(%x, size=3, axis=3, bias=1f, alpha=0.5f, beta=0.5f)",
         lambda x: topi().nn.lrn(x, 3, 3, 0.5, 0.5, 1)),
        ("nn.softmax(%x)", lambda x: topi().nn.softmax(x, -1)),
        ("nn.l2_normalize(%x, eps=0.001f, axis=[1])", None),
        ('nn.depth_to_space(%x, block_size=2, mode="CDR")',
         lambda x: topi().nn.depth_to_space(x, 2, "NCHW", "CDR")),
        ("nn.depth_to_space(%x, block_size=2)", lambda x: topi().nn.depth_to_space(x, 2, "NCHW", "DCR")),
        ('layout_transform(%x, src_layout="NCHW", dst_layout="NCHW2c")',
         lambda x: topi().layout_transform(x, "NCHW", "NCHW2c")),
        ('layout_transform(%x, src_layout="NCHW", dst_layout="NHWC")',
         lambda x: topi().layout_transform(x, "NCHW", "NHWC")),
        ("strided_slice(%x, begin=[-1], end=[-9999], strides=[-2], axes=[2])",
         lambda x: topi().strided_slice(x, [-1], [-9999], [-2], [2])),
        ("take(%x, {0}, axis=2)", lambda x, i: topi().take(x, i, 2, mode="clip")),
        ('take(%x, {0}, axis=2, mode="wrap")', lambda x, i: topi().take(x, i, 2, mode="wrap")),
        ("take(%x, {0})", lambda x, i: topi().take(x, i, mode="clip")),
        ("reverse(%x, axis=2)", lambda x: topi().flip(x, 2)),
        ("cumsum(%x, axis=1)", None),
        ("argmax(%x)", None),
        ("trunc(%x)", None),
        ("mean(%x, axis=[1, 2], exclude=True, keepdims=True)", None),
    ],
)  # fmt: skip
def test_operators_of_images(expression: str, reference: Any) -> None:
    numpy = {
        "nn.l2": lambda x: x / np.sqrt(np.maximum((x * x).sum(1, keepdims=True), 1e-3)),
        "cumsum": lambda x: np.cumsum(x, 1),
        "trunc": np.trunc,
        "argmax": lambda x: np.array(np.argmax(x), "int32"),
        "mean": lambda x: x.mean((0, 3), keepdims=True),
    }
    constants = [np.array([0, 8, -3, 40, 5], "int32")] if "{0}" in expression else []
    if reference is not None:
        right = compute(reference, IMAGE, *constants)
    else:
        right = next(f for name, f in numpy.items() if expression.startswith(name))(IMAGE)
    same(run(expression, {"x": IMAGE}, *constants), right)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NCHW2c"])
@pytest.mark.parametrize(("groups", "dilation", "multiplier"), [(1, 1, 1), (1, 2, 1), (2, 1, 1), (4, 1, 3)])
def test_convolution(layout: str, groups: int, dilation: int, multiplier: int) -> None:
    """Every layout is the same convolution; a depthwise kernel is (channels, multiplier, ...)."""
    outputs = 4 * multiplier if groups == 4 else 6
    w = RNG.standard_normal((outputs, 4 // groups, 3, 3)).astype("float32")
    options = (2, 1), [1, 0, 1, 1], (dilation, dilation), groups
    right = compute(lambda x, w: topi().nn.group_conv2d_nchw(x, w, *options), IMAGE, w)
    kernel = w.reshape(4, multiplier, 3, 3) if groups == 4 else w
    attrs = f"strides=[2, 1], padding=[1, 0, 1, 1], dilation=[{dilation}, {dilation}], groups={groups}"
    attrs += f", channels={outputs}, kernel_size=[3, 3]"
    given, back = "%x", "{}"
    if layout == "NHWC":
        kernel = kernel.transpose(2, 3, 0, 1) if groups == 4 else kernel.transpose(2, 3, 1, 0)
        attrs += f', data_layout="NHWC", kernel_layout="{"HWOI" if groups == 4 else "HWIO"}"'
    elif layout == "NCHW2c":
        attrs += ', data_layout="NCHW2c"'
    if layout != "NCHW":
        given = f'layout_transform(%x, src_layout="NCHW", dst_layout="{layout}")'
        back = f'layout_transform({{}}, src_layout="{layout}", dst_layout="NCHW")'
    expression = back.replace("{}", f"nn.conv2d({given}, {{0}}, {attrs})")
    same(run(expression, {"x": IMAGE}, kernel), right, 1e-4)


@pytest.mark.parametrize("label", ["", ', kernel_layout="IOHW"', ', kernel_layout="OIHW"'])
def test_transposed_convolution(label: str) -> None:
    """Input channels first in memory; where a label says otherwise, the sizes decide."""
    w = RNG.standard_normal((4, 5, 3, 3)).astype("float32")
    right = compute(
        lambda x, w: topi().nn.conv2d_transpose_nchw(x, w, (2, 2), (1, 1, 1, 1), "float32", (1, 1)), IMAGE, w
    )
    attrs = "channels=5, kernel_size=[3, 3], strides=[2, 2], padding=[1, 1, 1, 1], output_padding=[1, 1]"
    turned = [w, w.transpose(1, 0, 2, 3)] if "OI" in label else [w]
    for kernel in turned:
        found = run(f"nn.conv2d_transpose(%x, {{0}}, {attrs}{label})", {"x": IMAGE}, kernel)
        same(found, right, 1e-4)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_convolution_and_products_of_integers(dtype: str) -> None:
    """What quantized graphs become when TVM lowers them: sums in int32."""
    x = RNG.integers(-100, 100, (1, 3, 6, 6)).astype(dtype)
    w = RNG.integers(-100, 100, (4, 3, 3, 3)).astype(dtype)
    right = compute(
        lambda x, w: topi().nn.conv2d_nchw(x, w, (1, 1), (1, 1), (1, 1), "int32"),
        *(a.astype("int32") for a in (x, w)),
    )
    same(run('nn.conv2d(%x, {0}, padding=[1, 1, 1, 1], out_dtype="int32")', {"x": x}, w), right)
    rows, units = x.reshape(18, 6), w.reshape(18, 6)
    right = rows.astype("int32") @ units.astype("int32").T
    same(run('nn.dense(%x, {0}, units=18, out_dtype="int32")', {"x": rows}, units), right)


def test_batch_matmul_is_turned_only_if_it_says_so() -> None:
    """Relay 0.8 to 0.19 prints ``transpose_b=True``; without it a square right operand stands as it is."""
    x, y = (RNG.standard_normal((2, 4, 4)).astype("float32") for _ in range(2))
    feed = {"x": x, "y": y}
    same(run("nn.batch_matmul(%x, %y)", feed), x @ y, 1e-5)
    same(run("nn.batch_matmul(%x, %y, transpose_b=True)", feed), x @ y.transpose(0, 2, 1), 1e-5)
    same(run("nn.batch_matmul(%x, %y, transpose_a=True)", feed), x.transpose(0, 2, 1) @ y, 1e-5)


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("expression", ["batch_norm", "layer_norm", "instance_norm"])
def test_normalisations_along_an_axis(expression: str, axis: int) -> None:
    channels = IMAGE.shape[axis]
    gamma, beta, mean = (RNG.standard_normal(channels).astype("float32") for _ in range(3))
    variance = RNG.uniform(0.5, 2, channels).astype("float32")
    row = [-1 if d == axis else 1 for d in range(4)]
    x = IMAGE.astype("float64")
    if expression == "batch_norm":
        centre, spread = mean.reshape(row), variance.reshape(row)
    else:
        over = (axis,) if expression == "layer_norm" else tuple({2, 3, 1} - {axis})
        centre, spread = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    right = (x - centre) / np.sqrt(spread + 0.01) * gamma.reshape(row) + beta.reshape(row)
    more = ", {2}, {3}" if expression == "batch_norm" else ""
    call = f"nn.{expression}(%x, {{0}}, {{1}}{more}, axis={axis}, epsilon=0.01f)"
    call += ".0" if expression == "batch_norm" else ""
    found = run(call, {"x": IMAGE}, gamma, beta, mean, variance)
    same(found, right.astype("float32"), 1e-4)


def test_group_norm() -> None:
    gamma, beta = (RNG.standard_normal(4).astype("float32") for _ in range(2))
    rows = IMAGE.reshape(2, 2, -1).astype("float64")
    right = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 1e-5)
    right = right.reshape(IMAGE.shape) * gamma[:, None, None] + beta[:, None, None]
    same(
        run("nn.group_norm(%x, {0}, {1}, num_groups=2)", {"x": IMAGE}, gamma, beta), right.astype("f4"), 1e-4
    )


def cuts_of(size: int) -> list[slice]:
    """Every cut of an axis that leaves something: places from either end, beyond the ends, any direction."""
    places = range(-12, 13)
    found = [slice(low, high, step) for step in (1, 2, 3, -1, -2) for low in places for high in places]
    return [cut for cut in found if len(range(*cut.indices(size)))]


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.integers(0, 3), st.randoms(use_true_random=False), min_size=1, max_size=3))
def test_slices_are_those_of_numpy(chosen: dict[int, Random]) -> None:
    cut = {axis: random.choice(cuts_of(IMAGE.shape[axis])) for axis, random in chosen.items()}
    begin, end, steps = ([getattr(c, part) for c in cut.values()] for part in ("start", "stop", "step"))
    call = f"strided_slice(%x, begin={begin}, end={end}, strides={steps}, axes={list(cut)})"
    same(run(call, {"x": IMAGE}), IMAGE[tuple(cut.get(axis, slice(None)) for axis in range(4))], 0)


@settings(max_examples=30, deadline=None)
@given(st.permutations("NCHW"), st.permutations("NCHW"), st.sampled_from([0, 2, 4]))
def test_layouts_and_back(one: list[str], two: list[str], block: int) -> None:
    """From any layout to any other and back is what it was, blocks included."""
    source, wanted = "".join(one), "".join(two) + (f"{block}c" if block else "")
    b = Builder()
    x = np.arange(4**4 * 3).reshape([12 if axis == "C" else 4 for axis in source])
    there = to_layout(b, b.constant(x), source, wanted)
    right = x.transpose([source.index(axis) for axis in two])
    if block:
        place = two.index("C")
        right = right.reshape(*right.shape[:place], 12 // block, block, *right.shape[place + 1 :])
        right = np.moveaxis(right, place + 1, -1)
    np.testing.assert_array_equal(b.array(there, "it"), right)
    np.testing.assert_array_equal(b.array(to_layout(b, there, wanted, source), "it"), x)


def test_look_ups() -> None:
    x = RNG.standard_normal((3, 4, 5)).astype("float32")
    places = np.array([[0, 2, 1], [3, 0, 1]], "int64")
    right = compute(lambda x, i: topi().gather_nd(x, i), x, places)
    same(run("gather_nd(%x, {0})", {"x": x}, places), right)
    label = np.array([1, 0, 3], "int32")
    right = np.eye(4, dtype="float32")[label]
    same(run('one_hot(%x, 1f, 0f, depth=4, dtype="float32")', {"x": label}), right)
    ordered = np.sort(x, 1)[:, ::-1][:, :2]
    same(run("topk(%x, k=2, axis=1).0", {"x": x}), ordered)
    same(run("argsort(%x, axis=2)", {"x": x}), np.argsort(x, 2).astype("int32"))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("nn.relu(%x, slope=2)", "the attribute slope is not supported"),
        ("take(%x, 1, axis=1, batch_dims=1)", "batch_dims is not supported"),
        ("reshape(%x, newshape=[3, 7])", r"\[2, 4, 9, 7\] does not take the shape \[3, 7\]"),
        ("transpose(%x, axes=[0, 1])", r"\[0, 1\] is no order of 4 axes"),
        ("nn.softmax(%x, axis=word)", "'word', not a whole number"),
        ("split(%x, indices_or_sections=5, axis=2)", "9 does not divide into 5 parts"),
        ('layout_transform(%x, src_layout="NCHW", dst_layout="NCHW3c")', "no multiple of the block"),
        ('layout_transform(%x, src_layout="NCHW", dst_layout="NXHW")', "not of the same axes"),
        ('image.resize2d(%x, size=[2, 2], method="fancy")', "the method fancy is not supported"),
        ('zeros(shape=[99999, 99999], dtype="float32")', "too large"),
        ('cast(%x, dtype="float33")', "the element type float33 is not supported"),
        ("nn.relu((%x, %x))", "a tuple or a function is no operand"),
        ("add(%x, 300i8)", "300 is no int8"),
        ('nn.avg_pool2d(cast(%x, dtype="int32"), pool_size=[99, 99])', "is too large"),
        ("repeat(%x, repeats=999999999, axis=1)", "too large"),
        ("nn.conv2d(%x, %x, groups=0)", "4 channels in 0 groups do not fit a kernel of 2 by 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(call: str, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"line 3, column \d+: .*{reason}"):
        run(call, {"x": IMAGE})
