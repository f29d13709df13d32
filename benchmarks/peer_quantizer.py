"""onnxruntime's quantizer: QDQ, a scale for each channel, extremes of the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import version_converter


def by_onnxruntime(network: bytes, samples: Iterable[Mapping[str, np.ndarray]], folder: Path) -> bytes:
    """``network`` as onnxruntime quantizes it after seeing ``samples``, each the inputs of one run."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = iter(samples)

        def get_next(self) -> Any:
            return next(self.samples, None)

    onnxruntime.set_default_logger_severity(4)
    source, prepared, made = (folder / f"{part}.onnx" for part in ("source", "prepared", "made"))
    # Scales along an axis came with opset 13.
    model = onnx.load_from_string(network)
    if any(entry.domain == "" and entry.version < 13 for entry in model.opset_import):
        model = version_converter.convert_version(model, 13)
    source.write_bytes(model.SerializeToString())
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared, made, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
    )
    return made.read_bytes()
