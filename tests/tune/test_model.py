"""The parts of the search alone: reference results, candidates and their neighbours, cost model, order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net

from dlcomp.schedules import ON_REQUEST, TEMPLATES
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload, to_text
from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate, candidates, neighbours
from dlcomp.tune.cost_model import CostModel, features
from dlcomp.tune.records import Record, target_key
from dlcomp.tune.reference import expected, operands
from dlcomp.tune.search import Search

HOST = Target.host()
CPUS = ("host", "x86_64-linux-gnu:haswell", "x86_64-linux-gnu:skylake-avx512", "aarch64-linux-gnu:cortex-a72")
GEMM = Gemm(96, 192, 64)
WORKLOADS: tuple[Workload, ...] = (
    GEMM,
    Gemm(1, 1, 1),
    BatchMatmul(3, 17, 5, 7),
    Conv2d(1, 14, 14, 16, 14, 14, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1),
    Window2d("depthwise", 1, 9, 9, 24, 5, 5, 3, 3, 2, 2, 1, 1, 1, 1),
)


def _onnx(net: Net, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        net.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, feed)[0]
    return result


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(3, 9),
    st.integers(3, 9),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 1),
    st.sampled_from(["conv", "depthwise", "max", "avg", "avg_full"]),
    st.integers(1, 2),
)
def test_reference_is_onnxruntimes(
    n: int, h: int, w: int, kh: int, kw: int, s: int, d: int, pad: int, kind: str, groups: int
) -> None:
    pad = min(pad, kh - 1, kw - 1)
    d = 1 if kind.startswith("avg") or (kh - 1) * 2 >= h or (kw - 1) * 2 >= w else d
    oh, ow = ((size + 2 * pad - (k - 1) * d - 1) // s + 1 for size, k in ((h, kh), (w, kw)))
    attributes = {"strides": [s, s], "pads": [pad] * 4, "dilations": [d, d], "kernel_shape": [kh, kw]}
    wl: Workload
    if kind == "conv":
        wl = Conv2d(n, h, w, 3, oh, ow, 2, kh, kw, s, s, d, d, pad, pad, groups)
    else:
        wl = Window2d(kind, n, h, w, 4, oh, ow, kh, kw, s, s, d, d, pad, pad, pad, pad)
    given_, _ = operands(wl)
    net = Net()
    image = net.input(*(np.array(given_[0].shape)[[0, 3, 1, 2]].tolist()))
    if kind in ("conv", "depthwise"):
        weight = net.constant(given_[1].transpose(0, 3, 1, 2))
        net.output(net.op("Conv", image, weight, group=groups if kind == "conv" else 4, **attributes))
    elif kind == "max":
        net.output(net.op("MaxPool", image, **attributes))
    else:
        del attributes["dilations"]
        net.output(net.op("AveragePool", image, count_include_pad=int(kind == "avg_full"), **attributes))
    result = _onnx(net, {image: given_[0].transpose(0, 3, 1, 2)}).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(expected(wl, given_), result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arithmetic", ["w8", "w4", "w4g16", "w8g24"])
def test_reference_of_coded_weights(arithmetic: str) -> None:
    """Every weight is its integer by the scale of its group, summed one by one."""
    wl = Gemm(2, 3, 40, arithmetic)
    (data, coded), constant = operands(wl)
    group = coded.coding.group or 40
    assert constant
    found = expected(wl, [data, coded])
    for row in range(2):
        for n in range(3):
            terms = [
                float(data[row, k]) * float(np.float32(coded.integers[k, n]) * coded.scales[k // group, n])
                for k in range(40)
            ]
            assert found[row, n] == pytest.approx(sum(terms), rel=1e-12)


@pytest.mark.parametrize("spec", CPUS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_candidates_are_the_spaces(workload: Workload, spec: str) -> None:
    target = Target.parse(spec)
    found = candidates(workload, target)
    takers = [t for t in TEMPLATES if t.name not in ON_REQUEST and t.accepts(workload, target)]
    assert {c.template for c in found} == {t.name for t in takers}
    assert Counter(c.key for c in found).most_common(1)[0][1] == 1
    assert [c.estimate for c in found] == sorted(c.estimate for c in found)
    assert all(math.isfinite(value) for c in found for value in features(workload, c, target).values())


def test_neighbours_differ_least_first() -> None:
    space = [
        Candidate("t", (("a", a), ("b", b)), estimate=float(a * b)) for a in (1, 2, 4, 8) for b in (16, 32)
    ]
    near = neighbours(Candidate("t", (("a", 2), ("b", 16))), [*space, Candidate("u", (("a", 2),))])
    assert [tuple(c.knobs.values()) for c in near[:3]] == [(1, 16), (2, 32), (4, 16)]
    assert all(c.template == "t" for c in near)
    assert len(near) == 7


def _secret(workload: Workload, candidate: Candidate) -> float:
    """A machine that dislikes odd numbers of rows, which the estimate knows nothing of."""
    return candidate.estimate * 1e-9 * (2.0 if candidate.knobs["rows"] % 2 else 1.0)


def _spills(workload: Workload, candidate: Candidate) -> float:
    """A machine that has fewer registers than the estimate believes: large tiles take twice as long."""
    knobs = candidate.knobs
    used = knobs["rows"] * knobs["width"] // HOST.lanes()
    return candidate.estimate * 1e-9 * (2.0 if used > HOST.vector_registers // 2 else 1.0)


def _measured(
    workload: Workload,
    some: list[Candidate],
    clock: Callable[[Workload, Candidate], float] = _secret,
) -> list[Record]:
    return [
        Record(
            to_text(workload),
            target_key(HOST),
            "v",
            c.template,
            c.knobs,
            seconds=clock(workload, c),
        )
        for c in some
    ]


def test_the_model_is_the_estimate_until_it_has_learnt() -> None:
    model, space = CostModel(HOST), candidates(GEMM, HOST)
    assert not model.trained
    np.testing.assert_allclose(model.predict(GEMM, space), np.log([c.estimate for c in space]))
    model.fit(_measured(GEMM, space[:7]))
    assert not model.trained


def test_what_is_learnt_on_one_shape_is_known_of_another() -> None:
    model, other = CostModel(HOST), Gemm(120, 160, 96)
    model.fit(_measured(GEMM, candidates(GEMM, HOST), _spills))
    assert model.trained
    space = candidates(other, HOST)
    truth = np.log([_spills(other, c) for c in space])
    error = np.abs(model.predict(other, space) - truth)
    assert np.median(error) < 0.1
    alone = np.log([c.estimate * 1e-9 for c in space])
    assert error.mean() < 0.4 * np.abs(alone - truth).mean()


def test_failures_rank_last_and_strange_records_are_left_out() -> None:
    space = candidates(GEMM, HOST)
    bad = {c.key for c in space if c.knobs["width"] == space[0].knobs["width"]}
    records = _measured(GEMM, [c for c in space if c.key not in bad])
    failed = [c for c in space if c.key in bad]
    records += [Record(to_text(GEMM), "t", "v", c.template, c.knobs, status="crash") for c in failed]
    records += [Record("{}", "t", "v", "gemm.packed", {}), Record(to_text(GEMM), "t", "v", "gone")]
    model = CostModel(HOST)
    model.fit(records)
    order = [space[i].key in bad for i in np.argsort(model.predict(GEMM, space))]
    assert sum(order[: len(order) // 4]) <= 2


def _run(trials: int, model: CostModel | None = None) -> tuple[list[Candidate], Candidate]:
    """A search on the secret machine."""
    space = candidates(GEMM, HOST)
    search, model = Search(GEMM, space, trials), model or CostModel(HOST)
    tried: list[Candidate] = []
    while search.left:
        best = min(tried, key=lambda c: _secret(GEMM, c), default=None)
        batch = search.propose(8, model, best)
        tried += batch
        model.fit(_measured(GEMM, tried))
    return tried, min(tried, key=lambda c: _secret(GEMM, c))


def test_a_search_finds_the_best_in_few_trials_and_repeats_nothing() -> None:
    tried, best = _run(32)
    assert len(tried) == len({c.key for c in tried}) == 32
    optimum = min(_secret(GEMM, c) for c in candidates(GEMM, HOST))
    assert _secret(GEMM, best) <= 1.03 * optimum


def test_a_search_ends_with_the_space() -> None:
    space = candidates(GEMM, HOST)
    tried, _ = _run(10**6)
    assert {c.key for c in tried} == {c.key for c in space}


def test_what_was_tried_is_not_proposed_again() -> None:
    space = candidates(GEMM, HOST)
    known = {c.key for c in space[:-3]}
    search = Search(GEMM, space, 100, known)
    assert search.left == 3
    assert {c.key for c in search.propose(8, CostModel(HOST), None)} == {c.key for c in space[-3:]}
    assert search.propose(8, CostModel(HOST), None) == []
