"""A loaded VTA artifact: its programs run on the functional simulator, the rest as machine code beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dlcomp.codegen.vta.network import Run
from dlcomp.codegen.vta.stored import HostCode, restored
from dlcomp.errors import UsageError
from dlcomp.model import Signature, TensorSpec
from dlcomp.runtime import compat
from dlcomp.runtime.session import Session
from dlcomp.target import Target


class VtaSession(Session):
    """Like :class:`Session`, with simulators in place of machine code.

    Attributes
    ----------
    network : VtaNetwork
    """

    def __init__(self, objects: Sequence[bytes], weights: Sequence[np.ndarray], signature: Signature) -> None:
        self._signature = signature
        self._lock = threading.Lock()
        self._threads = 1
        self.network = restored(objects, weights, signature, self._loaded)

    def _loaded(self, code: HostCode) -> Run:
        """A part of the host, linked in memory."""
        if error := compat.wrong_processor(Target.parse(code.target)):
            raise error
        signature = Signature(
            *(tuple(TensorSpec(name, shape, dtype) for name, dtype, shape in specs)
              for specs in (code.inputs, code.outputs))
        )  # fmt: skip
        session = Session(code.objects, code.weights, signature)

        def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            arrays = [np.ascontiguousarray(feed[spec.name]) for spec in signature.inputs]
            results = session(arrays, self._threads)
            return {spec.name: array for spec, array in zip(signature.outputs, results, strict=True)}

        return run

    def __call__(self, arrays: Sequence[np.ndarray], count: int = 1) -> list[np.ndarray]:
        """Run once; the host's parts run on ``count`` threads, the simulator always on one."""
        names = (spec.name for spec in self._signature.inputs)
        with self._lock:
            self._threads = count
            found = self.network.run(dict(zip(names, arrays, strict=True)))
        return [found[spec.name] for spec in self._signature.outputs]

    def staged(self, arrays: Sequence[np.ndarray], count: int = 1) -> Callable[[], Any]:
        """A function that runs on these inputs; its time is the simulator's, not the accelerator's."""
        return lambda: self(arrays, count)

    def instrument(self, observe: Callable[..., int] | None) -> None:
        """Refused: a simulator has no kernels to time."""
        raise UsageError("a VTA artifact has no kernels to time", hint="dlcomp vta stat shows its cycles")
