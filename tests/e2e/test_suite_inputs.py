"""The suite's networks at other sizes, batches and inputs than they are measured at, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dlcomp
from dlcomp.runtime import peer
from dlcomp.runtime.metric import difference

CASES = {
    "ppocr_cls": [{"x": (1, 3, 48, 192)}, {"x": (3, 3, 48, 192)}],
    "ppocr_rec": [{"x": (3, 3, 48, 320)}, {"x": (1, 3, 48, 168)}],
    "ppocr_det": [{"x": (1, 3, 96, 160)}, {"x": (3, 3, 64, 96)}],
    "yolox_det": [{"images": (1, 3, 416, 416)}],
    "efficientnet_lite0": [{"input": (3, 3, 224, 224)}],
    "resnet50_thin": [{"input:0": (1, 224, 224, 3)}],
    "minilm": [
        {"input_ids": (3, 17), "attention_mask": (3, 17)},
        {"input_ids": (1, 1), "attention_mask": (1, 1)},
    ],
}
QUICK = {"ppocr_cls": CASES["ppocr_cls"][1:]}
FILLS = (0.0, np.nan, np.inf)


def pairs(cases: dict[str, Any]) -> list[Any]:
    return [pytest.param(name, shapes, id=f"{name}-{shapes}") for name in cases for shapes in cases[name]]


def agree(found: np.ndarray, right: np.ndarray, where: str) -> None:
    """Within 1e-4 of the range, or to the last digits of a nearly constant output.

    onnxruntime's max pooling drops NaN; ours, as NumPy's maximum, keeps it. So ours may have more of them.
    """
    assert not (np.isnan(right) & ~np.isnan(found)).any(), where
    lost = np.isnan(found) & ~np.isnan(right)
    found, right = found[~lost], right[~lost]
    digits = 4 * np.finfo(right.dtype).eps * np.abs(right[np.isfinite(right)]).max(initial=0)
    with np.errstate(invalid="ignore"):
        last_digits = np.all((found == right) | (np.abs(found - right) <= digits) | np.isnan(right))
    gap = difference(found, right)
    assert last_digits or gap.within(1e-4), f"{where}: {gap}"


def check(models: Any, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    entry = models.SUITE[name]
    model = dlcomp.load(models.fetch(name), shapes=shapes)
    assert model.source is not None
    artifact = model.compile("host")
    reference = peer.session(model.source.SerializeToString(), 1, optimize=False)
    feeds = [entry.example(shapes)]
    floats = [k for k, v in feeds[0].items() if v.dtype == np.float32]
    for fill in FILLS if floats else ():
        # One special pixel among ordinary ones, and a whole input of it.
        spotted, whole = dict(feeds[0]), dict(feeds[0])
        for key in floats:
            spotted[key] = spotted[key].copy()
            spotted[key].flat[spotted[key].size // 2] = fill
            whole[key] = np.full_like(whole[key], fill)
        feeds += [spotted, whole]
    for number, feed in enumerate(feeds):
        expected = peer.run(reference, feed)
        found = artifact.run(feed)
        for output, right in expected.items():
            agree(found[output], right, f"input {number}, {output}")


@pytest.mark.parametrize(("name", "shapes"), pairs(QUICK))
def test_a_small_network_equals_onnxruntime(models: Any, name: str, shapes: Any) -> None:
    check(models, name, shapes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shapes"), pairs(CASES))
def test_the_suite_equals_onnxruntime(models: Any, name: str, shapes: Any) -> None:
    check(models, name, shapes)
