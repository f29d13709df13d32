"""A loaded VTA artifact: its programs run on the functional simulator, the rest by ONNX's evaluator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlcomp.codegen.vta.stored import restored
from dlcomp.errors import UsageError
from dlcomp.model import Signature
from dlcomp.runtime.session import Session


class VtaSession(Session):
    """Like :class:`Session`, with simulators in place of machine code.

    Attributes
    ----------
    network : VtaNetwork
    """

    def __init__(self, objects: Sequence[bytes], weights: Sequence[np.ndarray], signature: Signature) -> None:
        self.network = restored(objects, signature)
        self._signature = signature
        self._lock = threading.Lock()

    def __call__(self, arrays: Sequence[np.ndarray], count: int = 1) -> list[np.ndarray]:
        """Run once; the simulator uses one thread whatever ``count`` is."""
        names = (spec.name for spec in self._signature.inputs)
        with self._lock:
            found = self.network.run(dict(zip(names, arrays, strict=True)))
        return [found[spec.name] for spec in self._signature.outputs]

    def staged(self, arrays: Sequence[np.ndarray], count: int = 1) -> Callable[[], Any]:
        """A function that runs on these inputs; its time is the simulator's, not the accelerator's."""
        return lambda: self(arrays, count)

    def instrument(self, observe: Callable[..., int] | None) -> None:
        """Refused: a simulator has no kernels to time."""
        raise UsageError("a VTA artifact has no kernels to time", hint="dlcomp vta stat shows its cycles")
