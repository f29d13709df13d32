"""The ONNX backend tests: every operator's, and the model sets that come with the onnx package."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

NODE = "node"
MODEL_SETS = ("simple", "pytorch-operator", "pytorch-converted")


@dataclass(frozen=True)
class Case:
    """One test: a network, and inputs with the outputs that it must give.

    Inputs and outputs are NumPy arrays, or lists (sequences) or None (empty optionals) of them.
    """

    name: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


@functools.cache
def _tests() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = {f"{NODE}/{case.name}": case for case in collect_testcases()}
    for kind in MODEL_SETS:
        found |= {f"{kind}/{case.name}": case for case in load_model_tests(kind=kind)}
    return found


def names() -> list[str]:
    """``SET/test_name`` of all, sorted."""
    return sorted(_tests())


def operator(name: str) -> str:
    """The operator that a case is about; the set, where it is about a network."""
    kind, _, _ = name.partition("/")
    case = _tests()[name]
    if kind != NODE or case.model is None:
        return f"({kind})"
    graph = case.model.graph
    if len(graph.node) == 1:
        return str(graph.node[0].op_type)
    return "(function bodies)" if "_expanded" in name else "(several)"


def load(name: str) -> Case:
    """The case called ``name``."""
    case = _tests()[name]
    if case.model is not None:
        data = [([_array(v) for v in given], [_array(v) for v in right]) for given, right in case.data_sets]
        return Case(name, case.model, data, case.rtol, case.atol)
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    data = [
        (_stored(part, "input", model.graph.input), _stored(part, "output", model.graph.output))
        for part in sorted(folder.glob("test_data_set_*"))
    ]
    return Case(name, model, data, case.rtol, case.atol)


def _array(value: Any) -> Any:
    """Types that NumPy lacks are given as ONNX tensors, and some scalars as NumPy's."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _stored(folder: Path, prefix: str, values: Any) -> list[Any]:
    found = []
    for number, value in zip(range(len(list(folder.glob(f"{prefix}_*.pb")))), values, strict=False):
        data = (folder / f"{prefix}_{number}.pb").read_bytes()
        kind = value.type.WhichOneof("value")
        if kind == "sequence_type":
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif kind == "optional_type":
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return found
