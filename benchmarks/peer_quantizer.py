"""onnxruntime's quantizer: a scale for each channel; QDQ by the extremes of samples, or dynamic ranges."""

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

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = iter(samples)

        def get_next(self) -> Any:
            return next(self.samples, None)

    prepared, made = _prepared(network, folder), folder / "made.onnx"
    quantization.quantize_static(
        prepared, made, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
    )
    return made.read_bytes()


def dynamic_by_onnxruntime(network: bytes, folder: Path, products_only: bool) -> bytes:
    """``network`` as onnxruntime quantizes it by the ranges of each run, all of it or products of matrices.

    Weights of convolutions are unsigned, signed ones make empty strings of PP-OCR's lines.
    """
    from onnxruntime import quantization

    prepared, made = _prepared(network, folder), folder / "dynamic.onnx"
    kinds = quantization.QuantType
    quantization.quantize_dynamic(
        prepared,
        made,
        op_types_to_quantize=["MatMul"] if products_only else None,
        per_channel=products_only,
        weight_type=kinds.QInt8 if products_only else kinds.QUInt8,
    )
    return made.read_bytes()


def _prepared(network: bytes, folder: Path) -> Path:
    """Simplified as onnxruntime advises."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnxruntime.set_default_logger_severity(4)
    source, prepared = folder / "source.onnx", folder / "prepared.onnx"
    # Scales along an axis came with opset 13.
    model = onnx.load_from_string(network)
    if any(entry.domain == "" and entry.version < 13 for entry in model.opset_import):
        model = version_converter.convert_version(model, 13)
    source.write_bytes(model.SerializeToString())
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return prepared
