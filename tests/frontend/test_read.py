"""Files that are not (whole) ONNX networks are refused with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
from onnx import helper

from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend import load
from dlcomp.frontend.read import read


def test_missing_file_names_the_networks_beside_it(tmp_path: Path) -> None:
    onnx.save(networks.relu(), tmp_path / "there.onnx")
    with pytest.raises(UsageError, match=r"no such file: .*absent\.onnx") as caught:
        load(tmp_path / "absent.onnx")
    assert "there.onnx" in str(caught.value)
    assert caught.value.exit_code == 2


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path)


def test_wrong_argument_type_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot load a model from int"):
        load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is not a network\n" * 9, "text file"),
        (b"just text, no line end", "text file"),
        ("Überschrift\n".encode() * 60, "text file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git-lfs"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x08\x08", "no graph"),
        (b"\xff\xfe\xfd" * 50, "truncated or corrupt"),
        (bytes(1000), "truncated or corrupt"),
    ],
)
def test_other_files_named_onnx(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        load(path)
    assert caught.value.exit_code == 3
    with pytest.raises(ModelError, match=reason):
        load(content)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "cut.onnx"
    data = networks.cnn().SerializeToString()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelError, match="truncated"):
        load(path)


def test_name_is_the_stem_or_the_graph_name(tmp_path: Path) -> None:
    path = tmp_path / "my-net.v2.onnx"
    onnx.save(networks.relu(), path)
    assert read(path)[1] == "my-net.v2"
    assert read(str(path))[1] == "my-net.v2"
    assert read(networks.relu())[1] == "net"
    assert read(path.read_bytes())[1] == "net"


def external(folder: Path, location: str = "weights.bin") -> Path:
    """An MLP whose weight ``w`` lies in another file."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = [networks.value("x", [1, 4])], [networks.value("y", [1, 3])]
    network = networks.model([node], inputs, outputs, [networks.weight("w", 4, 3)])
    tensor = network.graph.initializer[0]
    (folder / "weights.bin").write_bytes(bytes(8) + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "8"), ("length", "48")):
        tensor.external_data.add(key=key, value=text)
    path = folder / "net.onnx"
    path.write_bytes(network.SerializeToString())
    return path


def test_external_data_is_read(tmp_path: Path) -> None:
    network, _ = read(external(tmp_path))
    found = onnx.numpy_helper.to_array(network.graph.initializer[0])
    np.testing.assert_array_equal(found, onnx.numpy_helper.to_array(networks.weight("w", 4, 3)))
    assert load(tmp_path / "net.onnx").signature.outputs[0].shape == (1, 3)


def test_missing_external_data_names_tensor_and_file(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"tensor 'w'.*'weights\.bin' is missing"):
        load(path)


def test_short_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(40))
    with pytest.raises(ModelError, match=r"wants bytes 8 to 56 of 'weights\.bin', which has 40"):
        load(path)


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    path = external(tmp_path)
    with pytest.raises(ModelError, match="load the model by its path"):
        load(path.read_bytes())


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "", "sub/../../weights.bin"])
def test_external_data_cannot_leave_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder, location)
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    with pytest.raises(ModelError, match=r"outside the model's folder|no usable file"):
        load(path)


def test_external_data_cannot_leave_the_folder_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder)
    (tmp_path / "secret").write_bytes(bytes(100))
    (folder / "weights.bin").unlink()
    os.symlink(tmp_path / "secret", folder / "weights.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(path)
