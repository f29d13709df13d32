"""Coded weights that are integers with scales: found from floats of any layout, every bit comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcomp
from dlcomp.compress.recipe import parse
from dlcomp.errors import ArtifactError
from dlcomp.runtime.coding import decode, encode
from dlcomp.runtime.coding.scaled import scaled

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"


def weight(
    shape: tuple[int, ...], axes: tuple[int, ...], bits: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Integers of ``bits`` with a scale for each place along ``axes``, and the floats."""
    rng = np.random.default_rng(seed)
    most = 2 ** (bits - 1) - 1
    integers = rng.integers(-most, most + 1, shape).astype(np.int8)
    scales = [extent if axis in axes else 1 for axis, extent in enumerate(shape)]
    reals = integers.astype(np.float32) * (10 ** rng.uniform(-6, 3, scales)).astype(np.float32)
    return integers, reals


def size(array: np.ndarray) -> int:
    coded = encode(array)
    assert sum(coded.parts.values()) == len(coded.data)
    found = decode(coded.data, "float32", array.shape)
    assert found.tobytes() == array.tobytes()
    assert found.shape == array.shape
    return len(coded.data)


@given(
    st.lists(st.integers(2, 9), min_size=2, max_size=4),
    st.integers(0, 15),
    st.sampled_from([2, 4, 7, 8]),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=20)
def test_any_layout_comes_back(extents: list[int], mask: int, bits: int, seed: int) -> None:
    """The last dimension has no scales of its own, so that a channel is not short."""
    axes = tuple(axis for axis in range(len(extents)) if mask >> axis & 1)
    shape = (*extents, 64)
    _, reals = weight(shape, axes, bits, seed)
    assert scaled(reals) is not None
    size(reals)


@pytest.mark.parametrize("bits", [4, 8])
def test_size(bits: int) -> None:
    """As many bits as the integers have, and the scales."""
    _, reals = weight((4, 3, 3, 16, 32), (0, 4), bits)
    assert size(reals) < reals.size * bits / 8 + 4 * 4 * 32 + 400


def test_channels_of_zeros_and_unusual_integers() -> None:
    _, reals = weight((2, 300, 16), (0, 2), 8)
    reals[1, :, 8:] = 0  # columns that only fill a vector
    assert scaled(reals) is not None
    assert size(reals) < reals.nbytes / 3
    whole = np.random.default_rng(0).integers(-93, 94, (300, 16)).astype(np.float32)
    made = whole * np.linspace(0.1, 3, 16, dtype=np.float32)
    assert size(np.concatenate([made, np.full((1, 16), 0, np.float32)])) < reals.nbytes / 3


@pytest.mark.parametrize("change", [np.nan, np.inf, -0.0, np.float32(1e-3), 1e30])
def test_one_other_value_and_it_stays_plain(change: float) -> None:
    _, reals = weight((300, 16), (1,), 8)
    assert scaled(reals) is not None
    reals[7, 3] = change
    found = scaled(reals)
    assert found is None
    size(reals)


def test_floats_are_not_taken_for_integers() -> None:
    rng = np.random.default_rng(0)
    for shape in [(64, 64), (3, 3, 16, 8), (1000,), (8, 8), (2, 8)]:
        assert scaled(rng.standard_normal(shape).astype(np.float32)) is None


def test_damage_is_an_error_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    _, reals = weight((40, 32), (1,), 8)
    whole = encode(reals).data
    assert whole[0] == 255
    for cut in range(0, len(whole), 37):
        with pytest.raises(ArtifactError):
            decode(whole[:cut], "float32", reals.shape)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            assert decode(bytes(damaged), "float32", reals.shape).shape == reals.shape
        except ArtifactError:
            pass
    with pytest.raises(ArtifactError, match="dimensions"):
        decode(bytes([255, 4]) + whole[2:], "float32", reals.shape)
    with pytest.raises(ArtifactError, match="twice"):
        decode(whole[: 2 + 4 * 32] + whole, "float32", reals.shape)
    with pytest.raises(ArtifactError, match="unknown way"):
        decode(whole, "int8", reals.shape)


@pytest.mark.parametrize(("name", "part"), [("lstm", 3.0), ("lenet5", 3.0), ("dscnn", 2.5)])
def test_networks(tmp_path: Path, name: str, part: float) -> None:
    """Weights that no kernel reads as integers are integers in the file, and the same floats in memory."""
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    artifact = model.compress(parse("quantize:activations=float32")).compile("host")
    artifact.save(tmp_path / "small.dlc")
    opened = dlcomp.open(tmp_path / "small.dlc")
    for right, found in zip(artifact.weights, opened.weights, strict=True):
        assert np.asarray(found).tobytes() == np.asarray(right).tobytes()
    stored = sum(weight.coded or weight.bytes for weight in opened.manifest.weights)
    model.compile("host").save(tmp_path / "wide.dlc")
    wide = sum(weight.bytes for weight in dlcomp.open(tmp_path / "wide.dlc").manifest.weights)
    assert wide / stored > part
