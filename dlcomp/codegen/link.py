"""From a compiled Relax executable to relocatable objects, without a linker.

TVM's own export ends in a compiler driver; the objects that it would link are taken instead, and the
runtime resolves them in memory. So making an artifact needs no tool outside of pip, for any triple.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from dlcomp.target import Target


def objects_of(executable: Any, target: Target | None = None) -> dict[str, bytes]:
    """The object files that together are ``executable``.

    Parameters
    ----------
    executable : tvm.relax.VMExecutable
        What ``tvm.compile`` returns for a Relax module.
    target : Target, optional
        What it was compiled for; by default this machine. Asked only about a model without any kernel.

    Returns
    -------
    dict of str to bytes
        ``lib0.o``, ``lib1.o``, ... with the kernels, and ``vm.o`` with the serialized VM program and
        whatever device modules it imports. Object format and machine are the target's.
    """
    found: dict[str, bytes] = {}

    def take(_: str, files: list[str], **__: Any) -> None:
        for file in files:
            path = Path(file)
            # "devc" is TVM's name for "what is not host code"; here that is the VM's program.
            found[path.name.replace("devc", "vm")] = path.read_bytes()

    executable.mod.export_library("unused.so", fcompile=take)
    if all(name.endswith(".o") for name in found):
        return found
    # Without a kernel there is no LLVM module, and TVM falls back to C for the rest.
    return {"vm.o": _program_only(executable, target or Target.host())}


def _program_only(executable: Any, target: Target) -> bytes:
    """The VM's program as an object."""
    from tvm_ffi import get_global_func

    pack = get_global_func("runtime.ModulePackImportsToLLVM")
    packed = pack(executable.mod, False, json.dumps({"kind": "llvm", "mtriple": target.triple}), "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vm.o"
        packed.write_to_file(str(path))
        return path.read_bytes()
