"""TFLite's recurrent layers over whole sequences."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.builder import Builder
from dlcomp.frontend.tflite.call import Call

_LOG = logging.getLogger(__name__)
_TANH = 4
# Places among the operands; gates come in the order input, forget, cell, output.
_WEIGHTS, _RECURRENT, _PEEPHOLES, _BIASES = range(1, 5), range(5, 9), range(9, 12), range(12, 16)
_PROJECTION, _NORMS = range(16, 18), range(20, 24)
# ONNX's order: input, output, forget, cell.
_ORDER = (0, 3, 1, 2)


def _lstm(call: Call) -> Tensor:
    """(batch, time, inputs) to (batch, time, units), or time first; a run begins with a state of zeros."""
    b, x = call.b, call.arg(0)
    first = call.options.flag("TimeMajor")
    _check(call, x)
    weights = [call.arg(place) for place in _WEIGHTS]
    units = weights[0].shape[0]
    operands = [
        x if first else b.transpose(x, [1, 0, 2]),
        _stacked(b, [weights[i] for i in _ORDER]),
        _stacked(b, [call.arg(_RECURRENT[i]) for i in _ORDER]),
        _stacked(b, [*(call.arg(_BIASES[i]) for i in _ORDER), b.filled(0, [4 * units], "float32")]),
    ]
    if call.maybe(_PEEPHOLES[0]) is not None:
        # The sequence lengths and both states lie between; the order is input, output, forget.
        peepholes = [call.arg(_PEEPHOLES[i]) for i in (0, 2, 1)]
        operands += [None, None, None, _stacked(b, peepholes)]  # type: ignore[list-item]
    y = b.squeeze(b.op("LSTM", operands, hidden_size=units), [1])
    return y if first else b.transpose(y, [1, 0, 2])


def _check(call: Call, x: Tensor) -> None:
    if x.rank != 3:
        raise ValueError(f"sequences of the shape {list(x.shape)}")
    if call.options.whole("FusedActivationFunction", _TANH) != _TANH:
        raise ValueError("only tanh is supported as activation")
    if call.maybe(_WEIGHTS[0]) is None:
        raise ValueError("an input gate that is one less the forget gate is not supported")
    if any(call.maybe(place) is not None for place in (*_PROJECTION, *_NORMS)):
        raise ValueError("projection and normalisation inside the layer are not supported")
    clip = call.options.real("CellClip")
    if clip:
        _LOG.warning("%s: cells are not clipped to %g, which only very long sums reach", call.b.label, clip)


def _stacked(b: Builder, parts: list[Tensor]) -> Tensor:
    """One below the other, with ONNX's dimension of directions in front."""
    if all(part.name in b.arrays for part in parts):
        return b.constant(np.concatenate([b.arrays[part.name] for part in parts])[None])
    return b.unsqueeze(b.op("Concat", parts, axis=0), [0])


OPERATORS: Mapping[str, Any] = {"UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm}
