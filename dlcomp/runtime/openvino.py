"""OpenVINO as the peer of a benchmark: its CPU plugin in float32, one stream, so many threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcomp.errors import ToolMissing, UsageError
from dlcomp.runtime.peer import wanted


def runner(
    model: bytes | str, inputs: Mapping[str, np.ndarray], threads: int
) -> tuple[str, Callable[[], Any]]:
    """OpenVINO's name and version, and a function that runs ``model`` once on ``inputs``.

    Parameters
    ----------
    model : bytes or str
        ONNX, or the path of its file.
    inputs : mapping of str to numpy.ndarray
        Open dimensions are bound to the shapes of these, which makes OpenVINO's code as specific as can be.
    threads : int

    Raises
    ------
    ToolMissing
        OpenVINO is not installed.
    UsageError
        It refuses the model or the inputs.
    """
    try:
        import openvino
    except ImportError as err:
        raise ToolMissing(
            "OpenVINO is not installed, and this compares with it", hint="pip install openvino"
        ) from err
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        core = openvino.Core()
        network = core.read_model(model)
        names = [port.get_any_name() for port in network.inputs]
        feed = wanted(names, inputs)
        network.reshape({name: list(value.shape) for name, value in feed.items()})
        request = core.compile_model(network, "CPU", options).create_infer_request()
        request.infer(feed)
    except RuntimeError as err:
        raise UsageError(f"OpenVINO refuses the model: {str(err).strip().splitlines()[-1]}") from err
    label = f"OpenVINO {openvino.__version__.split('-')[0]}"
    return label, lambda: request.infer(feed, share_inputs=True, share_outputs=True)
