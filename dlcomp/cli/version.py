"""``dlcomp --version``: dlcomp and the packages that decide what it does, without importing them."""

from __future__ import annotations

from importlib import metadata

PACKAGES = ("dlcomp", "apache-tvm", "apache-tvm-ffi", "apache-tvm-ffi-orcjit", "numpy", "onnx")


def versions() -> str:
    """One line a package."""
    return "\n".join(f"{name} {_version(name)}" for name in (*PACKAGES, "onnxruntime"))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
