"""Weights alone in groups that share a scale: files, accuracy, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcomp
from dlcomp.compress.quantize.grid import grid_of_groups, grid_of_weight
from dlcomp.compress.recipe import parse
from dlcomp.errors import UsageError
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"


def lenet300() -> dlcomp.Model:
    return dlcomp.load(FASHION / "lenet300.onnx", {"image": (1, 1, 28, 28)})


def logits(model: dlcomp.Model, images: np.ndarray) -> np.ndarray:
    artifact = model.compile("host")
    return np.concatenate([next(iter(artifact.run({"image": one[None]}).values())) for one in images])


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 28, 28)).astype("float32") ** 4


@given(st.integers(1, 9), st.integers(1, 80), st.sampled_from([16, 24, 32]), st.integers(0, 1), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_group_is_rounded_by_its_own_largest(
    outputs: int, inputs: int, group: int, axis: int, search: bool
) -> None:
    rng = np.random.default_rng(inputs)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    grid = grid_of_groups(weight if axis else weight.T, 4, axis, group, search)
    whole = weight if axis else weight.T
    made = grid.reals(grid.integers(whole, -7, 7))
    made = made if axis else made.T
    for start in range(0, inputs, group):
        part = weight[:, start : start + group]
        alone = grid_of_weight(part, 4, 0, search)
        np.testing.assert_array_equal(
            made[:, start : start + group], alone.reals(alone.integers(part, -7, 7))
        )


@pytest.mark.parametrize(("recipe", "part"), [("bits=8", 3.5), ("bits=4", 6.3), ("bits=4,group=32", 5.6)])
def test_small_in_every_form(tmp_path: Path, recipe: str, part: float) -> None:
    """The ONNX file, the artifact's file and its weights in memory; the numbers are onnxruntime's.

    In memory 300 columns are panels of 320 or 336, the 10 last outputs are floats.
    """
    model = lenet300()
    small = model.compress(parse(f"quantize:activations=float32,{recipe}"))
    artifacts = [m.compile("host") for m in (model, small)]
    sizes = []
    for index, artifact in enumerate(artifacts):
        artifact.save(tmp_path / f"{index}.dlc")
        weights = sum(int(array.nbytes) for array in artifact.weights)
        sizes.append(((tmp_path / f"{index}.dlc").stat().st_size, weights))
    # The rest of a file is code, of which both have about the same.
    assert sizes[0][0] - sizes[1][0] > 0.95 * (sizes[0][1] - sizes[1][1])
    assert sizes[0][1] / sizes[1][1] > part
    assert small.source is not None
    assert model.source is not None
    assert model.source.ByteSize() / small.source.ByteSize() > part
    session = peer.session(small.source.SerializeToString(), 1, optimize=False)
    theirs = np.concatenate([session.run(None, {"image": one[None]})[0] for one in images(6)])
    found = logits(small, images(6))
    np.testing.assert_allclose(found, theirs, rtol=0, atol=2e-6 * np.ptp(theirs))


def test_groups_err_less_than_channels_and_gptq_less_than_groups() -> None:
    data = images(64)
    model = lenet300()
    right = logits(model, data[48:])

    def error(text: str) -> float:
        recipe = parse(f"quantize:activations=float32,bits=3,{text}")
        needed = "gptq" in text
        small = model.compress(recipe, calibration=data[:48] if needed else None)
        return float(np.square(logits(small, data[48:]) - right).mean())

    channels, groups, gptq = map(error, ("group=0", "group=32", "group=32,rounding=gptq,correct_bias=no"))
    assert groups < channels
    assert gptq < groups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group=32", "activations=float32"),
        ("activations=float32,group=12", "multiple of 8 from 16"),
        ("activations=float32,group=8", "multiple of 8 from 16"),
        ("activations=float32,group=-32", "multiple of 8 from 16"),
        ("activations=float32,group=32,per_channel=no", "per_channel=True"),
        ("activations=float32,group=32,rounding=adaround", "adaround"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(f"quantize:{text}")
