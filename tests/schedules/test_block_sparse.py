"""Products by weights of which whole vectors are zeros, against onnxruntime and NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels import run, template
from nets import TARGETS, Net, check, compile_for, reference, schedules

import dlcomp
from dlcomp.schedules.cpu.block_sparse import balanced
from dlcomp.schedules.sparsity import counts, left, vectors
from dlcomp.schedules.workload import Conv2d, Gemm
from dlcomp.target import Target


def sparse(
    rng: np.random.Generator, inputs: int, outputs: int, density: float, width: int = 16
) -> np.ndarray:
    """(inputs, outputs) of which ``density`` of the vectors of ``width`` outputs are left."""
    kept = rng.random((inputs, -(-outputs // width))) < density
    mask = np.repeat(kept, width, axis=1)[:, :outputs]
    return (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype("float32") * mask


def stored(weight: np.ndarray, width: int) -> str:
    """As :func:`left` says it, but of ``width`` in any case."""
    return f"{width}:{int(vectors(weight, width).sum())}"


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.02, 0.2, 0.5, 1.0]),
    st.sampled_from([8, 16, 32]),
    st.integers(0, 1 << 30),
    st.sampled_from(TARGETS),
)
def test_any_extents_and_densities(
    m: int, n: int, k: int, density: float, width: int, pick: int, target: str
) -> None:
    rng = np.random.default_rng(pick)
    x, weight = rng.standard_normal((m, k)).astype("float32"), sparse(rng, k, n, density, width)
    workload = Gemm(m, n, k, stored=stored(weight, width))
    space = template("gemm.block_sparse").space(workload, Target.parse(target))
    found = run("gemm.block_sparse", workload, space[pick % len(space)], [x, weight], (m, n), target)
    assert np.abs(found - x.astype(float) @ weight).max() <= 1e-5 * max(1.0, np.abs(found).max())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 11), st.integers(1, 11), st.integers(1, 20), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 2),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.integers(0, 1 << 30),
    st.sampled_from(TARGETS),
)
def test_any_convolution(
    sizes: tuple[int, int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: int,
    pads: tuple[int, int, int, int],
    density: float,
    pick: int,
    target: str,
) -> None:
    h, w, ci, co = sizes
    top, left_, bottom, right = pads
    oh = (h + top + bottom - (kernel[0] - 1) * dilation - 1) // strides[0] + 1
    ow = (w + left_ + right - (kernel[1] - 1) * dilation - 1) // strides[1] + 1
    assume(oh >= 1 and ow >= 1)
    rng = np.random.default_rng(pick)
    matrix = sparse(rng, kernel[0] * kernel[1] * ci, co, density)
    weight = np.ascontiguousarray(matrix.T).reshape(co, *kernel, ci)
    workload = Conv2d(
        2,
        h,
        w,
        ci,
        oh,
        ow,
        co,
        *kernel,
        *strides,
        dilation,
        dilation,
        top,
        left_,
        1,
        stored=stored(matrix, 16),
    )
    image = rng.standard_normal((2, h, w, ci)).astype("float32")
    space = template("conv2d.block_sparse").space(workload, Target.parse(target))
    found = run(
        "conv2d.block_sparse", workload, space[pick % len(space)], [image, weight], (2, oh, ow, co), target
    )
    net = Net()
    x = net.input(2, ci, h, w)
    y = net.op(
        "Conv",
        x,
        net.constant(weight.transpose(0, 3, 1, 2)),
        pads=list(pads),
        strides=list(strides),
        dilations=[dilation, dilation],
    )
    net.output(y)
    (want,) = reference(net.model(), {x: image.transpose(0, 3, 1, 2)})
    assert np.abs(found - want.transpose(0, 2, 3, 1)).max() <= 1e-5 * max(1.0, np.abs(want).max())


def _net(weight: np.ndarray, *lead: int) -> tuple[Net, str]:
    net = Net()
    return net, net.op("MatMul", net.input(*lead, weight.shape[0]), net.constant(weight))


def test_epilogues() -> None:
    """Bias, activation, residual, a result that is used again, two results."""
    rng = np.random.default_rng(0)
    net = Net()
    x, residual = net.input(2, 9, 96), net.input(2, 9, 88)
    for kind in ("Relu", "Sigmoid", "Tanh", "Erf"):
        y = net.op("Add", net.op("MatMul", x, net.constant(sparse(rng, 96, 88, 0.1))), net.weight(88))
        net.output(net.op("Add", net.op(kind, y), residual))
    y = net.op("MatMul", x, net.constant(sparse(rng, 96, 88, 0.1)))
    net.output(y, net.op("Mul", net.op("Relu", y), y))
    for artifact in check(net):
        assert set(schedules(artifact, "gemm")) == {"gemm.block_sparse"}


def test_convolutions_in_a_network() -> None:
    rng = np.random.default_rng(0)
    net = Net()
    x = net.input(1, 64, 14, 14)
    for size, attributes in (
        (1, {}),
        (1, {"strides": [2, 2]}),
        (3, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        (3, {"pads": [1, 1, 1, 1]}),
        (5, {"pads": [2, 2, 2, 2], "dilations": [1, 1]}),
    ):
        weight = sparse(rng, size * size * 64, 64, 0.05).T.reshape(64, size, size, 64).transpose(0, 3, 1, 2)
        y = net.op("Conv", x, net.constant(np.ascontiguousarray(weight)), net.weight(64), **attributes)
        net.output(net.op("Relu", y))
    for artifact in check(net):
        found = {*schedules(artifact, "conv2d"), *schedules(artifact, "gemm")}
        assert found == {"gemm.block_sparse", "conv2d.block_sparse"}


def test_dense_weights_and_few_zeros_stay_dense() -> None:
    rng = np.random.default_rng(0)
    for density in (1.0, 0.9):
        net, y = _net(sparse(rng, 128, 128, density), 32)
        net.output(y)
        for artifact in compile_for(net):
            assert set(schedules(artifact, "gemm")) == {"gemm.packed"}


def test_sparse_kernels_can_be_refused() -> None:
    net, y = _net(sparse(np.random.default_rng(0), 128, 128, 0.1), 32)
    net.output(y)
    model = dlcomp.load(net.model())
    assert schedules(model.compile(), "gemm") == ["gemm.block_sparse"]
    assert schedules(model.compile(sparse=False), "gemm") == ["gemm.packed"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_meets_only_zeros_is_not_read(value: float) -> None:
    """A NaN or infinity reaches the outputs of stored vectors as in the dense product, and no other."""
    rng = np.random.default_rng(0)
    weight = sparse(rng, 64, 64, 0.2)
    weight[5] = 0
    weight[7, 16:32] = 0
    weight[7, :16] = 1
    net, y = _net(weight, 4)
    net.output(y)
    x = rng.standard_normal((4, 64)).astype("float32")
    clean = x @ weight
    x[1, 5] = value  # meets nothing
    x[2, 7] = value  # meets outputs 0 to 15, not 16 to 31
    for artifact in compile_for(net):
        assert schedules(artifact, "gemm") == ["gemm.block_sparse"]
        (found,) = artifact.run({"x0": x}).values()
        np.testing.assert_allclose(found[[0, 1, 3]], clean[[0, 1, 3]], atol=1e-5)
        np.testing.assert_allclose(found[2, 16:32], clean[2, 16:32], atol=1e-5)
        np.testing.assert_array_equal(found[2, :16], np.full(16, value, "float32"))


def test_flops_and_density_of_a_kernel_are_those_that_are_left() -> None:
    weight = sparse(np.random.default_rng(0), 128, 128, 0.2)
    net, y = _net(weight, 32)
    net.output(y)
    (artifact, *_) = compile_for(net)
    (kernel,) = artifact.kernels
    kept = np.count_nonzero(weight)
    assert kernel.flops == 2 * 32 * kept
    assert f"density={kept / weight.size:.2f}" in kernel.schedule
    assert kernel.bytes < 0.5 * weight.nbytes + 2 * 32 * 128 * 4


def test_layers_with_equally_many_zeros_share_a_kernel() -> None:
    rng = np.random.default_rng(0)
    net = Net()
    y = net.input(8, 64)
    for _ in range(3):
        kept = rng.permutation(64 * 4).reshape(64, 4) < 40
        y = net.op(
            "MatMul", y, net.constant(net.rng.standard_normal((64, 64)).astype("f4") * kept.repeat(16, 1))
        )
    net.output(y)
    for artifact in check(net):
        assert schedules(artifact, "gemm") == ["gemm.block_sparse"]


def test_left_says_what_pays() -> None:
    rng = np.random.default_rng(0)
    assert left(rng.standard_normal((64, 64))) == ""
    blocks = sparse(rng, 64, 64, 0.2)
    assert set(counts(left(blocks))) == {1, 8, 16}
    assert counts(left(blocks))[16] * 16 == counts(left(blocks))[1] == np.count_nonzero(blocks)
    assert set(counts(left(sparse(rng, 64, 64, 0.2, 1)))) == {1}


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40), st.integers(1, 5))
def test_blocks_are_dealt_evenly(work: list[int], shares: int) -> None:
    order = balanced(np.array(work), shares)
    assert sorted(order) == list(range(len(work)))
    room = -(-len(work) // shares)
    sums = [sum(work[i] for i in order[s * room : (s + 1) * room]) for s in range(shares)]
    if len(work) % shares == 0:
        # Of equally long shares, none has more than an even part and the largest block.
        assert max(sums) <= sum(work) / shares + max(work)


def test_an_artifact_of_sparse_kernels_is_saved_whole(tmp_path: Path) -> None:
    """Also with coded weights; offsets of more than 65,535 inputs are wider."""
    net = Net()
    x, wide = net.input(4, 64), net.input(3, 70000)
    small, large = sparse(net.rng, 64, 64, 0.1), sparse(net.rng, 70000, 16, 0.001)
    net.output(net.op("MatMul", x, net.constant(small)), net.op("MatMul", wide, net.constant(large)))
    feed = net.random_inputs()
    (artifact, *_) = check(net, feed)
    assert set(schedules(artifact, "gemm")) == {"gemm.block_sparse"}
    want = artifact.run(feed)
    for coded in (False, True):
        path = tmp_path / f"{coded}.dlc"
        artifact.save(path, coded=coded)
        # The dense weights alone take 4.5 MB.
        assert path.stat().st_size < 1_000_000
        for name, found in dlcomp.open(path).run(feed).items():
            np.testing.assert_array_equal(found, want[name])
