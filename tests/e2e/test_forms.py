"""Forms of real networks: recurrent ones with branches, and what onnxruntime's quantizer makes of the suite.

The reference for quantized networks is onnxruntime without optimizations: its fused integer kernels saturate
on CPUs without VNNI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import version_converter

import dlcomp
from dlcomp.runtime import peer

SPEECH = (
    "silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_half",
    "silero_vad_op18_ifless", "silero_vad_openvino_16k",
)  # fmt: skip
NETWORKS = (
    "ppocr_cls", "ppocr_rec", "ppocr_det", "yolox_det", "efficientnet_lite0", "resnet50_thin", "minilm",
    "crnn_lstm",
)  # fmt: skip


def steps_of(models: Any, name: str, rounds: int) -> None:
    """Run after run, the state that came out going in again where the network has one."""
    entry = models.OTHERS[name]
    path = models.fetch(name)
    artifact = dlcomp.load(path, shapes=entry.shapes).compile()
    session = peer.session(path.read_bytes(), 1, optimize=False)
    feed = entry.example()
    carried = [key for key in feed if key not in ("input", "sr", "input1")]
    for turn in range(rounds):
        feed |= {key: value for key, value in entry.example(seed=turn).items() if key not in carried}
        expected = peer.run(session, feed)
        found = artifact.run({spec.name: feed[spec.name] for spec in artifact.signature.inputs})
        for output, right in expected.items():
            assert found[output].dtype == right.dtype
            np.testing.assert_allclose(found[output], right, rtol=0, atol=1e-4 * max(1, np.abs(right).max()))
        states = [value for value in list(expected.values())[1:]]
        feed |= dict(zip(carried, states, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPEECH)
def test_detectors_of_speech(models: Any, name: str) -> None:
    steps_of(models, name, 5)


@pytest.mark.slow
def test_reader_of_captchas(models: Any) -> None:
    steps_of(models, "crnn_lstm", 2)


class Pictures:
    """Calibration data as onnxruntime's quantizer takes it."""

    def __init__(self, entry: Any, count: int) -> None:
        self.feeds = iter([entry.example(seed=100 + i) for i in range(count)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def quantized(models: Any, name: str, form: str, folder: Path) -> bytes:
    """The network in one of the forms that onnxruntime's quantizer makes, shapes bound."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    entry = {**models.SUITE, **models.OTHERS}[name]
    network = onnx.load(models.fetch(name))
    if network.opset_import[0].version < 13:
        # Scales along an axis came with opset 13.
        network = version_converter.convert_version(network, 13)
    for value in network.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, entry.shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    bound, prepared, made = (folder / f"{part}.onnx" for part in ("bound", "prepared", "made"))
    onnx.save(network, bound)
    quant_pre_process(str(bound), str(prepared), skip_symbolic_shape=True)
    if form == "dynamic":
        quantization.quantize_dynamic(prepared, made)
        return made.read_bytes()
    layout = quantization.QuantFormat.QOperator if "operators" in form else quantization.QuantFormat.QDQ
    quantization.quantize_static(
        prepared, made, Pictures(entry, 2), quant_format=layout, per_channel="channels" in form
    )
    return made.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ["qdq", "qdq of channels", "operators", "dynamic"])
def test_quantized_forms(models: Any, name: str, form: str, tmp_path: Path) -> None:
    """As near to the reference as onnxruntime itself with optimizations, or within the noise.

    What is dequantized, computed in float32 and quantized again is a step off where the last digits of a sum
    decide, a few times in 100,000; behind it more values are. So the errors of all values together are
    compared (root mean square, of the range), and they must be less than half of what quantization changed.
    """
    data = quantized(models, name, form, tmp_path)
    entry = {**models.SUITE, **models.OTHERS}[name]
    artifact = dlcomp.load(data).compile()
    plain, fused = (peer.session(data, 1, optimize=optimize) for optimize in (False, True))
    real = peer.session(models.fetch(name).read_bytes(), 1, optimize=False)
    errors: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(2):
        feed = entry.example(seed=seed)
        found, right, other = (run(feed) for run in (artifact.run, *(runner(s) for s in (plain, fused))))
        before = peer.run(real, feed)
        for output, value in right.items():
            parts = tuple(error(array[output], value) for array in (found, other, before))
            errors.setdefault(output, []).append(parts)  # type: ignore[arg-type]
    for output, parts in errors.items():
        # A classifier gives two numbers: those of all inputs together.
        ours, theirs, noise = np.sqrt(np.mean(np.square(parts), axis=0))
        print(f"{name} {form} {output}: {ours:.1e}, onnxruntime {theirs:.1e}, quantization {noise:.1e}")
        assert ours <= max(theirs, noise / 2)


def error(found: np.ndarray, right: np.ndarray) -> float:
    gap = found.astype("float64") - right
    return float(np.sqrt(np.mean(gap**2)) / (np.ptp(right) or 1.0))


def runner(session: onnxruntime.InferenceSession) -> Any:
    return lambda feed: peer.run(session, feed)
