"""The parts of a network that work on strings, run on the host by ONNX's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcomp.errors import UsageError
from dlcomp.model import Signature, TextStages

Core = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Stages:
    """What stands before and after the compiled part."""

    def __init__(self, stages: TextStages, core: Signature) -> None:
        self.signature, self.core = stages.signature, core
        self._before, self._after = (_evaluator(part) for part in (stages.before, stages.after))

    def run(self, inputs: Mapping[str, Any], core: Core) -> dict[str, np.ndarray]:
        """The network's outputs; ``core`` runs the compiled part.

        Raises
        ------
        UsageError
            If an input is missing or unknown, or the values do not fit.
        """
        names = [spec.name for spec in self.signature.inputs]
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name not in names]
        if missing or unknown:
            faults = [f"input {name!r} is missing" for name in missing]
            faults += [f"no input is named {name!r}" for name in unknown]
            raise UsageError("; ".join(faults), hint="expected " + ", ".join(map(str, self.signature.inputs)))
        values = {
            spec.name: _strings(inputs[spec.name]) if spec.dtype == "str" else np.asarray(inputs[spec.name])
            for spec in self.signature.inputs
        }
        values |= self._evaluate(self._before, values)
        if self.core.inputs:
            values |= core({spec.name: values[spec.name] for spec in self.core.inputs})
        values |= self._evaluate(self._after, values)
        return {
            spec.name: np.asarray(values[spec.name], object if spec.dtype == "str" else None)
            for spec in self.signature.outputs
        }

    @staticmethod
    def _evaluate(evaluator: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if evaluator is None:
            return {}
        feed = {name: values[name] for name in evaluator.input_names}
        try:
            found = evaluator.run(None, feed)
        except Exception as err:  # whatever the evaluator says of values that do not fit
            raise UsageError(f"the part on strings cannot be computed: {err}") from err
        return dict(zip(evaluator.output_names, found, strict=True))


def _evaluator(part: bytes | None) -> Any:
    if part is None:
        return None
    import onnx
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(onnx.ModelProto.FromString(part))


def _strings(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind not in "UO":
        raise UsageError(f"strings are expected, not {array.dtype}")
    return array.astype(object)
