"""Shared weights: the best codebooks, what the outputs lose, and files that are as small as they say."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcomp
from dlcomp import cli
from dlcomp.compress.codebook.assign import assign, damped, refitted
from dlcomp.compress.codebook.kmeans import _lloyd, centroids_of, nearest
from dlcomp.compress.recipe import parse
from dlcomp.errors import ModelError, UsageError
from dlcomp.runtime import peer, storage

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
RNG = np.random.default_rng(0)
node, value, weight = networks.helper.make_node, networks.value, networks.weight
numbers = st.lists(st.integers(-1000, 1000), min_size=1, max_size=9)


def squared(points: np.ndarray, mass: np.ndarray, centroids: np.ndarray) -> float:
    return float((mass * np.min((points[:, None] - centroids) ** 2, axis=1)).sum())


def brute(points: np.ndarray, mass: np.ndarray, count: int) -> float:
    """The least error of all ways to cut the sorted points into ``count`` runs."""
    order = np.argsort(points)
    points, mass = points[order], mass[order]
    least = np.inf
    for cuts in itertools.combinations(range(1, len(points)), min(count, len(points)) - 1):
        error = 0.0
        for a, b in itertools.pairwise([0, *cuts, len(points)]):
            middle = np.average(points[a:b], weights=mass[a:b])
            error += float((mass[a:b] * (points[a:b] - middle) ** 2).sum())
        least = min(least, error)
    return least


@given(numbers, st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-6, 1e6]))
@settings(deadline=None)
def test_no_other_codebook_is_nearer(values: list[int], count: int, seed: int, scale: float) -> None:
    points = np.array(values) * scale
    mass = np.random.default_rng(seed).uniform(0.1, 10, len(points))
    found = centroids_of(points, count, mass)
    assert len(found) <= count
    assert (np.diff(found) > 0).all()
    assert squared(points, mass, found) <= brute(points, mass, count) * (1 + 1e-9) + 1e-12 * scale**2


def test_many_values() -> None:
    """Beyond the exact limit: still near the exact solution of a part, and no step of Lloyd's helps."""
    points = RNG.standard_normal(40_000)
    found = centroids_of(points, 16)
    error = squared(points, np.ones(len(points)), found)
    # The best scalar quantizer of a normal variable with 16 levels: 0.009497 (Max, 1960, table I).
    assert error / len(points) == pytest.approx(0.009497, rel=0.05)
    ordered = np.sort(points)
    np.testing.assert_allclose(_lloyd(ordered, np.ones(len(points)), found), found, atol=1e-6)


@given(numbers)
def test_the_nearest(values: list[int]) -> None:
    centroids = np.array([-500.5, -3.25, 0.25, 77.75])
    found = nearest(np.array(values), centroids)
    assert (
        np.abs(np.array(values) - centroids[found]) == np.abs(np.array(values)[:, None] - centroids).min(1)
    ).all()


def correlated(inputs: int, samples: int = 400) -> np.ndarray:
    mix = RNG.standard_normal((inputs, inputs)) / np.sqrt(inputs) + np.eye(inputs)
    return np.asarray(np.abs(RNG.standard_normal((samples, inputs))) @ mix)


def test_repair_is_nearer_in_the_outputs() -> None:
    """With the same codebook, and again with the codebook of least squares; zeros stay."""
    data, matrix = correlated(40), RNG.standard_normal((12, 40))
    matrix[RNG.random(matrix.shape) < 0.3] = 0
    second = damped(data.T @ data / len(data))
    centroids = centroids_of(matrix[matrix != 0], 7)

    def error(made: np.ndarray) -> float:
        return float((((matrix - made) @ data.T) ** 2).mean())

    rounded = np.where(matrix == 0, 0, centroids[nearest(matrix, centroids)])
    assigned = assign(matrix, second, centroids)
    repaired = np.where(assigned < 0, 0.0, centroids[assigned])
    better = refitted(matrix, second, assigned, centroids)
    refit = np.where(assigned < 0, 0.0, better[assigned])
    assert ((repaired == 0) == (matrix == 0)).all()
    assert error(repaired) < 0.6 * error(rounded)
    assert error(refit) < error(repaired)


def test_refitted_centroids_are_a_minimum() -> None:
    """Any step away from them makes the outputs worse."""
    data, matrix = correlated(12), RNG.standard_normal((5, 12))
    second = damped(data.T @ data / len(data))
    centroids = centroids_of(matrix.reshape(-1), 4)
    assigned = assign(matrix, second, centroids)
    best = refitted(matrix, second, assigned, centroids)

    def loss(values: np.ndarray) -> float:
        change = matrix - values[assigned]
        return float(np.trace(change @ second @ change.T))

    for place, step in itertools.product(range(4), (-1e-3, 1e-3)):
        moved = best.copy()
        moved[place] += step
        assert loss(moved) > loss(best)


def images(count: int) -> np.ndarray:
    y, x = np.mgrid[:28, :28]
    centres = RNG.uniform(8, 20, (count, 2, 1, 1))
    blobs = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / 30)
    return np.clip(blobs * 1.3 - 0.1, 0, 1)[:, None].astype("float32")


def fashion(name: str) -> dlcomp.Model:
    return dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})


@pytest.mark.parametrize("name", ["lenet300", "lstm", "dscnn"])
@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 6, "repair": True}], ids=str)
def test_trained_networks(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Saved, opened and run: bit-equal to run at once; onnxruntime computes the same from the ONNX form."""
    small = fashion(name).compress(dlcomp.ShareWeights(**options), calibration=images(64))
    artifact = small.compile("host")
    path = artifact.save(tmp_path / "small.dlc")
    opened = dlcomp.open(path)
    session = peer.session(small.source.SerializeToString(), 1, optimize=False)
    for image in images(4):
        right = artifact.run({"image": image[None]})["logits"]
        assert opened.run({"image": image[None]})["logits"].tobytes() == right.tobytes()
        (theirs,) = session.run(None, {"image": image[None]})
        np.testing.assert_allclose(right, theirs, atol=2e-4 * np.abs(theirs).max())
    layers = small.history[-1].effect["by_layer"]
    assert len(layers) == {"lenet300": 3, "lstm": 3, "dscnn": 8}[name]
    assert all(layer["values"] <= 2 ** options["bits"] for layer in layers.values())
    coded = sum(weight.coded for weight in opened.manifest.weights)
    held = sum(weight.coded or weight.bytes for weight in opened.manifest.weights)
    if name != "dscnn":  # most of whose weights are in codebooks as large as themselves
        assert held < sum(layer["weights"] for layer in layers.values()) * (options["bits"] + 1) / 8
    assert opened.manifest.members[storage.CODED].bytes == coded


def test_zeros_stay_and_more_bits_are_nearer() -> None:
    stored = networks.weight("w", 20, 30)
    pruned = networks.numpy_helper.to_array(stored).copy()
    pruned[np.abs(pruned) < 1] = 0
    network = networks.model(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", [1, 20])],
        [value("y", [1, 30])],
        [networks.constant("w", pruned, "float32")],
    )
    errors = []
    for bits in range(2, 9):
        small = dlcomp.load(network).compress(dlcomp.ShareWeights(bits=bits))
        (tensor,) = small.source.graph.initializer
        shared = networks.numpy_helper.to_array(tensor)
        assert ((shared == 0) == (pruned == 0)).all()
        assert len(np.unique(shared)) <= 2**bits
        errors.append(small.history[-1].effect["by_layer"]["y"]["error"])
    assert errors == sorted(errors, reverse=True)
    # As many values as there are: nothing is lost.
    assert errors[-1] == 0


def test_what_is_kept_and_what_two_layers_read() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"], name="one"), node("MatMul", ["a", "w"], ["y"], name="two")]
    network = networks.model(nodes, [value("x", [1, 9])], [value("y", [1, 9])], [weight("w", 9, 9)])
    small = dlcomp.load(network).compress(dlcomp.ShareWeights(bits=2, keep=("two",)))
    sizes = [len(np.unique(networks.numpy_helper.to_array(t))) for t in small.source.graph.initializer]
    assert sorted(sizes) == [4, 81]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file at once, or by way of ONNX: the same coded weights, and an account of the bytes."""
    source = FASHION / "lenet300.onnx"
    small, direct, later = (tmp_path / name for name in ("small.onnx", "direct.dlc", "later.dlc"))
    command = ["compress", str(source), "--shape", "image:1,1,28,28", "--pass", "share:bits=3", "--json", "-"]
    assert cli.main([*command, "-o", str(direct)]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert sum(parts.values()) == direct.stat().st_size
    # 266,200 weights of at most three bits.
    assert parts["coded values"] <= 266_200 * 3 / 8
    assert cli.main([*command, "-o", str(small)]) == 0
    assert cli.main(["compile", str(small), "--coded", "-o", str(later)]) == 0
    found = [dlcomp.open(path) for path in (direct, later)]
    assert found[0].manifest.members[storage.CODED] == found[1].manifest.members[storage.CODED]
    assert cli.main(["compile", str(small), "-o", str(later)]) == 0
    assert storage.CODED not in dlcomp.open(later).manifest.members


@pytest.mark.parametrize(("text", "reason"), [
    ("share:bits=1", "2 to 8 bits"),
    ("share:keep=(", "cannot read the expression"),
    ("share:repair=perhaps", "'perhaps' is no bool"),
])  # fmt: skip
def test_options_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


def test_data_are_asked_for_and_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="needs inputs to observe"):
        fashion("lenet300").compress(dlcomp.ShareWeights(repair=True))
    with pytest.raises(ModelError, match="no layer with a stored weight to share"):
        dlcomp.load(networks.relu()).compress(dlcomp.ShareWeights())
