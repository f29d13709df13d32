"""Integer convolutions by weights of which groups of inputs are zeros: to the bit, in every arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import run, template
from test_sparse_integers import HERE, sparse, stored

from dlcomp.schedules import select
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.sparsity import left_in_groups
from dlcomp.schedules.workload import Conv2d
from dlcomp.target import Target

NAME = "conv2d.block_sparse_integers"


def by_numpy(image: np.ndarray, weight: np.ndarray, wl: Conv2d) -> np.ndarray:
    """(n, oh, ow, co), tap by tap."""
    total = np.zeros((wl.n, wl.oh, wl.ow, wl.co), np.int64)
    for ky in range(wl.kh):
        for kx in range(wl.kw):
            rows = ky * wl.dh + wl.sh * np.arange(wl.oh)
            columns = kx * wl.dw + wl.sw * np.arange(wl.ow)
            read = image[:, rows][:, :, columns].astype(np.int64)
            total += read @ weight[:, ky, kx].T.astype(np.int64)
    return total


@pytest.mark.parametrize(("name", "target"), HERE)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_extents_strides_and_densities(name: str, target: str, data: st.DataObject) -> None:
    kinds = arithmetic_of(name)
    kh, kw, sh, sw, dh, dw = (data.draw(st.integers(1, most)) for most in (4, 4, 3, 3, 2, 2))
    oh, ow, n = (data.draw(st.integers(1, most)) for most in (4, 15, 2))
    # Rows and columns that no window reads may follow.
    h = (oh - 1) * sh + (kh - 1) * dh + 1 + data.draw(st.integers(0, 2))
    w = (ow - 1) * sw + (kw - 1) * dw + 1 + data.draw(st.integers(0, 2))
    ci, co = data.draw(st.integers(1, 5)) * kinds.group, data.draw(st.integers(1, 50))
    density = data.draw(st.sampled_from([0.0, 0.02, 0.2, 0.5, 1.0]))
    width = data.draw(st.sampled_from([8, 16, 32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    matrix = sparse(rng, kh * kw * ci, co, density, width, kinds.group)
    weight = np.ascontiguousarray(matrix.T).reshape(co, kh, kw, ci)
    low = 0 if kinds.data == "uint8" else -128
    image = rng.choice([low, 255, *range(low, 255, 7)], (n, h, w, ci))
    wl = Conv2d(n, h, w, ci, oh, ow, co, kh, kw, sh, sw, dh, dw, 0, 0, 1, name,
                stored(matrix, width, kinds.group))  # fmt: skip
    assert template(NAME).accepts(wl, Target.parse(target))
    knobs = data.draw(st.sampled_from(list(template(NAME).space(wl, Target.parse(target)))))
    operands = [image.astype(kinds.data), weight.astype(kinds.weight)]
    found = run(NAME, wl, knobs, operands, (n, oh, ow, co), target)
    np.testing.assert_array_equal(found, by_numpy(image, weight, wl))


@pytest.mark.parametrize(("name", "target"), HERE)
def test_extremes_do_not_saturate_and_far_rows_are_reached(name: str, target: str) -> None:
    """All inputs and weights at an extreme; a last tap more than 2 ** 16 groups away."""
    kinds = arithmetic_of(name)
    low, high = (0, 255) if kinds.data == "uint8" else (-128, 255)
    ci, w = 64 * kinds.group, 1100
    wl = Conv2d(1, 3, w, ci, 1, 2, 16, 2, 2, 1, w - 3, 2, 2, 0, 0, 1, name)
    assert wl.dh * wl.w * ci // kinds.group > 1 << 16
    rng = np.random.default_rng(0)
    kept = np.repeat(rng.random((16, 2, 2, ci // kinds.group))[:1] < 0.6, kinds.group, axis=3)
    for extreme, size in ((high, -128), (high, 127), (low, -128)):
        image, weight = np.full((1, 3, w, ci), extreme), kept * np.full((16, 2, 2, ci), size)
        text = stored(weight.reshape(16, -1).T, 16, kinds.group)
        one = Conv2d(**{**wl.__dict__, "stored": text})
        operands = [image.astype(kinds.data), weight.astype(kinds.weight)]
        found = run(NAME, one, {"rows": 2, "width": 16}, operands, (1, 1, 2, 16), target)
        np.testing.assert_array_equal(found, by_numpy(image, weight, one))


def test_images_that_are_not_padded_and_groups_are_refused() -> None:
    target = Target.host()
    name = integer_arithmetic(target, "int8")
    group = arithmetic_of(name).group
    text = f"16:9 16x{group}:9" if group > 1 else "16:9"
    plain = {"n": 1, "h": 8, "w": 8, "ci": 16, "oh": 6, "ow": 6, "co": 16, "kh": 3, "kw": 3, "sh": 1,
             "sw": 1, "dh": 1, "dw": 1, "top": 0, "left": 0, "groups": 1, "arithmetic": name,
             "stored": text}  # fmt: skip
    assert template(NAME).accepts(Conv2d(**plain), target)
    others = ({"top": 1}, {"left": 1}, {"oh": 7}, {"ow": 7}, {"groups": 2}, {"stored": ""}, {"ow": 0},
              {"arithmetic": "float32"})  # fmt: skip
    for other in others:
        assert not template(NAME).accepts(Conv2d(**{**plain, **other}), target)


def test_zeros_are_skipped_where_that_is_faster() -> None:
    rng = np.random.default_rng(0)
    target = Target.host()
    name = integer_arithmetic(target, "int8")
    group = arithmetic_of(name).group
    for density, expected in ((0.2, NAME), (0.95, "conv2d.direct")):
        weight = sparse(rng, 9 * 64, 64, density, group=group)
        wl = Conv2d(1, 30, 30, 64, 28, 28, 64, 3, 3, 1, 1, 1, 1, 0, 0, 1, name, left_in_groups(weight, group))
        found = select(wl, target)
        assert found is not None
        assert found[0].name == expected
