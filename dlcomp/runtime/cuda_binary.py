"""Gives TVM the cubin that an artifact holds when TVM asks for its CUDA source to be compiled.

A CUDA module is stored as source; on loading, TVM's runtime calls the global function
``tvm_callback_cuda_compile(source)`` and takes a cubin or a fatbin from it. Artifacts that hold a cubin
answer from it, so the machine with the card needs no compiler; any other source goes to nvcc, if it is
there, and else to TVM's own callback (NVRTC, which needs the package ``cuda-bindings``).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from typing import Any

_KNOWN: dict[str, bytes] = {}
_NAME = "tvm_callback_cuda_compile"


def provide(sources: Mapping[str, bytes]) -> None:
    """Register ``kernels.cubin`` as the answer for ``kernels.cu``; call it before the objects are loaded."""
    if "kernels.cubin" in sources and "kernels.cu" in sources:
        _KNOWN[_key(sources["kernels.cu"].decode())] = bytes(sources["kernels.cubin"])
    _install()


def _key(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _install() -> None:
    import tvm_ffi
    from tvm.support import nvcc

    def compile_source(source: str, *_: Any) -> bytes:
        found = _KNOWN.get(_key(source))
        if found is not None:
            return found
        compiler, form = ("nvcc", "fatbin") if shutil.which("nvcc") else ("nvrtc", "cubin")
        return bytes(nvcc.compile_cuda(source, target_format=form, compiler=compiler))

    tvm_ffi.register_global_func(_NAME, compile_source, override=True)
