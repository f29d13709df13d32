"""May this machine run that artifact? The first reason why not, and what to do about it."""

from __future__ import annotations

from dlcomp import detect, target_data
from dlcomp.errors import ArtifactError, DlcompError, ToolMissing
from dlcomp.runtime import native
from dlcomp.runtime.manifest import Manifest
from dlcomp.target import Target, missing_features

# Packages whose binary interface the objects and the VM's program are tied to.
_BINARY_INTERFACE = ("tvm", "tvm_ffi")


def refusal(manifest: Manifest) -> DlcompError | None:
    """Why the code of ``manifest`` must not be loaded here, or None if it may be."""
    if manifest.target.kind == "vta":
        # Simulators run its programs anywhere; what stays on the host is checked when it is loaded.
        return _wrong_versions(manifest)
    return wrong_processor(manifest.target) or _wrong_versions(manifest)


def wrong_processor(target: Target) -> DlcompError | None:
    """Why machine code for ``target`` must not be loaded here, or None if it may be."""
    return _wrong_machine(target) or _missing_features(target)


def missing_device(target: Target) -> DlcompError | None:
    """Why ``target``'s device cannot be used here, or None. An artifact for it can still be opened."""
    if target.kind in ("cpu", "vta"):
        return None
    if target.kind == "cuda":
        found = detect.cuda_arch()
        if found is None:
            return ToolMissing(
                f"this artifact runs on a CUDA device ({target.arch}), and there is none here",
                hint="run it on a machine with an NVIDIA driver, or compile for `host`",
            )
        if _sm(found) < _sm(target.arch):
            return ToolMissing(
                f"this artifact is for {target.arch}; the CUDA device here is {found}",
                hint=f"compile for cuda:{found}",
            )
        return None
    return ToolMissing(f"no runtime for targets of kind {target.kind!r}", hint="compile for `host`")


def _sm(arch: str) -> int:
    digits = "".join(char for char in arch if char.isdigit())
    return int(digits or 0)


def _wrong_machine(target: Target) -> ArtifactError | None:
    here = detect.triple()
    if _platform(here) == _platform(target.triple):
        return None
    return ArtifactError(
        f"made for {target.triple}, but this machine is {here}",
        hint="open it there, or compile the model again with --target host",
    )


def _platform(triple: str) -> tuple[str, str]:
    """Architecture and system; what lies between and behind (vendor, C library) binds no generated code."""
    first, *rest = triple.split("-")
    tail = "-".join(rest)
    known = ("linux", "windows", "darwin", "macos", "none")
    system = next((name for name in known if name in tail), tail)
    return target_data.architecture(first) or first, "macos" if system == "darwin" else system


def _missing_features(target: Target) -> ArtifactError | None:
    missing = missing_features(target)
    if not missing:
        return None
    return ArtifactError(
        f"needs CPU features that this machine lacks: {', '.join(missing)}",
        hint=f"made for {target.cpu}; compile the model again with --target host",
    )


def _wrong_versions(manifest: Manifest) -> ArtifactError | None:
    here = native.versions()
    wanted = {key: manifest.versions.get(key, "") for key in _BINARY_INTERFACE}
    wrong = [key for key in _BINARY_INTERFACE if wanted[key] != here[key]]
    if not wrong:
        return None
    what = ", ".join(f"{key} {wanted[key] or '?'} (here {here[key] or 'none'})" for key in wrong)
    return ArtifactError(
        f"made with another binary interface: {what}",
        hint=f"{native.pip_line(wanted)}, or compile the model again",
    )
