"""PyTorch's exported programs, compiled, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcomp
from dlcomp.errors import ModelError, UsageError

torch = pytest.importorskip(
    "torch", reason="needs dlcomp[torch]: PyTorch is too large for every test machine"
)
pytest.importorskip("onnxscript", reason="needs dlcomp[torch]")


class Images(torch.nn.Module):  # type: ignore[misc]
    """Convolutions, normalisation, a residual and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = torch.nn.Linear(8, 5)

    def forward(self, image: Any) -> Any:
        x = torch.relu(self.norm(self.first(image)))
        x = x + torch.nn.functional.hardswish(self.second(x))
        return self.last(x.mean((2, 3)))


class Sequences(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 7, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, words: Any) -> Any:
        y, (hidden, _) = self.lstm(words)
        return y, hidden


class Two(torch.nn.Module):  # type: ignore[misc]
    def forward(self, left: Any, right: Any) -> Any:
        return left @ right.transpose(-1, -2), left.sum(-1)


def exported(module: Any, *examples: Any, **options: Any) -> Any:
    return torch.export.export(module.eval(), examples, **options)


def agrees(model: Any, module: Any, *examples: Any) -> None:
    names = [spec.name for spec in model.signature.inputs]
    feeds = {name: example.numpy() for name, example in zip(names, examples, strict=True)}
    found = list(model.compile().run(feeds).values())
    with torch.no_grad():
        expected = module(*examples)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected)
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_images(tmp_path: Path) -> None:
    module, x = Images(), torch.randn(2, 3, 16, 12)
    program = exported(module, x)
    model = dlcomp.load(program)
    assert [(spec.name, spec.shape) for spec in model.signature.inputs] == [("image", (2, 3, 16, 12))]
    assert model.source is not None
    agrees(model, module, x)
    path = tmp_path / "images.pt2"
    torch.export.save(program, path)
    stored = dlcomp.load(path)
    assert stored.name == "images"
    agrees(stored, module, x)


def test_dynamic_batch() -> None:
    module = Images()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = exported(module, torch.randn(3, 3, 16, 12), dynamic_shapes={"image": {0: batch}})
    model = dlcomp.load(program)
    assert isinstance(model.signature.inputs[0].shape[0], str)
    assert model.signature.inputs[0].shape[1:] == (3, 16, 12)
    artifact = model.compile()
    for count in (1, 5):
        x = torch.randn(count, 3, 16, 12)
        (found,) = artifact.run({"image": x.numpy()}).values()
        np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    agrees(dlcomp.load(program, {"image": [2, 3, 16, 12]}), module, torch.randn(2, 3, 16, 12))


def test_transformer_layer() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu").eval()
    x = torch.randn(2, 7, 16)
    agrees(dlcomp.load(exported(layer, x)), layer, x)


def test_lstm() -> None:
    module, x = Sequences(), torch.randn(3, 9, 6)
    agrees(dlcomp.load(exported(module, x)), module, x)


def test_inputs_and_outputs_in_order() -> None:
    module, left, right = Two(), torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    model = dlcomp.load(exported(module, left, right))
    assert [spec.name for spec in model.signature.inputs] == ["left", "right"]
    agrees(model, module, left, right)


def test_what_is_no_exported_program(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot load a model from Images"):
        dlcomp.load(Images())
    path = tmp_path / "images.pt2"
    path.write_bytes(b"PK\3\4 nothing")
    with pytest.raises(ModelError, match="does not read it as an exported program"):
        dlcomp.load(path)


def test_what_onnx_cannot_say() -> None:
    class Complex(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.linalg.eigvals(x)

    with pytest.raises(ModelError, match="PyTorch does not write it as ONNX"):
        dlcomp.load(exported(Complex(), torch.randn(3, 3)))
