"""Factored layers: identities at full rank, the best error at less, and the networks that come out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest

import dlcomp
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import layers_of
from dlcomp.compress.lowrank.choose import Candidate, all_ranks, allocate, candidates
from dlcomp.compress.lowrank.evbmf import evbmf_rank
from dlcomp.compress.lowrank.methods import unfoldings
from dlcomp.compress.lowrank.moments import as_matrix, moments_of, rows_of
from dlcomp.compress.lowrank.subject import Subject, recurrent_layers, subject_of
from dlcomp.compress.lowrank.write import write
from dlcomp.compress.network import Network
from dlcomp.compress.observe import runs
from dlcomp.compress.recipe import parse
from dlcomp.errors import ModelError, UsageError
from dlcomp.runtime import peer

FASHION = Path(__file__).parents[2] / "benchmarks" / "fashion"
RNG = np.random.default_rng(0)
node, value, weight = networks.helper.make_node, networks.value, networks.weight


def low(name: str, *shape: int, rank: int = 6) -> onnx.TensorProto:
    """A weight whose unfoldings fall off fast, as those of trained layers do."""
    matrix = RNG.standard_normal((shape[0], rank)) @ RNG.standard_normal((rank, math.prod(shape[1:])))
    noisy = matrix / np.sqrt(rank) + 0.1 * RNG.standard_normal(matrix.shape)
    return networks.constant(name, noisy.reshape(shape), "float32")


def convolution(
    image: tuple[int, int], channels: int, outputs: int, kernel: tuple[int, int], **moves: Any
) -> onnx.ModelProto:
    stored = [low("w", outputs, channels, *kernel), weight("bias", outputs)]
    made = node("Conv", ["x", "w", "bias"], ["y"], name="layer", **moves)
    return networks.model(
        [made], [value("x", [1, channels, *image])], [value("y", [1, outputs, None, None])], stored
    )


def dense(kind: str, inputs: int, outputs: int) -> onnx.ModelProto:
    stored = [low("w", inputs, outputs), weight("bias", outputs)]
    if kind == "MatMul":
        return networks.model(
            [node("MatMul", ["x", "w"], ["y"], name="layer")],
            [value("x", [1, 3, inputs])],
            [value("y", [1, 3, outputs])],
            stored[:1],
        )
    if kind == "transposed":
        stored = [low("w", outputs, inputs), weight("bias", outputs)]
    options = {"transB": 1} if kind == "transposed" else {}
    return networks.model(
        [node("Gemm", ["x", "w", "bias"], ["y"], name="layer", **options)],
        [value("x", [1, inputs])],
        [value("y", [1, outputs])],
        stored,
    )


def recurrent(kind: str, directions: int) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    stored = [
        low("w", directions, gates * 16, 24),
        weight("r", directions, gates * 16, 16),
        weight("b", directions, 2 * gates * 16),
    ]
    made = node(
        kind,
        ["x", "w", "r", "b"],
        ["y"],
        name="layer",
        hidden_size=16,
        direction="bidirectional" if directions == 2 else "forward",
    )
    return networks.model([made], [value("x", [5, 1, 24])], [value("y", [5, directions, 1, 16])], stored)


NETWORKS = {
    "MatMul": lambda: dense("MatMul", 24, 40),
    "Gemm": lambda: dense("Gemm", 31, 17),
    "transposed": lambda: dense("transposed", 24, 40),
    "pointwise": lambda: convolution((5, 7), 24, 17, (1, 1), strides=[2, 1]),
    "square": lambda: convolution((9, 8), 16, 24, (3, 3), pads=[1, 0, 2, 1], strides=[2, 1]),
    "dilated": lambda: convolution((12, 13), 9, 16, (2, 3), dilations=[2, 3], pads=[0, 2, 1, 0]),
    "LSTM": lambda: recurrent("LSTM", 2),
    "GRU": lambda: recurrent("GRU", 1),
}


def samples(network: onnx.ModelProto, count: int = 64) -> np.ndarray:
    """Inputs whose parts depend on each other and have a mean."""
    shape = [dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim]
    size = math.prod(shape)
    mix = RNG.standard_normal((size, size)) * (RNG.random(size) ** 3)
    flat = RNG.standard_normal((count, size)) @ mix / np.sqrt(size) + 0.3
    made = flat.reshape(count, *shape).astype("float32")
    return np.concatenate(list(made), axis=0)


def outputs(network: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """By onnxruntime."""
    session = peer.session(network.SerializeToString(), 1, optimize=False)
    batch = network.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    parts = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    return np.stack([session.run(None, {"x": part})[0] for part in parts])


def subject(network: onnx.ModelProto, inputs: np.ndarray | None) -> tuple[Network, Subject]:
    model = dlcomp.load(network)
    copy = Network(model)
    (layer,) = [*layers_of(copy), *recurrent_layers(copy)]
    moments = {} if inputs is None else moments_of(copy, [layer], Calibration(inputs, model.signature))
    found = subject_of(copy, layer, moments.get(layer.node.output[0]), {})
    assert found is not None
    return copy, found


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in NETWORKS for method in ("svd", "whitened")),
        # For convolutions of several taps.
        *((name, method) for name in ("square", "dilated") for method in ("tucker2", "spatial")),
    ],
)
def test_full_rank_changes_nothing(name: str, method: str) -> None:
    """Written as a chain of full rank, a layer computes what it did, in onnxruntime."""
    network = NETWORKS[name]()
    inputs = samples(network)
    copy, layer = subject(network, None if method == "svd" else inputs)
    ranks = tuple(min(matrix.shape) for matrix in unfoldings(layer, method))
    stages, composed = Candidate(method, ranks, 0, 0, 0.0).stages(layer)
    np.testing.assert_allclose(composed, layer.matrix, atol=1e-6 * np.abs(layer.matrix).max())
    write(copy, layer, stages, composed)
    copy.drop_unread()
    onnx.checker.check_model(copy.proto, full_check=True)
    right, found = outputs(network, inputs), outputs(copy.proto, inputs)
    np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(right).max())
    assert len(stages) == (3 if method == "tucker2" else 2)


@pytest.mark.parametrize("name", ["MatMul", "Gemm", "transposed", "pointwise", "square", "dilated"])
def test_the_error_is_that_of_the_outputs(name: str) -> None:
    """What the pass says a rank loses is what onnxruntime's outputs lose, on the data it saw."""
    network = NETWORKS[name]()
    inputs = samples(network, 32)
    copy, layer = subject(network, inputs)
    rank = 8 if name != "dilated" else 6
    candidate = Candidate("whitened", (rank,), 0, 0, 0.0)
    stages, composed = candidate.stages(layer)
    said = layer.loss(layer.matrix - composed)
    write(copy, layer, stages, composed)
    right, found = outputs(network, inputs), outputs(copy.proto, inputs)
    # (samples, positions, channels): about the mean of each channel where a bias takes that.
    channels = 1 if right.ndim == 5 else -1
    right, found = (
        np.moveaxis(a, channels + (right.ndim == 5), -1).reshape(-1, layer.weight.shape[0])
        for a in (right, found)
    )
    centre = right.mean(axis=0) if layer.mean is not None else 0
    measured = ((right - found) ** 2).sum() / ((right - centre) ** 2).sum()
    assert measured == pytest.approx(said, rel=0.02)


@pytest.mark.parametrize("name", ["Gemm", "square"])
def test_whitened_is_never_worse_than_plain(name: str) -> None:
    network = NETWORKS[name]()
    _, layer = subject(network, samples(network))
    better = 0
    for rank in range(1, 16):
        plain, whitened = (
            layer.loss(layer.matrix - Candidate(method, (rank,), 0, 0, 0.0).stages(layer)[1])
            for method in ("svd", "whitened")
        )
        assert whitened <= plain * (1 + 1e-6) + 1e-9
        better += whitened < 0.97 * plain
    assert better > 5


def test_the_dropped_singular_values_are_the_error() -> None:
    network = NETWORKS["square"]()
    _, layer = subject(network, samples(network))
    for one in all_ranks(layer, "whitened"):
        _, composed = one.stages(layer)
        assert layer.loss(layer.matrix - composed) == pytest.approx(one.error, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("method", ["tucker2", "spatial"])
def test_chains_of_convolutions_take_their_last_factor_by_least_squares(method: str) -> None:
    """No small change of it is better."""
    network = NETWORKS["square"]()
    _, layer = subject(network, samples(network))
    ranks = (8, 8) if method == "tucker2" else (8,)
    stages, composed = Candidate(method, ranks, 0, 0, 0.0).stages(layer)
    last = stages[-1].kernel.reshape(len(layer.weight), -1)
    features = np.linalg.lstsq(last, composed, rcond=None)[0]
    least = layer.loss(layer.matrix - composed)
    assert 0 < least < 1
    for _ in range(5):
        changed = (last + 1e-3 * RNG.standard_normal(last.shape)) @ features
        assert layer.loss(layer.matrix - changed) > least


def test_moments_are_those_of_patches() -> None:
    """A convolution is its weight times its patches."""
    network = NETWORKS["square"]()
    inputs, model = samples(network, 4), dlcomp.load(network)
    copy = Network(model)
    (layer,) = layers_of(copy)
    matrix = as_matrix(layer, copy.weights["w"])
    assert matrix is not None
    (first, *_) = runs(copy, {layer.data}, Calibration(inputs, model.signature))
    right = outputs(network, inputs)[0, 0]
    found = rows_of(copy, layer, first) @ matrix.T + copy.weights["bias"]
    np.testing.assert_allclose(found.T.reshape(right.shape), right, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(60, 100, 5), (100, 60, 12), (50, 50, 1), (80, 300, 0)]
)
def test_evbmf_finds_the_rank_under_noise(rows: int, columns: int, rank: int) -> None:
    signal = RNG.standard_normal((rows, rank)) @ RNG.standard_normal((rank, columns))
    noisy = signal + 0.5 * RNG.standard_normal((rows, columns))
    assert evbmf_rank(np.linalg.svd(noisy, compute_uv=False), rows, columns) == rank


def test_evbmf_of_nothing() -> None:
    assert evbmf_rank(np.zeros(4), 4, 6) == 0


def images(count: int) -> np.ndarray:
    y, x = np.mgrid[:28, :28]
    centres = RNG.uniform(8, 20, (count, 2, 1, 1))
    blobs = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / 30)
    return np.clip(blobs * 1.3 - 0.1, 0, 1)[:, None].astype("float32")


@pytest.mark.parametrize(("name", "options"), [
    ("lenet300", {"method": "svd", "data": False, "target": 0.6}),
    ("lenet5", {"target": 0.6}),
    ("lenet5", {"method": "tucker2", "rule": "evbmf", "slack": 0.2}),
    ("lstm", {"rule": "energy", "energy": 0.999}),
], ids=str)  # fmt: skip
def test_trained_networks(name: str, options: dict[str, Any]) -> None:
    """Fewer MACs than before, by the account and by what the new network holds; answers as in onnxruntime."""
    model = dlcomp.load(FASHION / f"{name}.onnx", {"image": (1, 1, 28, 28)})
    small = model.compress(dlcomp.LowRank(**options), calibration=images(48))
    effect = small.history[-1].effect
    assert effect["layers"] == len(effect["by_layer"]) > 0
    before, after = effect["macs"]
    assert after < before
    if "target" in options:
        assert after <= options["target"] * before
    stored = [
        sum(array.size for array in Network(m).weights.values() if array.ndim > 1) for m in (model, small)
    ]
    parameters = effect["parameters"]
    assert stored[0] - stored[1] == parameters[0] - parameters[1]
    for layer in effect["by_layer"].values():
        assert layer["macs"][1] < layer["macs"][0]
        assert all(rank % 8 == 0 for rank in layer["ranks"])
    artifact = small.compile("host")
    session = peer.session(small.source.SerializeToString(), 1, optimize=False)
    for image in images(4):
        (theirs,) = session.run(None, {"image": image[None]})
        found = artifact.run({"image": image[None]})["logits"]
        np.testing.assert_allclose(found, theirs, atol=1e-3 * np.abs(theirs).max())


def test_what_stays_as_it_is() -> None:
    """Depthwise and grouped convolutions, a weight with two readers, a layer that is kept, one too small."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], group=2, name="grouped"),
        node("Conv", ["a", "w2"], ["b"], name="shared"),
        node("Conv", ["b", "w2"], ["c"], name="shared too"),
        node("Conv", ["c", "w3"], ["d"], name="kept"),
        node("Conv", ["d", "w4"], ["e"], name="small"),
        node("Conv", ["e", "w5"], ["y"], name="large"),
    ]
    stored = [
        weight("w1", 64, 32, 1, 1), low("w2", 64, 64, 1, 1), low("w3", 64, 64, 1, 1), low("w4", 12, 64, 1, 1),
        low("w5", 64, 12, 3, 3),
    ]  # fmt: skip
    network = networks.model(nodes, [value("x", [1, 64, 6, 6])], [value("y", [1, 64, 4, 4])], stored)
    options = dlcomp.LowRank(method="svd", data=False, keep=("^kept$",), target=0.1)
    small = dlcomp.load(network).compress(options)
    assert list(small.history[-1].effect["by_layer"]) == ["small", "large"]
    assert [n.name for n in small.source.graph.node][:4] == ["grouped", "shared", "shared too", "kept"]


def test_a_budget_is_spent_where_it_helps() -> None:
    """Of two equal layers the one whose values fall off faster gives up more."""
    steep, flat = low("w", 64, 64, rank=4), networks.weight("w", 64, 64)
    subjects = []
    for tensor in (steep, flat):
        network = networks.model(
            [node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 64])], [value("y", [1, 64])], [tensor]
        )
        subjects.append(subject(network, None)[1])
    options = [all_ranks(one, "svd") for one in subjects]
    for target in (0.4, 0.6, 0.9):
        made = allocate(subjects, options, target, "macs")
        cost = sum(one.macs if one else s.own_macs for one, s in zip(made, subjects, strict=True))
        assert cost <= target * 2 * 64 * 64
        assert made[0] is not None
        assert made[1] is None or made[1].ranks >= made[0].ranks
    assert allocate(subjects, options, 1.0, "parameters") == [None, None]


def test_only_chains_that_save() -> None:
    _, layer = subject(dense("MatMul", 24, 40), None)
    # 24 * 40 / (24 + 40) = 15: rank 16 would take more.
    assert [one.ranks for one in candidates(layer, "svd", [(5,), (8,), (9,), (24,)])] == [(8,)]


@pytest.mark.parametrize(("text", "reason"), [
    ("lowrank:method=best", "method cannot be 'best'"),
    ("lowrank:rule=guess", "rule cannot be 'guess'"),
    ("lowrank:of=time", "of cannot be 'time'"),
    ("lowrank:energy=1.5", "energy is a share"),
    ("lowrank:target=0", "target is a share"),
    ("lowrank:target=half", "'half' is no float"),
    ("lowrank:slack=1", "slack is a share"),
    ("lowrank:method=whitened,data=no", "whitened needs data"),
    ("lowrank:keep=(", "cannot read the expression"),
])  # fmt: skip
def test_options_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


def test_a_network_without_layers() -> None:
    with pytest.raises(ModelError, match="no layer with a stored weight to factor"):
        dlcomp.load(networks.relu()).compress(dlcomp.LowRank(data=False, method="svd"))
