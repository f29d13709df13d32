"""A loaded artifact on a CUDA device: inputs are copied there, results back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlcomp.errors import ToolMissing
from dlcomp.runtime.session import Session


class CudaSession(Session):
    """As :class:`Session`, on the first CUDA device; weights stay on it."""

    def _prepare(self) -> None:
        # TVM's CUDA runtime is a library of its own, which TVM loads when it is imported.
        import tvm

        self._device = tvm.cuda(0)
        if not self._device.exist:
            raise ToolMissing(
                "TVM cannot use the CUDA device",
                hint="its runtime needs libcudart: pip install nvidia-cuda-runtime, and an NVIDIA driver",
            )
        kinds = (self._device.dlpack_device_type(), 0, 2, tvm.cpu().dlpack_device_type(), 0, 2)
        self._machine["vm_initialization"](*kinds)

    def _tensor(self, array: np.ndarray) -> Any:
        import tvm

        return tvm.runtime.tensor(array, self._device)

    def _input(self, number: int, array: np.ndarray) -> Any:
        tensor = self._staged_tensors[number]
        tensor.copyfrom(np.ascontiguousarray(array))
        return tensor

    def _result(self, result: Any, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(result.numpy())
