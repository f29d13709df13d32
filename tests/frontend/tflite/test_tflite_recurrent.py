"""TFLite's recurrent layers against its own interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_file import File, agree

from dlcomp.errors import ModelError
from dlcomp.frontend.read import read

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def lstm(f: File, time_first: bool, peepholes: bool, projection: bool = False) -> int:
    """Five steps of two sequences of four numbers, three units."""
    n, inputs = 3, 4
    shape = (5, 2, inputs) if time_first else (2, 5, inputs)
    x = f.input(floats(*shape))
    weights = [f.constant(floats(n, inputs)) for _ in range(4)]
    recurrent = [f.constant(floats(n, n)) for _ in range(4)]
    cells = [f.constant(floats(n)) if peepholes else -1 for _ in range(3)]
    biases = [f.constant(floats(n)) for _ in range(4)]
    project = [f.constant(floats(n, n)) if projection else -1, -1]
    states = [f.tensor((2, n), variable=True) for _ in range(2)]
    y = f.tensor((*shape[:2], n))
    operands = [x, *weights, *recurrent, *cells, *biases, *project, *states]
    return f.op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        operands,
        y,
        options="UnidirectionalSequenceLSTMOptions",
        FusedActivationFunction=4,
        TimeMajor=time_first,
    )


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm(time_first: bool, peepholes: bool) -> None:
    f = File()
    agree(f, lstm(f, time_first, peepholes))


def test_lstm_with_a_projection_is_refused() -> None:
    f = File()
    with pytest.raises(ModelError, match=r"op 0 UNIDIRECTIONAL_SEQUENCE_LSTM .*projection"):
        read(f.bytes(lstm(f, True, False, projection=True)))
