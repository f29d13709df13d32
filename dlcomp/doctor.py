"""What works on this machine, what does not, and what to install: one small check a thing.

A check that finds something broken that dlcomp cannot do without is ``fail``; what only some features need is
``warn``.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from dlcomp import detect
from dlcomp.target import Target

OK, WARN, FAIL = "ok", "warn", "fail"

# (package, module, what it is for, required)
_PACKAGES = (
    ("numpy", "numpy", "arrays", True),
    ("onnx", "onnx", "reading networks", True),
    ("xgboost", "xgboost", "the tuner's cost model", True),
    ("onnxruntime", "onnxruntime", "verify, bench --compare", False),
    ("ziglang", "", "linking shared libraries without a system compiler", False),
)
_TVM_FFI = "0.1.14.post1"
_LLVM_TARGETS = ("x86_64", "aarch64", "riscv64", "arm")


@dataclass(frozen=True)
class Check:
    """One finding: ``status`` is ok, warn or fail; ``fix`` is a command or a sentence, empty if ok."""

    name: str
    status: str
    detail: str
    fix: str = ""


def run_checks() -> list[Check]:
    """Every check, in the order of a table; none of them raises."""
    checks: list[Check] = []
    for name, check in _CHECKS:
        try:
            checks += check()
        except Exception as err:  # a broken installation can fail in any way; that is the finding
            checks.append(Check(name, FAIL, _line(err), "pip install --force-reinstall dlcomp"))
    return checks


def _python() -> list[Check]:
    return [Check("python", OK, ".".join(map(str, sys.version_info[:3])))]


def _tvm() -> list[Check]:
    tvm = importlib.import_module("tvm")
    found = metadata.version("apache-tvm-ffi")
    checks = [Check("tvm", OK, str(tvm.__version__))]
    if found == _TVM_FFI:
        return [*checks, Check("tvm-ffi", OK, found)]
    fix = f"pip install --no-deps apache-tvm-ffi=={_TVM_FFI}"
    return [*checks, Check("tvm-ffi", FAIL, f"{found}: TVM's scheduler crashes with it", fix)]


def _llvm() -> list[Check]:
    codegen = importlib.import_module("tvm.target.codegen")
    have = {str(name).replace("-", "_").lower() for name in codegen.llvm_get_targets()}
    missing = [name for name in _LLVM_TARGETS if name not in have]
    detail = f"LLVM {codegen.llvm_version_major()}: {', '.join(n for n in _LLVM_TARGETS if n in have)}"
    if not missing:
        return [Check("llvm", OK, detail)]
    status = FAIL if Target.host().architecture in missing else WARN
    return [Check("llvm", status, f"{detail}; not {', '.join(missing)}", "install the apache-tvm wheel")]


def _loader() -> list[Check]:
    importlib.import_module("tvm_ffi_orcjit")
    return [Check("object loader", OK, f"orcjit {metadata.version('apache-tvm-ffi-orcjit')}")]


def _packages() -> list[Check]:
    return [_package(*row) for row in _PACKAGES]


def _package(name: str, module: str, purpose: str, required: bool) -> Check:
    fix = f"pip install {name}"
    try:
        version = metadata.version(name)
        if module:
            importlib.import_module(module)
    except Exception as err:
        missing = isinstance(err, (ImportError, metadata.PackageNotFoundError))
        detail = f"{'not installed' if missing else _line(err)}; needed for {purpose}"
        return Check(name, FAIL if required else WARN, detail, fix)
    return Check(name, OK, version)


def _host() -> list[Check]:
    host = Target.host()
    features = " ".join(host.features) or "unknown"
    fix = "" if host.features else "name the processor with --target TRIPLE:CPU"
    return [
        Check("host target", OK, str(host)),
        Check("cpu features", OK if host.features else WARN, features, fix),
    ]


def _compiler() -> list[Check]:
    found = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
    if found:
        return [Check("system compiler", OK, found)]
    return [Check("system compiler", OK, "none; not needed (objects are loaded without a linker)")]


def _nvcc() -> list[Check]:
    path = shutil.which("nvcc")
    if path is None:
        fix = "install the CUDA toolkit, if artifacts for CUDA should hold machine code"
        return [Check("nvcc", WARN, "not found; CUDA artifacts hold source only", fix)]
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    release = next(
        (
            line.split("release")[-1].split(",")[0].strip()
            for line in done.stdout.splitlines()
            if "release" in line
        ),
        "?",
    )
    return [Check("nvcc", OK, f"{release} ({path})")]


def _cuda() -> list[Check]:
    arch = detect.cuda_arch()
    if arch:
        return [Check("cuda device", OK, arch)]
    return [
        Check(
            "cuda device",
            WARN,
            "no driver or device; cuda:sm_XY compiles but cannot run here",
            "install the NVIDIA driver",
        )
    ]


_CHECKS: tuple[tuple[str, Callable[[], list[Check]]], ...] = (
    ("python", _python),
    ("tvm", _tvm),
    ("llvm", _llvm),
    ("object loader", _loader),
    ("packages", _packages),
    ("host target", _host),
    ("system compiler", _compiler),
    ("nvcc", _nvcc),
    ("cuda device", _cuda),
)


def _line(err: Exception) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[-1][:200]}" if lines else type(err).__name__
