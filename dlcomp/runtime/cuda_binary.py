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

from dlcomp import detect

_KNOWN: dict[str, bytes] = {}
_NAME = "tvm_callback_cuda_compile"


def provide(sources: Mapping[str, bytes], arch: str) -> None:
    """Register ``kernels.cubin``, made for ``arch``, as the answer for ``kernels.cu``.

    Call it before the objects are loaded. A cubin runs on cards of its own major version only; for
    any other the source is compiled.
    """
    usable = _major(detect.cuda_arch() or arch) == _major(arch)
    if usable and {"kernels.cu", "kernels.cubin"} <= set(sources):
        _KNOWN[_key(sources["kernels.cu"].decode())] = bytes(sources["kernels.cubin"])
    _install()


def _major(arch: str) -> str:
    """``"9"`` of ``sm_90a``, ``"12"`` of ``sm_120``."""
    return "".join(char for char in arch if char.isdigit())[:-1]


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
