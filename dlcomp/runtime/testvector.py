"""The test vector of an artifact: one set of inputs and the outputs that the compiled model gave for them.

It shows that an artifact still computes what it computed where it was made. Large inputs are kept as a seed,
large outputs as a sample of evenly spaced values, so that the vector stays small.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcomp.errors import ArtifactError
from dlcomp.model import Signature
from dlcomp.runtime.inputs import ordered, random_inputs
from dlcomp.runtime.metric import Difference, difference

_LARGE = 1 << 20
_SAMPLE = 4096
_GENERATOR = "random_inputs"

# Between processors with the same features only the order of a parallel sum may differ.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class CheckResult:
    """What running the test vector again gave, output by output."""

    outputs: Mapping[str, Difference]
    tolerance: float = TOLERANCE

    @property
    def ok(self) -> bool:
        """Whether every output is what it was."""
        return all(found.within(self.tolerance) for found in self.outputs.values())

    def __str__(self) -> str:
        lines = [f"{name}: {found}" for name, found in self.outputs.items()]
        return "\n".join([f"check {'passed' if self.ok else 'FAILED'}", *lines])


def make(
    signature: Signature, run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], seed: int = 0
) -> tuple[dict[str, Any], bytes]:
    """The manifest's ``check`` entry and the bytes of ``check.npz``."""
    inputs = random_inputs(signature, seed)
    outputs = run(inputs)
    arrays = {f"output{i}": _sample(outputs[spec.name]) for i, spec in enumerate(signature.outputs)}
    large = sum(array.nbytes for array in inputs.values()) > _LARGE
    entry: dict[str, Any] = {"member": "check.npz"}
    if large:
        entry.update(generator=_GENERATOR, seed=seed)
    else:
        arrays |= {f"input{i}": inputs[spec.name] for i, spec in enumerate(signature.inputs)}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return entry, stream.getvalue()


def inputs_of(entry: Mapping[str, Any], data: bytes, signature: Signature) -> dict[str, np.ndarray]:
    """The inputs that the vector was made with."""
    if "generator" in entry:
        if entry["generator"] != _GENERATOR or type(entry.get("seed")) is not int or entry["seed"] < 0:
            raise ArtifactError(f"the test vector's generator {entry['generator']!r} is not known")
        return random_inputs(signature, entry["seed"])
    stored = load(data)
    names = [spec.name for spec in signature.inputs]
    if any(f"input{i}" not in stored for i in range(len(names))):
        raise ArtifactError("the test vector lacks an input")
    found = {name: stored[f"input{i}"] for i, name in enumerate(names)}
    ordered(found, signature)
    return found


def compare(data: bytes, outputs: Sequence[np.ndarray], signature: Signature) -> CheckResult:
    """``outputs`` against those of the vector."""
    stored = load(data)
    found = {}
    for number, (spec, output) in enumerate(zip(signature.outputs, outputs, strict=True)):
        if f"output{number}" not in stored:
            raise ArtifactError(f"the test vector lacks output {spec.name!r}")
        found[spec.name] = difference(_sample(output), stored[f"output{number}"])
    return CheckResult(found)


def load(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``, none of them unpickled."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as err:
        raise ArtifactError(f"the test vector cannot be read: {err}") from err


def _sample(output: np.ndarray) -> np.ndarray:
    """``output``, or evenly spaced values of it where it is large."""
    if output.nbytes <= _LARGE:
        return output
    places = np.linspace(0, output.size - 1, _SAMPLE).astype(np.int64)
    return np.ascontiguousarray(output.reshape(-1)[places])
