"""Compares dlcomp with onnxruntime on random networks, one JSON line a seed: ``graph_worker.py FIRST LAST``.

A process of its own, so that a crash of either side costs one seed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
from random_graphs import random_graph

import dlcomp
from dlcomp.errors import ModelError, UsageError


def main() -> None:
    onnxruntime.set_default_logger_severity(4)
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps({"seed": seed}), flush=True)
        print(json.dumps({"seed": seed, **compare(seed)}), flush=True)


def compare(seed: int) -> dict[str, Any]:
    network, feed = random_graph(seed)
    operators = [node.op_type for node in network.graph.node]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(network.SerializeToString(), options)
        expected = session.run(None, feed)
    except Exception as error:
        return {"result": "no reference", "why": str(error)[:300], "operators": operators}
    # ONNX's own shape inference cannot know what a dimension of 0 is: exporters write it for an open one.
    shapes = {name: array.shape for name, array in feed.items()}
    if seed % 4 == 0:
        network, shapes = opened(network, np.random.default_rng(seed)), {}
    try:
        model = dlcomp.load(network, shapes=shapes)
        wanted = {spec.name for spec in model.signature.inputs}
        found = model.compile().run({name: array for name, array in feed.items() if name in wanted})
    except Exception as error:
        # Of open dimensions some forms are refused, and sizes of 1 that would broadcast when it runs.
        kind = "refused" if isinstance(error, ModelError | UsageError) and seed % 4 == 0 else "failed"
        return {"result": kind, "why": f"{type(error).__name__}: {error}"[:600], "operators": operators}
    for (name, left), right in zip(found.items(), expected, strict=True):
        why = difference(left, right)
        if why:
            return {"result": "wrong", "why": f"{name}: {why}", "operators": operators}
    return {"result": "same"}


def opened(network: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """``network`` with half of its inputs' dimensions open, those of an image's channels never."""
    result = onnx.ModelProto.FromString(network.SerializeToString())
    del result.graph.value_info[:]
    for value in result.graph.input:
        dims = value.type.tensor_type.shape.dim
        for number, dim in enumerate(dims):
            # One of size 1 might broadcast, which an open one never does.
            if dim.dim_value != 1 and rng.random() < 0.5 and not (len(dims) == 4 and number == 1):
                dim.dim_param = f"{value.name}_{number}"
    for value in result.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(result, data_prop=True)


def difference(left: np.ndarray, right: np.ndarray) -> str:
    """What differs; nothing if only the last digits of float32 do."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return f"{left.dtype}{left.shape} instead of {right.dtype}{right.shape}"
    if right.dtype.kind != "f":
        return "" if np.array_equal(left, right) else "integers differ"
    for test in (np.isnan, np.isposinf, np.isneginf):
        if not np.array_equal(test(left), test(right)):
            return "infinities or NaN in other places"
    finite = np.isfinite(right)
    if not finite.any():
        return ""
    most = float(np.abs(left[finite] - right[finite]).max())
    largest = max(1.0, float(np.abs(right[finite]).max()))
    return "" if most <= 2e-5 * largest else f"off by {most} of {largest}"


if __name__ == "__main__":
    main()
