"""Products by weights of few values: looked up where that is faster, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check, compile_for, schedules

import dlcomp
from dlcomp.graph.shared import pays
from dlcomp.runtime.coding.account import account
from dlcomp.schedules import TEMPLATES, select
from dlcomp.schedules.coding import Codebook, example
from dlcomp.schedules.workload import Gemm
from dlcomp.target import Target

CODED, DENSE = "gemm.coded", "gemm.packed"


def shared(net: Net, k: int, n: int, values: int) -> str:
    table = net.rng.standard_normal(values).astype("float32") / np.float32(np.sqrt(k))
    return net.constant(table[net.rng.integers(0, values, (k, n))])


def coded(artifact: Any) -> list[str]:
    """The codings of the kernels that look weights up."""
    found = [kernel.schedule for kernel in artifact.kernels if kernel.schedule.startswith(CODED)]
    return [schedule.rstrip("}").rsplit(",", 1)[1] for schedule in found]


@given(st.sampled_from([2, 3, 4, 5, 8]), st.integers(1, 2), st.integers(250, 300), st.integers(400, 500))
@settings(deadline=None, max_examples=5, derandomize=True)
def test_few_rows_and_few_values(values: int, m: int, n: int, k: int) -> None:
    net = Net(seed=values)
    y = net.op("MatMul", net.input(m, k), shared(net, k, n, values))
    net.output(net.op("Relu", net.op("Add", y, net.weight(n))))
    for artifact in check(net):
        assert len(artifact.kernels) == 1
        assert coded(artifact) == ["c3" if values > 4 else "c2"]


@pytest.mark.parametrize("transposed", [False, True])
def test_memory_holds_the_numbers(transposed: bool) -> None:
    """Of 16 values an eighth of float32's bytes; also of a Gemm whose weight is turned."""
    net = Net()
    x = net.input(1, 256)
    if transposed:
        net.output(net.op("Gemm", x, shared(net, 512, 256, 8), transB=1))
    else:
        net.output(net.op("MatMul", x, shared(net, 256, 512, 8)))
    for artifact in check(net):
        assert coded(artifact) == ["c3"]
        stored = sum(int(array.nbytes) for array in artifact.weights)
        assert stored == 4 * -(-256 // 10) * 512 + 4 * 32


def test_many_rows_and_many_values_stay_floats() -> None:
    net = Net()
    x, wide = net.input(300, 256), net.input(1, 256)
    for operand, values in ((x, 8), (wide, 200), (wide, 2000)):
        net.output(net.op("MatMul", operand, shared(net, 256, 256, values)))
    for artifact in check(net):
        assert set(schedules(artifact, "gemm")) == {DENSE}


def test_few_weights_and_open_sizes_stay_floats() -> None:
    net = Net()
    net.output(net.op("MatMul", net.input(1, 16), shared(net, 16, 32, 4)))
    for artifact in compile_for(net):
        assert schedules(artifact, "gemm") == [DENSE]
    net = Net()
    net.output(net.op("MatMul", net.input(1, 256), shared(net, 256, 64, 4)))
    model = net.model()
    for tensor in (model.graph.input[0], model.graph.output[0]):
        tensor.type.tensor_type.shape.dim[0].dim_param = "rows"
    artifact = dlcomp.load(model).compile()
    assert not coded(artifact)


def test_zeros_that_are_skipped_are_faster_still() -> None:
    """Of a weight with few vectors left no number is read either."""
    net = Net()
    table = np.array([0.5, -0.25, 1.0], "float32")
    kept = np.repeat(net.rng.random((512, 32)) < 0.04, 16, axis=1)
    weight = table[net.rng.integers(0, 3, (512, 512))] * kept
    net.output(net.op("MatMul", net.input(4, 512), net.constant(weight)))
    for artifact in check(net):
        assert schedules(artifact, "gemm") == ["gemm.block_sparse"]


def test_the_more_values_the_less_it_pays() -> None:
    """What a lookup costs grows with the codebook, what it saves does not."""
    target = Target.parse("x86_64-linux-gnu:znver4")
    rng = np.random.default_rng(0)
    found = []
    for bits in range(2, 9):
        workload = Gemm(1, 512, 512, f"c{bits}")
        weight = example(512, 512, Codebook(bits), rng)
        found.append(
            pays(weight, workload, select(workload, target), lambda other: select(other, target), target)
        )
    assert found[:4] == [True] * 4
    assert not found[-1]
    assert found == sorted(found, reverse=True)


def test_what_is_not_finite() -> None:
    """A NaN or infinity in an input makes what it makes in float32, also where it meets a weight of zero."""
    net = Net()
    weight = np.array([0, 1, -2, 0.5], "float32")[net.rng.integers(0, 4, (256, 512))]
    net.output(net.op("MatMul", net.input(2, 256), net.constant(weight)))
    x = net.rng.standard_normal((2, 256)).astype("float32")
    x[0, 3], x[1, 40] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = x @ weight
    for artifact in compile_for(net):
        assert coded(artifact) == ["c2"]
        (found,) = artifact.run({"x0": x}).values()
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_array_equal(found[np.isinf(expected)], expected[np.isinf(expected)])


def test_a_network_of_shared_weights_saved_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of coded weights is no larger for the words that a kernel reads, the plain one far smaller."""
    net = Net()
    hidden = net.op("Relu", net.op("MatMul", net.input(1, 256), net.weight(256, 512)))
    net.output(net.op("MatMul", hidden, net.weight(512, 128)))
    prune = dlcomp.Sparsify(method="magnitude", target=0.8, pattern="unstructured")
    model = dlcomp.load(net.model()).compress(prune, dlcomp.ShareWeights(bits=3))
    fed = net.random_inputs()
    artifact = model.compile()
    assert coded(artifact) == ["c3", "c3"]
    monkeypatch.setattr("dlcomp.schedules.TEMPLATES", tuple(t for t in TEMPLATES if t.name != "gemm.coded"))
    floats = model.compile()
    assert not coded(floats)
    (right,) = artifact.run(fed).values()
    held: dict[tuple[bool, bool], int] = {}
    for looked_up, one in ((True, artifact), (False, floats)):
        for small in (False, True):
            path = tmp_path / "saved.dlc"
            one.save(path, coded=small)
            held[looked_up, small] = account(path).weight_bytes
            (found,) = dlcomp.open(path).run(fed).values()
            np.testing.assert_allclose(found, right, atol=1e-5)
            if looked_up:
                np.testing.assert_array_equal(found, right)
    assert held[True, False] < 0.11 * held[False, False]
    assert held[True, True] < 1.02 * held[False, True] + 200
    assert held[True, True] < 0.5 * held[True, False]
