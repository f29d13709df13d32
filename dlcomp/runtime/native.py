"""TVM's runtime library without TVM's compiler: loads in 0.1 s where ``import tvm`` takes seconds."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dlcomp.errors import ToolMissing


@functools.lru_cache(maxsize=1)
def load_runtime() -> None:
    """Make TVM's runtime (virtual machine, thread pool, allocators) available to ``tvm_ffi``."""
    from tvm_ffi.libinfo import load_lib_ctypes

    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise ToolMissing("apache-tvm is not installed", hint="pip install --force-reinstall dlcomp")
    folder = Path(spec.origin).parent / "lib"
    # Global, as `import tvm` does it, so that a later import finds the same library.
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])


def load_objects(objects: Sequence[bytes]) -> Any:
    """Link relocatable objects in memory.

    Returns
    -------
    tvm_ffi.Module
        The library; ``library["vm_load_executable"]()`` is its virtual machine.
    """
    load_runtime()
    import tvm_ffi_orcjit

    # The loader asks a C++ compiler where its runtime lies, which generated code never needs; naming
    # a file that cannot be run answers that question at once (2 ms, once a process) on any machine.
    return tvm_ffi_orcjit.default_session().load_module(list(objects), cxx=os.devnull)


_PACKAGES = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "orcjit": "apache-tvm-ffi-orcjit"}


def versions() -> dict[str, str]:
    """Installed versions of the packages whose binary interface an artifact depends on."""
    found = {}
    for key, package in _PACKAGES.items():
        try:
            found[key] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[key] = ""
    return found


def pip_line(wanted: dict[str, str]) -> str:
    """The command that installs exactly ``wanted`` (keys as in :func:`versions`)."""
    return "pip install " + " ".join(f"{_PACKAGES[key]}=={wanted[key]}" for key in _PACKAGES if key in wanted)
