"""Weights that stay in their files because one message cannot hold them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend import read, stored
from dlcomp.runtime.verify import verify


def convolutions(folder: Path) -> tuple[Path, onnx.ModelProto]:
    """A network with batch normalisation, quantized and transposed weights, all in one file; and the same
    with them inside."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype("float32"),
        "scale": rng.standard_normal(8).astype("float32"),
        "shift": rng.standard_normal(8).astype("float32"),
        "mean": rng.standard_normal(8).astype("float32"),
        "variance": rng.random(8).astype("float32") + 1,
        "q": rng.integers(-128, 128, (8, 5)).astype("int8"),
        "step": np.float32(0.02) * np.ones(1, "float32"),
        "half": rng.standard_normal((5, 6)).astype("float16"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("DequantizeLinear", ["q", "step"], ["r"]),
        helper.make_node("MatMul", ["d", "r"], ["e"]),
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["e", "wide"], ["y"]),
    ]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    inside = networks.model(nodes, [networks.value("x", [1, 3, 8, 8])], [networks.value("y", [1, 6])], held)
    outside = onnx.ModelProto()
    outside.CopyFrom(inside)
    onnx.save(outside, folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    return folder / "net.onnx", inside


@pytest.fixture
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network has more than a message can hold."""
    monkeypatch.setattr(read, "MESSAGE_BYTES", 64)
    monkeypatch.setattr(read, "_LARGE_BYTES", 1)


@pytest.mark.usefixtures("small_messages")
def test_weights_in_files_are_those_inside(tmp_path: Path) -> None:
    path, inside = convolutions(tmp_path)
    model = dlcomp.load(path)
    assert sum(1 for _ in stored.mapped(model.source.graph)) == len(inside.graph.initializer)
    feed = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype("float32")}
    artifact = model.compile()
    expected = dlcomp.load(inside).compile().run(feed)["y"]
    np.testing.assert_array_equal(artifact.run(feed)["y"], expected)
    assert verify(model, artifact, feed).ok


@pytest.mark.usefixtures("small_messages")
def test_another_runtime_gets_them_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, inside = convolutions(tmp_path)
    source = dlcomp.load(path).source
    whole = onnx.ModelProto.FromString(stored.message_of(source, "net"))
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in whole.graph.initializer} == {
        t.name: numpy_helper.to_array(t).tobytes() for t in inside.graph.initializer
    }
    monkeypatch.setattr(stored, "MESSAGE_BYTES", 64)
    with pytest.raises(ModelError, match="another runtime can be given at most 64"):
        stored.message_of(source, "net")


@pytest.mark.usefixtures("small_messages")
def test_what_cannot_be_done_with_them_says_so(tmp_path: Path) -> None:
    path, _ = convolutions(tmp_path)
    model = dlcomp.load(path)
    with pytest.raises(UsageError, match="more than one message can hold"):
        model.compress(dlcomp.Quantize(), calibration=np.zeros((1, 3, 8, 8), "float32"))
    with pytest.raises(UsageError, match="more than one message can hold"):
        model.save(tmp_path / "copy.onnx")


@pytest.mark.usefixtures("small_messages")
def test_a_file_of_weights_that_does_not_fit(tmp_path: Path) -> None:
    path, _ = convolutions(tmp_path)
    data = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").write_bytes(data[:-100])
    with pytest.raises(ModelError, match="the data file is truncated"):
        dlcomp.load(path)
    (tmp_path / "net.bin").write_bytes(data)
    network = onnx.load(path, load_external_data=False)
    length = next(e for e in network.graph.initializer[0].external_data if e.key == "length")
    length.value = str(int(length.value) - 4)
    path.write_bytes(network.SerializeToString())
    with pytest.raises(ModelError, match="does not fit float32"):
        dlcomp.load(path)


@pytest.mark.usefixtures("small_messages")
def test_a_file_that_goes_away(tmp_path: Path) -> None:
    path, _ = convolutions(tmp_path)
    model = dlcomp.load(path)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match="cannot be read any more"):
        stored.message_of(model.source, "net")


MEASURE = """
import json, sys
import dlcomp
model = dlcomp.load(sys.argv[1])
held = int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
artifact = model.compile()
import numpy as np
result = artifact.run({"x": np.ones((1, 24000), "float32")})["y"]
print(json.dumps({"held": held, "sum": float(result.sum())}))
"""


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """Imported with one copy in memory; the file is sparse: only its last column is not zero."""
    size = 24000
    count = size * size * 4
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(count)
        file.seek(count - size * 4)
        file.write(np.full(size, 2, "float32").tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size, size])
    stored.map_to(tensor, Path("w.bin"), 0, count)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    network = networks.model(
        [node], [networks.value("x", [1, size])], [networks.value("y", [1, size])], [tensor]
    )
    (tmp_path / "net.onnx").write_bytes(network.SerializeToString())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "net.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sum"] == 2 * size
    assert found["held"] < 1.25 * count
