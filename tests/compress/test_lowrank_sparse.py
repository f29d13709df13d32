"""Layers as low rank plus sparse blocks: the error is that of the outputs, and only where both are better."""

from __future__ import annotations

import math
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcomp
from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import layers_of, weight_of
from dlcomp.compress.lowrank.mixture import SHARES, mixtures
from dlcomp.compress.network import Network
from dlcomp.compress.recipe import parse
from dlcomp.compress.refit import error_of
from dlcomp.compress.search.levels import family
from dlcomp.compress.search.sensitivity import own_error, weight_bytes
from dlcomp.compress.sparsify.patterns import Pattern
from dlcomp.errors import DlcompError, ModelError, UsageError
from dlcomp.runtime import peer

RESNET = Path(__file__).parents[2] / "benchmarks" / "fashion" / "resnet8.onnx"
node, value, weight = networks.helper.make_node, networks.value, networks.weight


def matrix_of(rng: np.random.Generator, outputs: int, inputs: int, rank: int, share: float) -> np.ndarray:
    """Of ``rank`` plus a ``share`` of all blocks of 16 outputs by 1 input."""
    low = rng.standard_normal((outputs, rank)) @ rng.standard_normal((rank, inputs)) / math.sqrt(max(1, rank))
    kept = np.repeat(rng.random((-(-outputs // 16), inputs)) < share, 16, axis=0)[:outputs]
    blocks = 2 * rng.standard_normal((outputs, inputs)) * kept
    noise = 0.02 * rng.standard_normal((outputs, inputs)) if rank and share else 0.0
    return np.asarray(low + blocks + noise)


def network(kind: str, rank: int = 4, share: float = 0.1) -> onnx.ModelProto:
    """One layer of 64 outputs and 96 inputs (or 144: 16 channels of 9 taps)."""
    rng = np.random.default_rng(0)
    matrix = matrix_of(rng, 64, 144 if kind == "square" else 96, rank, share)
    bias = [weight("b", 64)] if kind not in ("MatMul", "no bias") else []
    names = ["x", "w", *(["b"] if bias else [])]
    shape, out = [8, 96], [8, 64]
    if kind == "MatMul":
        made = node("MatMul", names, ["y"], name="layer")
        matrix, shape, out = matrix.T, [8, 5, 96], [8, 5, 64]
    elif kind == "Gemm":
        made, matrix = node("Gemm", names, ["y"], name="layer"), matrix.T
    elif kind == "transposed":
        made = node("Gemm", names, ["y"], name="layer", transB=1)
    else:
        taps = 3 if kind == "square" else 1
        moves = {"pads": [1, 0, 1, 2], "strides": [2, 1]} if kind == "square" else {}
        made = node("Conv", names, ["y"], name="layer", **moves)
        matrix = matrix.reshape(64, -1, taps, taps)
        shape = [8, matrix.shape[1], 7, 6]
        out = [8, 64, *((4, 6) if kind == "square" else (7, 6))]
    stored = [networks.constant("w", np.ascontiguousarray(matrix), "float32"), *bias]
    return networks.model([made], [value("x", shape)], [value("y", out)], stored)


def samples(proto: onnx.ModelProto) -> np.ndarray:
    """Inputs whose parts depend on each other and have a mean."""
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    size = math.prod(shape[1:])
    mix = np.eye(size) + 0.5 * rng.standard_normal((size, size)) / math.sqrt(size)
    return np.asarray(rng.standard_normal((128, size)) @ mix + 0.3, "float32").reshape(-1, *shape[1:])


def answers(proto: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """By onnxruntime."""
    session = peer.session(proto.SerializeToString(), 1, optimize=False)
    return np.concatenate([session.run(None, {"x": inputs[i : i + 8]})[0] for i in range(0, len(inputs), 8)])


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "transposed", "pointwise", "square", "no bias"])
def test_a_layer_is_a_chain_and_a_sparse_layer(kind: str) -> None:
    """The error is what onnxruntime's outputs lose, below either alone, in no more bytes than were wanted."""
    proto = network(kind)
    inputs = samples(proto)
    small = dlcomp.load(proto).compress(dlcomp.LowRankSparse(target=0.3, smallest=0), calibration=inputs)
    onnx.checker.check_model(small.source, full_check=True)
    assert [n.name for n in small.source.graph.node] == ["layer_1", "layer_2", "layer_sparse", "layer_sum"]
    found = small.history[-1].effect["by_layer"]["layer"]
    assert found["error"] < 0.99 * min(found["error_low_rank"], found["error_sparse"])

    stored = Network(small).weights
    first, _, beside = (n.input[1] for n in small.source.graph.node[:3])
    sparse = stored[beside]
    if kind in ("MatMul", "Gemm") and sparse.shape[0] == 96:
        sparse = sparse.T
    vectors = sparse.reshape(4, 16, -1).any(axis=1)
    assert vectors.mean() <= found["blocks"] + 1e-3
    before, after = found["bytes"]
    rank = found["rank"]
    assert after == 4 * rank * (64 + sparse.size // 64) + 66 * round(found["blocks"] * vectors.size)
    assert after <= 0.3 * before
    assert rank in stored[first].shape

    right, now = (np.moveaxis(answers(p, inputs), 1 if kind in ("pointwise", "square", "no bias") else -1, -1)
                  .reshape(-1, 64).astype(float) for p in (proto, small.source))  # fmt: skip
    # Where there is a bias, errors are about the mean.
    centre = 0 if kind == "MatMul" else right.mean(axis=0)
    measured = ((right - now) ** 2).sum() / ((right - centre) ** 2).sum()
    # The account's metric is damped by a hundredth of the inputs' mean variance.
    assert measured == pytest.approx(found["error"], rel=0.1)


@pytest.mark.parametrize(
    ("rank", "share", "target"), [(4, 0.0, 0.3), (0, 0.1, 0.3), (8, 0.0, 0.105), (0, 0.1, 0.05)]
)
def test_layers_for_which_one_is_enough_stay(rank: int, share: float, target: float) -> None:
    """What is low rank, or blocks, is not both, whether all of it fits into the bytes or a part."""
    proto = network("transposed", rank, share)
    small = dlcomp.load(proto).compress(
        dlcomp.LowRankSparse(target=target, smallest=0), calibration=samples(proto)
    )
    effect = small.history[-1].effect
    assert effect["layers"] == 0
    assert effect["whole"] == {"layer": "either alone is as good"}
    assert [n.op_type for n in small.source.graph.node] == ["Gemm"]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(2, 40),
    st.integers(1, 40),
    st.sampled_from([2, 8, 16]),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_mixtures_of_any_shape(outputs: int, inputs: int, rows: int, target: float, seed: int) -> None:
    """Bytes are within the budget and true, errors are those of the sums, ranks and blocks as said."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((outputs, inputs))
    seen = rng.standard_normal((3 * inputs, inputs))
    metric = seen.T @ seen / len(seen) + 0.01 * np.eye(inputs)
    budget = target * 4 * matrix.size
    found = mixtures(matrix, metric, Pattern(rows, 1), budget)
    assert len(found) == len(SHARES)
    assert found[0].rank == 0
    assert not found[-1].sparse.any()
    for one in found:
        starts = np.arange(0, outputs, rows)
        blocks = np.logical_or.reduceat(one.sparse != 0, starts, axis=0)
        assert blocks.sum() <= round(one.kept * blocks.size)
        assert np.linalg.matrix_rank(one.low, 1e-8 * max(1.0, np.abs(one.low).max())) <= one.rank
        assert one.bytes == 4 * one.rank * (outputs + inputs) + (4 * rows + 2) * round(one.kept * blocks.size)
        assert one.bytes <= budget
        assert one.error == pytest.approx(error_of(matrix - one.low - one.sparse, metric))
        assert one.error <= error_of(matrix, metric) * (1 + 1e-9)


def test_a_trained_network_runs_the_sparse_kernel_and_is_quantized(tmp_path: Path) -> None:
    """ResNet-8: answers as in onnxruntime, a file that opens again, and 8 bits behind it."""
    rng = np.random.default_rng(0)
    images = rng.random((64, 1, 28, 28), "float32")
    model = dlcomp.load(RESNET, {"image": (4, 1, 28, 28)})
    small = model.compress(parse("lowrank_sparse:targets=/5/c/Conv@0.25"), calibration=images)
    effect = small.history[-1].effect
    assert list(effect["by_layer"]) == ["/5/c/Conv"]
    assert effect["bytes"][1] < effect["bytes"][0]
    artifact = small.compile("host")
    assert any("block_sparse" in kernel.schedule for kernel in artifact.kernels)
    feed = {"image": images[:4]}
    (right,) = peer.session(small.source.SerializeToString(), 1, optimize=False).run(None, feed)
    np.testing.assert_allclose(artifact.run(feed)["logits"], right, atol=1e-4 * np.abs(right).max())
    opened = dlcomp.open(artifact.save(tmp_path / "small.dlc"))
    np.testing.assert_array_equal(opened.run(feed)["logits"], artifact.run(feed)["logits"])
    small.save(tmp_path / "small.onnx")
    again = Network(dlcomp.load(tmp_path / "small.onnx")).weights
    for name, array in Network(small).weights.items():
        np.testing.assert_array_equal(again[name], array)
    eight = small.compress(dlcomp.Quantize(), calibration=images)
    assert [step.name for step in eight.history[-2:]] == ["lowrank_sparse", "quantize"]
    (coarse,) = peer.session(eight.source.SerializeToString(), 1, optimize=False).run(None, feed)
    assert 0 < np.abs(coarse - right).max() < 0.1 * np.abs(right).max()


def test_a_search_chooses_layer_by_layer() -> None:
    """Each layer that is large enough by itself, from mild to strong, at an error that grows."""
    rng = np.random.default_rng(0)
    images = rng.random((32, 1, 28, 28), "float32")
    model = dlcomp.load(RESNET, {"image": (4, 1, 28, 28)})
    base = Network(model)
    pass_ = dlcomp.LowRankSparse(smallest=18_000)
    chosen = family(pass_, base, "size")
    weights = {layer.name: weight_of(base, layer) for layer in layers_of(base)}
    assert set(chosen.levels) == {name for name, array in weights.items() if array.size >= 18_000}
    (layer,) = (name for name in chosen.levels if name == "/5/c/Conv")
    errors, sizes = [], []
    for level in (chosen.levels[layer][2], chosen.levels[layer][-1]):
        changed = base.copy()
        effect = chosen.of({layer: level}).rewrite(changed, Calibration(images, model.signature))
        changed.drop_unread()
        errors.append(own_error(effect, layer))
        sizes.append(weight_bytes(changed))
        for other in weights.keys() - {layer}:
            assert other in {one.name for one in layers_of(changed)}
    assert 0 < errors[0] < errors[1]
    assert weight_bytes(base) > sizes[0] > sizes[1]


@pytest.mark.parametrize(("text", "reason"), [
    ("lowrank_sparse:pattern=2:4", "blocks of outputs of one input"),
    ("lowrank_sparse:pattern=16x4", "blocks of outputs of one input"),
    ("lowrank_sparse:pattern=unstructured", "blocks of outputs of one input"),
    ("lowrank_sparse:target=1", "target is a share"),
    ("lowrank_sparse:targets=a@0", "target of a is a share"),
    ("lowrank_sparse:gain=1", "gain is a share"),
    ("lowrank_sparse:smallest=-1", "smallest is a number of weights"),
    ("lowrank_sparse:damping=0", "damping is above 0"),
    ("lowrank_sparse:keep=(", "cannot read the expression"),
])  # fmt: skip
def test_options_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"pattern": "65x1", "smallest": 0}, ModelError, "64 outputs are less than 65"),
        ({"keep": ("layer",)}, ModelError, "layer: kept"),
        ({"smallest": 6145}, ModelError, "6144 weights are less than 6145"),
        ({"targets": {"layers": 0.3}, "smallest": 0}, UsageError, "no layer 'layers'"),
    ],
)
def test_networks_without_such_layers(
    options: dict[str, object], kind: type[DlcompError], reason: str
) -> None:
    proto = network("transposed")
    with pytest.raises(kind, match=reason):
        dlcomp.load(proto).compress(dlcomp.LowRankSparse(**options), calibration=samples(proto))  # type: ignore[arg-type]


def test_it_needs_data() -> None:
    with pytest.raises(UsageError, match="lowrank_sparse"):
        dlcomp.load(network("Gemm")).compress(dlcomp.LowRankSparse())
