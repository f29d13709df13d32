"""Networks that keep something from one run to the next."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_file import File

import dlcomp
from dlcomp.errors import ModelError
from dlcomp.frontend.read import read

RNG = np.random.default_rng(0)
Q = (0.05, 3)


def handle(f: File, name: str) -> int:
    place = f.tensor((), "resource")
    return f.op("VAR_HANDLE", [], place, options="VarHandleOptions", SharedName=name)


def window(f: File, more: bool = False) -> int:
    """The mean of the last three frames of four bytes; frames before the first are zeros."""
    first = File(within=f)
    zeros = first.constant(np.full((2, 4), Q[1]), "int8", Q)
    before = handle(first, "past")
    first.op("ASSIGN_VARIABLE", [before, zeros], options="AssignVariableOptions")
    if more:
        first.op("EXP", [zeros], first.tensor((2, 4)))
    frame = f.input(np.zeros((1, 4), "int8"), Q)
    f.op("CALL_ONCE", [], options="CallOnceOptions", InitSubgraphIndex=1)
    past = handle(f, "past")
    old, whole, new = (f.tensor((n, 4), "int8", Q) for n in (2, 3, 2))
    f.op("READ_VARIABLE", [past], old, options="ReadVariableOptions")
    f.op("CONCATENATION", [old, frame], whole, options="ConcatenationOptions")
    f.op("SLICE", [whole, f.constant([1, 0], "int32"), f.constant([2, 4], "int32")], new)
    f.op("ASSIGN_VARIABLE", [past, new], options="AssignVariableOptions")
    y = f.tensor((4,), "int8", Q)
    f.op("MEAN", [whole, f.constant([0], "int32")], y, options="ReducerOptions")
    return y


def test_a_variable_is_an_input_and_an_output() -> None:
    from ai_edge_litert.interpreter import Interpreter

    f = File()
    data = f.bytes(window(f))
    model = dlcomp.load(data)
    assert [spec.name for spec in model.signature.inputs] == ["t0", "past"]
    assert [spec.name for spec in model.signature.outputs][1:] == ["past_next"]
    notes = {prop.key: prop.value for prop in model.source.metadata_props}
    artifact, past = model.compile(), np.full((2, 4), int(notes["initial past"]), "int8")
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    place, result = (
        d[0]["index"] for d in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    for _ in range(4):
        frame = RNG.integers(-128, 128, (1, 4)).astype("int8")
        interpreter.set_tensor(place, frame)
        interpreter.invoke()
        found, past = artifact.run({"t0": frame, "past": past}).values()
        expected = interpreter.get_tensor(result)
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
        assert np.array_equal(past[-1:], frame)


def test_a_beginning_that_computes_is_refused() -> None:
    f = File()
    with pytest.raises(ModelError, match="CALL_ONCE runs a graph that does more"):
        read(f.bytes(window(f, more=True)))


def test_what_is_no_variable_is_refused() -> None:
    f = File()
    x, y = f.input(np.zeros((1, 4), "float32")), f.tensor((1, 4))
    f.op("READ_VARIABLE", [x], y, options="ReadVariableOptions")
    with pytest.raises(ModelError, match=r"op 0 READ_VARIABLE .*its operand is no variable"):
        read(f.bytes(y))
