"""The text format in its odd forms, each operator alone against NumPy, and text that is damaged."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from relay_text import Twin, metadata

import dlcomp
from dlcomp.errors import ModelError

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")


def run(code: str, **feed: np.ndarray) -> list[np.ndarray]:
    return list(dlcomp.load(code.encode()).compile().run(feed).values())


def module(expression: str, head: str = "%x: Tensor[(2, 3, 4), float32]") -> str:
    return f'#[version = "0.0.5"]\ndef @main({head}) {{\n  {expression}\n}}\n'


@pytest.mark.parametrize(
    "code",
    [
        # Let bindings, types on them, an expression inside an expression.
        module("let %a: Tensor[(2, 3, 4), float32] = negative(%x);\n  nn.relu(add(%a, multiply(%x, 3f)))"),
        # A function of its own, called by name.
        "def @twice(%v: Tensor[(2, 3, 4), float32]) -> Tensor[(2, 3, 4), float32] {\n  add(%v, %v)\n}\n"
        + module("%0 = @twice(%x);\n  nn.relu(%0)").split("\n", 1)[1],
        # A function inside, with attributes among its parameters.
        module(
            '%1 = fn (%p0: Tensor[(2, 3, 4), float32], Primitive=1, hash="ab") '
            "-> Tensor[(2, 3, 4), float32] {\n    add(%p0, %p0)\n  };\n  %2 = %1(%x);\n  nn.relu(%2)"
        ),
        # Tuples in tuples, and a field of a field.
        module("%0 = (%x, (negative(%x), %x));\n  %1 = %0.1;\n  nn.relu(add(%1.1, add(%1.0, %0.0)))"),
        # A function alone, as older releases printed it, and comments of both kinds.
        "fn (%x: Tensor[(2, 3, 4), float32]) {\n  // one\n  %0 = add(%x, %x /* two */);\n  nn.relu(%0)\n}",
        "free_var %x: Tensor[(2, 3, 4), float32];\n%0 = add(%x, %x);\nnn.relu(%0)",
        # A branch that a constant decides.
        module("if (True) {\n    nn.relu(add(%x, %x))\n  } else {\n    %x\n  }"),
        # Attributes over several lines, with a dangling comma and words without quotes.
        module('%0 = concatenate((%x, %x,), axis=0);\n  %1 = sum(%0,\n    axis=None,\n    keepdims=False);\n'
               "  add(nn.relu(add(%x, %x)), multiply(%1, 0f))"),
    ],
)  # fmt: skip
def test_forms(code: str) -> None:
    (found,) = run(code, x=X)
    three = "multiply(%x, 3f)" in code
    one = "%0.0" in code
    right = np.maximum(X if one else 2 * X, 0) if not three else np.maximum(-X + 3 * X, 0)
    np.testing.assert_allclose(found, right, rtol=1e-6)


CASES: dict[str, Any] = {
    "reshape(%x, newshape=[0, -1])": X.reshape(2, 12),
    "reshape(%x, newshape=[-3, 0])": X.reshape(6, 4),
    "reshape(%x, newshape=[-4, 1, 2, -2])": X.reshape(1, 2, 3, 4),
    "reshape(%x, newshape=[-4, -1, 2, 0, 0])": X.reshape(1, 2, 3, 4),
    "transpose(%x, axes=None)": X.transpose(),
    "squeeze(expand_dims(%x, axis=-1, num_newaxis=2), axis=[3])": X[..., None],
    "strided_slice(%x, begin=[0, 1], end=[2, 3], strides=[1], axes=[0, 2])": X[:, :, 1:3],
    'strided_slice(%x, begin=[0, 1, 0], end=[-1, 2, 2], strides=[1], slice_mode="size")': X[:, 1:3, :2],
    "strided_slice(%x, begin=[-1], end=[-3], strides=[-1], axes=[1])": X[:, :-3:-1],
    "stack((%x, %x), axis=1)": np.stack([X, X], 1),
    "split(%x, indices_or_sections=2, axis=2).1": X[:, :, 2:],
    "split(%x, indices_or_sections=[1], axis=1).1": X[:, 1:],
    "take(%x, 1, axis=1)": X[:, 1],
    "tile(%x, reps=[2, 1])": np.tile(X, (2, 1)),
    "repeat(%x, repeats=2, axis=-1)": np.repeat(X, 2, -1),
    "broadcast_to(mean(%x, axis=[1], keepdims=True), shape=[2, 3, 4])": np.broadcast_to(
        X.mean(1, keepdims=True), X.shape
    ),
    "sum(%x, axis=[0], exclude=True)": X.sum((1, 2)),
    "max(%x, axis=[-1])": X.max(-1),
    "variance(%x, mean(%x, axis=[2], keepdims=True), axis=[2])": X.var(2),
    "argmax(%x, axis=[1])": X.argmax(1).astype("int32"),
    "rsqrt(abs(%x))": 1 / np.sqrt(np.abs(X)),
    "clip(%x, a_min=-0.5f, a_max=0.25f)": X.clip(-0.5, 0.25),
    'cast(%x, dtype="int32")': X.astype("int32"),
    "where(greater(%x, 0f), %x, zeros_like(%x))": np.where(X > 0, X, 0),
    "not_equal(%x, %x)": np.zeros(X.shape, bool),
    "nn.pad(%x, 1f, pad_width=[[0, 0], [1, 0], [0, 2]])": np.pad(
        X, ((0, 0), (1, 0), (0, 2)), constant_values=1
    ),
    "nn.leaky_relu(%x, alpha=0.25f)": np.where(X > 0, X, 0.25 * X),
    "nn.log_softmax(%x, axis=1)": X - np.log(np.exp(X).sum(1, keepdims=True)),
    "add(%x, full(2f, shape=[4], dtype=\"float32\"))": X + 2,
    "add(%x, ones(shape=[3, 1], dtype=\"float32\"))": X + 1,
    "nn.batch_matmul(%x, %x)": X @ X.transpose(0, 2, 1),
    "nn.matmul(%x, %x, transpose_b=True)": X @ X.transpose(0, 2, 1),
    "layout_transform(%x, src_layout=\"NCW\", dst_layout=\"NWC\")": X.transpose(0, 2, 1),
    "floor_divide(cast(multiply(%x, 10f), dtype=\"int32\"), 3)": np.floor_divide((X * 10).astype("int32"), 3),
}  # fmt: skip


@pytest.mark.parametrize("expression", CASES)
def test_operators(expression: str) -> None:
    (found,) = run(module(expression), x=X)
    right = CASES[expression]
    assert found.shape == right.shape
    assert found.dtype == right.dtype
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["nearest_neighbor", "bilinear"])
def test_upsampling(method: str) -> None:
    x = np.arange(24, dtype="float32").reshape(1, 2, 3, 4)
    code = module(
        f'nn.upsampling(%x, scale_h=2f, scale_w=3f, method="{method}")', "%x: Tensor[(1, 2, 3, 4), float32]"
    )
    (found,) = run(code, x=x)
    assert found.shape == (1, 2, 6, 12)
    np.testing.assert_allclose(found[:, :, ::2, ::3], x, rtol=1e-5)


def test_two_results() -> None:
    found = run(module("(nn.relu(%x), %x)"), x=X)
    np.testing.assert_array_equal(found[0], np.maximum(X, 0))
    np.testing.assert_array_equal(found[1], X)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (module("nn.fancy(add(%x, other.op(%x)))"), "unsupported Relay operators: nn.fancy, other.op"),
        (module("nn.relu(%y)"), r"line 3, column 11: %y is not bound"),
        (module("%0 = (%x, %x);\n  nn.relu(%0.2)"), "line 4.*no field 2"),
        (module("nn.dense(%x, meta[relay.Constant][0], units=3)"), r"line 3.*meta\[relay.Constant\]\[0\]"),
        (module("concatenate((%x, %x)"), "line 4"),
        (module("nn.max_pool2d(%x, pool_size=[2, 2])"), r"nn.max_pool2d of float32\[2, 3, 4\]"),
        (module("clip(%x, a_min=0f)"), "it has no attribute 'a_max'"),
        (module("add(%x, 1f)", "%x: Tensor[(?, 3), float32]"), "no type with known dimensions"),
        (module("if (greater(%x, 0f)) { %x } else { %x }"), "the data decide"),
        ("def @other(%x: Tensor[(2), float32]) {\n  %x\n}\n", "no function @main"),
        ('#[version = "0.0.5"]\ndef @main(%x: int32) {\n  @main(%x)\n}\n', "too deep"),
        (module("nn.relu(%x)") + "#[metadata]\n{}", "metadata section is damaged"),
    ],
)
def test_errors_name_the_place(code: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        dlcomp.load(code.encode())


def whole() -> str:
    t = Twin((1, 2, 6, 6), True)
    x = t.relay("nn.conv2d", ["%data", t.meta(t.weight(4, 2, 3, 3))], padding=[1, 1, 1, 1])
    return t.text(t.relay("nn.relu", [x]))


def test_text_that_is_cut_off_is_refused() -> None:
    text = whole()
    code = len(text.partition("#[metadata]")[0])
    for end in [*range(30, code, 7), *range(code + 12, len(text) - 2, 97)]:
        with pytest.raises(ModelError):
            dlcomp.load(text[:end].encode())


def test_damaged_text_never_ends_in_a_traceback_of_another_kind() -> None:
    rng = np.random.default_rng(0)
    text = whole()
    for _ in range(150):
        place = int(rng.integers(20, len(text)))
        letter = chr(int(rng.integers(32, 127)))
        # Anything but a ModelError fails the test; a change inside a number may leave a sound module.
        with contextlib.suppress(ModelError):
            dlcomp.load((text[:place] + letter + text[place + 1 :]).encode())


def test_a_cut_off_array_is_refused() -> None:
    good = metadata([np.zeros((2, 3, 4), "float32")])
    code = module("add(%x, meta[relay.Constant][0])")
    assert run(code + good, x=X)
    start = good.index('"b64ndarrays"') + 20
    with pytest.raises(ModelError, match="damaged"):
        dlcomp.load((code + good[:start] + good[start + 40 :]).encode())
