"""Files as releases from 0.8 to 0.19 left them: marks, names, weights beside the text, and what is wrong."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from relay_text import Twin, metadata, parameters
from typer.testing import CliRunner

import dlcomp
from dlcomp.cli import app
from dlcomp.errors import ModelError
from dlcomp.frontend.relay import to_onnx

X = np.random.default_rng(0).standard_normal((2, 3)).astype("float32")
PLACE = re.compile(r"line \d+, column \d+: ")


def run(text: str | bytes, **feed: np.ndarray) -> np.ndarray:
    data = text.encode() if isinstance(text, str) else text
    (found,) = dlcomp.load(data).compile().run(feed).values()
    return found


MAIN = '#[version = "0.0.5"]\ndef @main(%x: Tensor[(2, 3), float32]) -> Tensor[(2, 3), float32] {\n'
DEVICE = (
    "VirtualDevice(device_type=2, virtual_device_id=0, target=Target(id=2763ed0, kind='cuda', "
    "keys={'cuda', 'gpu'}, attrs={'arch': \"sm_75\"}, host=Target(id=289d0a0, kind='llvm', keys={'cpu'})))"
)


@pytest.mark.parametrize(
    "text",
    [
        # A let that is no last value stands in parentheses.
        MAIN + "  %0 = (\n    let %a = negative(%x);\n    negative(%a)\n  );\n  add(%0, %x)\n}\n",
        # Devices on variables and functions, executors, hashes.
        MAIN.replace("%x:", f"%x {{virtual_device={DEVICE}}}:").replace(
            "32])", f'32], executor=meta[Executor][0], hash="23", virtual_device={DEVICE})', 1
        ) + "  add(%x, %x)\n}\n",
        MAIN.replace("%x:", "%x {virtual_device=meta[VirtualDevice][0]}:") + "  add(%x, %x)\n}\n",
        # A function with type parameters, types with comments, an index for a name, a span with ; and :.
        "def @twice[A](%v: Tensor[(2, 3), float32] /* ty=Tensor[(2, 3), float32] */) {\n  add(%v, %v)\n}\n"
        + MAIN + "  %12 = @twice(%x) /* ty=fn (Tensor[(2, 3), float32]) -> (float32,) span=a;b/c:0:0:1 */;\n"
        + "  %12\n}\n",
        # Types among the operands, as releases before 0.8 wrote them, and a comment behind a dangling comma.
        MAIN + "  add(%x, %x, Tensor[(2, 3), float32], Tensor[(2, 3), float32], /* en_id=418 */)\n}\n",
        # A function bound to a name, called twice; every kind of attribute on it.
        MAIN + "  %0 = fn (%p0: Tensor[(2, 3), float32], Primitive=1, Composite='a.b', "
        'relay_attrs={"T_softmax"="x", \'a\'=[1, 2]}, src_layout="NC") -> Tensor[(2, 3), float32] {\n'
        + "    multiply(%p0, 1f /* ty=float32 */)\n  };\n  %1 = %0(%x);\n  %2 = %0(%1);\n  add(%1, %2)\n}\n",
        # Ends of lines of another system, a mark of byte order.
        "\ufeff" + MAIN.replace("\n", "\r\n") + "  add(%x, %x)\r\n}\r\n",
        # A branch in a function that a constant argument decides, and one on a comparison of constants.
        MAIN + "  if (less(cast(1f, dtype=\"int32\"), 2)) {\n    add(%x, %x)\n  } else {\n    %x\n  }\n}\n",
    ],
)  # fmt: skip
def test_forms_of_later_releases(text: str) -> None:
    np.testing.assert_allclose(run(text, x=X), 2 * X, rtol=1e-6)


def test_a_literal_keeps_all_its_digits() -> None:
    text = MAIN.replace("float32", "int64") + "  add(%x, 9007199254740993i64)\n}\n"
    found = run(text, x=np.zeros((2, 3), "int64"))
    np.testing.assert_array_equal(found, np.full((2, 3), 9007199254740993))


def test_the_metadata_may_have_been_left_out() -> None:
    """``print(mod)`` of some releases ends with a comment instead."""
    text = MAIN + "  add(%x, meta[relay.Constant][0] /* ty=Tensor[(2, 3), float32] */)\n}\n\n"
    text += "/* For debugging purposes the metadata section has been omitted.\n * If you would like ... */\n"
    with pytest.raises(ModelError, match=r"line 3, column 11: .*\n.*show_meta_data=True"):
        dlcomp.load(text.encode())


def test_open_dimensions_take_the_shape_that_is_given() -> None:
    text = '#[version = "0.0.5"]\ndef @main(%x: Tensor[(?, 3), float32]) {\n  nn.relu(%x)\n}\n'
    model = dlcomp.load(text.encode(), {"x": (2, 3)})
    assert model.signature.inputs[0].shape == (2, 3)
    (found,) = model.compile().run({"x": X}).values()
    np.testing.assert_array_equal(found, np.maximum(X, 0))


WEIGHTED = """#[version = "0.0.5"]
def @main(%data: Tensor[(2, 3), float32], %v0.weight: Tensor[(4, 3), float32]) {
  nn.dense(%data, %v0.weight, units=4)
}
"""


def test_weights_whose_names_begin_with_a_digit() -> None:
    """They were printed behind a v; the file of parameters has them as they are."""
    w = np.random.default_rng(1).standard_normal((4, 3)).astype("float32")
    for name in ("0.weight", "v0.weight"):
        model = dlcomp.load(WEIGHTED.encode(), values={name: w})
        (found,) = model.compile().run({"data": X}).values()
        np.testing.assert_allclose(found, X @ w.T, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"weight": np.zeros((4, 3), "float32")}, "no parameter 'weight'\n.*'data', 'v0.weight'"),
        ({"0.weight": np.zeros((3, 4), "float32")}, r"is float32\[4, 3\], its value is float32\[3, 4\]"),
        ({"0.weight": np.zeros((4, 3))}, r"its value is float64\[4, 3\]"),
    ],
)
def test_weights_that_do_not_fit(values: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        dlcomp.load(WEIGHTED.encode(), values=values)


def test_the_command_line(tmp_path: Path) -> None:
    """compile, inspect and verify of text with a file of parameters."""
    w = np.random.default_rng(1).standard_normal((4, 3)).astype("float32")
    text, values, made = tmp_path / "net.relay", tmp_path / "net.params", tmp_path / "net.dlc"
    text.write_text(WEIGHTED)
    values.write_bytes(parameters({"0.weight": w}))
    cli = CliRunner()
    for words in (
        ["inspect", str(text), "--values", str(values)],
        ["compile", str(text), "--values", str(values), "-o", str(made)],
        ["verify", str(text), str(made), "--values", str(values)],
    ):
        result = cli.invoke(app, words)
        assert result.exit_code == 0, result.output
    (found,) = dlcomp.open(made).run({"data": X}).values()
    np.testing.assert_allclose(found, X @ w.T, rtol=1e-5)


def test_a_file_of_parameters_may_hold_more(tmp_path: Path) -> None:
    """Importers kept counters and the like that no operator takes; a name given by hand is a mistake."""
    path, w = tmp_path / "net.params", np.ones((4, 3), "float32")
    path.write_bytes(parameters({"0.weight": w, "bn.num_batches_tracked": np.array(7, "int64")}))
    (found,) = dlcomp.load(WEIGHTED.encode(), values=path).compile().run({"data": X}).values()
    np.testing.assert_allclose(found, X @ w.T, rtol=1e-5)
    path.write_bytes(parameters({"other": w}))
    with pytest.raises(ModelError, match="no parameter 'other'"):
        dlcomp.load(WEIGHTED.encode(), values=path)


@pytest.mark.parametrize("cut", [4, 20, 24, 40, 60, 90, -1])
def test_a_damaged_file_of_parameters(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(parameters({"0.weight": np.zeros((4, 3), "float32")})[:cut])
    with pytest.raises(ModelError, match="not a file of TVM's parameters"):
        dlcomp.load(WEIGHTED.encode(), values=path)


def whole() -> str:
    """Every part of the language in a few lines."""
    t = Twin((1, 2, 6, 6), True)
    x = t.relay("nn.conv2d", ["%data", t.meta(t.weight(4, 2, 3, 3))], padding=[1, 1, 1, 1])
    both = t.relay("nn.batch_norm", [x, *(t.meta(t.weight(4, low=0.5)) for _ in range(4))], epsilon=1e-5)
    x = t.relay("qnn.quantize", [f"{both}.0", "0.05f", "-3"], out_dtype="int8", axis=1)
    x = t.relay("qnn.add", [x, x, "0.05f", "-3", "0.05f", "-3", "0.2f", "1"])
    x = t.relay("qnn.dequantize", [x, "0.2f", "1"])
    parts = t.relay("split", [x], indices_or_sections=2, axis=1)
    x = t.relay("concatenate", [f"({parts}.0, {parts}.1)"], axis=1)
    x = t.relay("reshape", [t.relay("clip", [x], a_min=0.0, a_max=6.0)], newshape=[0, -1])
    return t.text(t.relay("nn.softmax", [x], axis=-1))


def test_text_that_is_cut_off_is_refused_with_a_place() -> None:
    text = whole()
    to_onnx(text, "net")
    for end in range(40, len(text) - 2, 100):
        with pytest.raises(ModelError, match=PLACE):
            to_onnx(text[:end], "net")


def test_changed_text_is_refused_with_a_place_or_is_sound() -> None:
    """Letters, pieces and numbers changed at random; anything but a ModelError fails."""
    rng, text = np.random.default_rng(0), whole()
    code = len(text.partition("#[metadata]")[0])
    words = re.findall(r"%\w+|[\w.]+|[^\w\s]", text[:code])
    numbers = ["0", "-1", "99999999999", "18446744073709551616", "1e30", "nan", "3"]
    messages = []
    for _ in range(500):
        place, way = int(rng.integers(20, code)), int(rng.integers(4))
        found = list(re.finditer(r"-?\d+" if way == 3 else r"[\w.]+", text[:code]))
        at = found[int(rng.integers(len(found)))]
        word = words[int(rng.integers(len(words)))]
        changed = [
            text[:place] + chr(int(rng.integers(32, 127))) + text[place + 1 :],
            text[:place] + text[place + int(rng.integers(1, 8)) :],
            text[: at.start()] + word + text[at.end() :],
            text[: at.start()] + numbers[int(rng.integers(len(numbers)))] + text[at.end() :],
        ][way]
        try:
            to_onnx(changed, "net")
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert [message for message in messages if not PLACE.search(message)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            MAIN + "  nn.relu(" * 3000 + "%x" + ")" * 3000 + "\n}\n",
            r"line 3, column \d+: expressions are nested too deep",
        ),
        ("type List[A] {\n  Cons(A, List[A]),\n  Nil,\n}\n" + MAIN + "  %x\n}\n", "data types of one's own"),
        (MAIN + "  match (%x) {\n    _ => { %x },\n  }\n}\n", "line 3, column 14.*\n.*matches"),
        ("def @f = meta[ExternalFunc][0]\n" + MAIN + "  %x\n}\n", "line 1, column 8.*\n.*external functions"),
        (MAIN + "  %x\n", "line 3, column 5: the text ends too early"),
        (
            MAIN + "  nn.a(nn.b(%x), nn.a(%x))\n}\n",
            "line 3, column 3: unsupported Relay operators: nn.a, nn.b",
        ),
        (MAIN + "  %x\n}\n#[metadata]\n{\n  broken", "line 7, column 3: the metadata section is damaged"),
        ('#[version = "0.0.5"]\n@main = primfn(a: handle) -> ()\n', "line 2, column 7: not Relay text"),
    ],
)
def test_what_is_not_supported_is_named(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        dlcomp.load(text.encode())


def test_a_file_of_the_name_but_not_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "net.relay"
    path.write_text("hello {\n")
    with pytest.raises(ModelError, match="line 1"):
        dlcomp.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="not text in UTF-8"):
        dlcomp.load(path)


def test_a_byte_of_the_stored_arrays_changed_is_refused_or_sound() -> None:
    text = MAIN + "  add(%x, meta[relay.Constant][0])\n}\n" + metadata([X])
    rng, start = np.random.default_rng(3), text.index('"nodes"')
    for _ in range(200):
        place = int(rng.integers(start, len(text)))
        with contextlib.suppress(ModelError):
            to_onnx(text[:place] + chr(int(rng.integers(32, 127))) + text[place + 1 :], "net")
