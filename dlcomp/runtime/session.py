"""A loaded artifact: code linked in memory, weights bound without a copy, and calls of a few microseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlcomp.errors import DlcompError, InternalError, UsageError
from dlcomp.model import Signature
from dlcomp.runtime import dlpack, host, native, threads

# Generated code may load whole vectors from the start of a buffer, so buffers start on this boundary.
ALIGNMENT = 64

_CPU, _CUDA = 1, 2
_POOLED = 2

_SMALL = 1 << 16
_LONGEST = 300
_HINT = "compile the model again; if it stays, this is a fault of dlcomp: please report it with the model"


def aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An uninitialised array whose data starts on a 64-byte boundary."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size == 0:
        return np.empty(shape, dtype)
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    array: np.ndarray = block[start : start + size].view(dtype).reshape(shape)
    return array


class Session:
    """Code and weights of one model on the CPU, ready to be called. Calls take turns.

    Parameters
    ----------
    objects : sequence of bytes
        The relocatable objects of the program.
    weights : sequence of numpy.ndarray
        C-contiguous, aligned and writable in memory; used in place and never written.
    signature : Signature
    """

    def __init__(self, objects: Sequence[bytes], weights: Sequence[np.ndarray], signature: Signature) -> None:
        host.register()
        try:
            library = native.load_objects(objects)
            self._machine = library["vm_load_executable"]()
            self._prepare()
            self._main = self._machine["main"]
        except DlcompError:
            raise
        except Exception as err:
            raise InternalError(f"the compiled code cannot be loaded: {_last_line(err)}", hint=_HINT) from err
        self._lock = threading.Lock()
        self._bound = self._bind(weights)
        self._fixed = _bounds(weights)
        # Open dimensions have the size of the last run.
        self._staged = [aligned_empty(_shape(spec.shape), spec.dtype) for spec in signature.inputs]
        self._staged_tensors = [self._tensor(array) for array in self._staged]
        self._outputs = len(signature.outputs)
        self._is_open = any(spec.is_open for spec in signature.inputs)

    def __call__(self, arrays: Sequence[np.ndarray], count: int = 1) -> list[np.ndarray]:
        """Run once on ``count`` threads; ``arrays`` in the signature's order and already checked."""
        with self._lock:
            threads.use(count)
            tensors = [self._input(number, array) for number, array in enumerate(arrays)]
            results = self._invoke(tensors)
            return [self._result(result, arrays) for result in results]

    def staged(self, arrays: Sequence[np.ndarray], count: int = 1) -> Callable[[], Any]:
        """A function that runs on these inputs and drops the result: what a benchmark times."""
        tensors = [self._tensor(_aligned(array)) for array in arrays]
        main, bound = self._main, self._bound

        def once() -> Any:
            return main(*tensors, *bound)

        with self._lock:
            threads.use(count)
            self._invoke(tensors)
        return once

    def instrument(self, observe: Callable[..., int] | None) -> None:
        """Call ``observe(function, name, before, result, *args)`` around every call of the VM."""
        import tvm_ffi

        # A VM without an observer has an undefined function here; one that does nothing is the nearest to it.
        function = tvm_ffi.convert(observe) if observe is not None else None
        self._machine["set_instrument"](function)

    def _prepare(self) -> None:
        self._machine["vm_initialization"](_CPU, 0, _POOLED)

    def _tensor(self, array: np.ndarray) -> Any:
        import tvm_ffi

        return tvm_ffi.from_dlpack(
            dlpack.Export(array) if dlpack.is_foreign(array.dtype) or not array.size else array
        )

    def _bind(self, weights: Sequence[np.ndarray]) -> tuple[Any, ...]:
        """The arguments behind the inputs: one tuple of all weights, if there are any."""
        import tvm_ffi

        if not weights:
            return ()
        return (tvm_ffi.convert(tuple(self._tensor(_aligned(array)) for array in weights)),)

    def _input(self, number: int, array: np.ndarray) -> Any:
        """A tensor of ``array``: itself if its memory will do, else a copy in memory kept for this."""
        flags = array.flags
        if flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0:
            return self._tensor(array)
        if self._staged[number].shape != array.shape:
            self._staged[number] = aligned_empty(array.shape, array.dtype)
            self._staged_tensors[number] = self._tensor(self._staged[number])
        np.copyto(self._staged[number], array)
        return self._staged_tensors[number]

    def _invoke(self, tensors: Sequence[Any]) -> list[Any]:
        try:
            found = self._main(*tensors, *self._bound)
        except Exception as err:
            if host.FAILED in str(err):
                raise UsageError(_last_line(err), hint="an input has a value that cannot be") from err
            # TVM's checks of shapes; with open dimensions the inputs are what they depend on.
            if self._is_open and (isinstance(err, ValueError) or "match_cast" in str(err)):
                raise UsageError(
                    f"the network cannot run on inputs of these sizes: {_last_line(err)}",
                    hint="two dimensions that must be equal are not, or a fixed one has another size",
                ) from err
            raise InternalError(f"the compiled code failed: {_last_line(err)}", hint=_HINT) from err
        results = [found] if hasattr(found, "__dlpack__") else list(found)
        if len(results) != self._outputs:
            raise InternalError(f"the compiled code has {len(results)} outputs, not {self._outputs}")
        return results

    def _result(self, result: Any, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """``result`` as an array of its own.

        A large one is the VM's fresh memory itself, unless the model passes an input or a weight through.
        A small one is copied, which costs less than finding out whether it is a constant of the VM.
        """
        if str(result.dtype) in dlpack.FOREIGN:
            return dlpack.imported(result, str(result.dtype))
        array = np.from_dlpack(result)
        if array.nbytes <= _SMALL or not array.flags.writeable:
            return np.array(array)
        low, high = _bounds([array])
        passed_on = low < self._fixed[1] and self._fixed[0] < high
        passed_on = passed_on or any(np.may_share_memory(array, other) for other in (*arrays, *self._staged))
        return np.array(array) if passed_on else array


def _bounds(arrays: Sequence[np.ndarray]) -> tuple[int, int]:
    """The lowest address of ``arrays`` and the first behind them."""
    if not arrays:
        return 0, 0
    lows, highs = zip(*(np.lib.array_utils.byte_bounds(array) for array in arrays), strict=True)
    return int(min(lows)), int(max(highs))


def _aligned(array: np.ndarray) -> np.ndarray:
    flags = array.flags
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    if flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def _shape(shape: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else 0 for extent in shape)


def _last_line(err: BaseException) -> str:
    """What went wrong, without TVM's traceback and not longer than can be read."""
    lines = str(err).strip().splitlines()
    return lines[-1].strip()[:_LONGEST] if lines else type(err).__name__
